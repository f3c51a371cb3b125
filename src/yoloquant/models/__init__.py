"""Networks of the YOLO families in this project's own modules, their heads, and the `Detector` that holds both.

What belongs here: building blocks, the raw-map networks made of them, heads that decode raw maps, and the layouts of decoded
outputs. What does not: reading files (`checkpoint/`), anything about quantization.
"""
