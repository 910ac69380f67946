"""`make demo`: the main job end to end on a real photo, and a page that shows it."""
