"""From a detector, float or quantized, to an ONNX file.

What belongs here: exporting through torch, lowering fake quantization to QuantizeLinear/DequantizeLinear, metadata, and checks
that need only the file. What does not: running files (`runtime/`), comparing outputs (`evaluation/`).
"""
