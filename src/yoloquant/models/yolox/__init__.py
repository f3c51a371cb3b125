"""YOLOX: read from the ONNX files of its exporter alone."""
