"""Fitting a generator on a device, lowered to plain graphs for inference.

Nothing on a phone differentiates: forward pass, PGN, closed-form gradient, the generator's own way
back and Adam are written out here as ordinary operations, which stock runtimes execute. Prior art:
MNN's training graphs; PockEngine, arXiv 2310.17752. A PGN (arXiv 2105.01957) leaves no loss network
to go back through.
"""

from pgn_export.fitting.graphs import Fitting, build
from pgn_export.fitting.names import tensor_name

__all__ = ["Fitting", "build", "tensor_name"]
