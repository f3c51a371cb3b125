"""Networks of the YOLO families in this project's own modules, their heads, and the `Detector` that holds both.

What belongs here: a folder for each family with its building blocks, the raw-map networks made of them, heads, losses, builders
and what its files are recognised by, all described by the `Family` in its `family.py`; beside the folders what families share,
and the layouts of decoded outputs. What does not: reading files (`checkpoint/`), anything about quantization.
"""
