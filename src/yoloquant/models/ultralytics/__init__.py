"""YOLOv8, v9, v10, 11, 12, 26 and v5u as the package ultralytics saves them: their blocks and the detection head.

Where a block computes what YOLOv5's does, that one stands for both.
"""
