"""Quantize YOLO detectors for integer runtimes, and see what it costs and where."""
