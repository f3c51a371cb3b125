"""Checks of Q/DQ files, this project's or not, against what a target's runtime really does with them.

What belongs here: reading a file's quantization, findings about it, and repairs of the graph. What does not: running files
(`runtime/`, `evaluation/`), and placing quantizers in torch (`targets/`).
"""
