"""Are the gradients right in the runtimes themselves? Measured against autograd, in float64.

Layer by layer, then a small avatar's step, then where its steps lead. The reference knows nothing
of our rules: PyTorch goes back through the network itself. Graphs are run with other values than
they were traced with, so that a value that became a constant is seen.
"""

from pgn_export.fitting.conformance.measuring import Case, Finding, cases, convert, measure

__all__ = ["Case", "Finding", "cases", "convert", "measure"]
