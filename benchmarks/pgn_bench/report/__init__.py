"""`pgn-bench report`: result files of any machines as one page, held against the paper."""
