"""Export of PGNs to ONNX, TFLite and Core ML, each proved equal to the network.

result = export(pgn.load("pgn-lite"), target="tflite", output="exports", size=256)
result.path, result.parity
"""

from pgn_export.exporting import TARGETS, ExportResult, export

__all__ = ["TARGETS", "ExportResult", "export"]
