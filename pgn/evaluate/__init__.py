"""How good a PGN's gradient is (`pgn-eval`)."""
