"""Algorithms: each takes a `QuantizedDetector` and makes it a better one.

What belongs here: calibration, corrections, reconstruction, analysis and search. What does not: arithmetic and observers
(`quant/`), placement (`targets/`), command-line output. Progress goes to a callable that the caller passes.
"""
