"""Measurements and the pages that show them: the demo, and `pgn-bench`."""
