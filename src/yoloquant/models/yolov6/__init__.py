"""YOLOv6, releases 0.2 to 4.0: backbones, necks and the decoupled head, in training form and in deploy form."""
