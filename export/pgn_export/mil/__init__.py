"""An interpreter of saved Core ML packages, for machines that are no Mac.

program = load("pgn-lite-256x256-fp32.mlpackage")
proxy = program.run({"generated": generated, "target": target})["proxy"]

It reads the .mlpackage from the disk, the specification and the weights' blobs, and evaluates the
ML program (MIL, the Model Intermediate Language of coremltools) with PyTorch on the CPU. Stored
types are honoured: every operation's result is rounded to its declared type. Operations on float16
compute in float32 and round once, at their end. So this verifies a conversion and its precision,
not Apple's kernels: those may sum in another order, or in float16 throughout.
"""

from pgn_export.mil.interpreter import Program, load

__all__ = ["Program", "load"]
