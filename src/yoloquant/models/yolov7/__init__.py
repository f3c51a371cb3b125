"""YOLOv7: its blocks and detection heads, in training form and in deploy form."""
