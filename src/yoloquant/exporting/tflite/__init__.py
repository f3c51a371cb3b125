"""An ONNX file with Q/DQ -> a `.tflite` file with the same integers, scales and zero points.

What belongs here: the flatbuffer (`model.py`), values in both layouts and precisions (`values.py`), one function for each kind of
operator (`operators.py`), and the walk over the graph (`convert.py`).
"""
