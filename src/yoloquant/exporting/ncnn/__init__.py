"""An ONNX file with Q/DQ -> ncnn's `.param` and `.bin` with the same integers and scales.

What belongs here: the two files (`model.py`), pairs of Q/DQ as scales of layers (`pairs.py`), the walk over the graph
(`convert.py`), layers with weights (`layers.py`), and one function for each other kind of operator (`operators.py`).
"""
