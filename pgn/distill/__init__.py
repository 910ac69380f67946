"""Distillation: how a PGN learns a teacher's gradient (`pgn-train`)."""
