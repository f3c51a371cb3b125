"""YOLOv5, releases 6.0 to 7.0: blocks, layered network, head, loss, and building from a model YAML."""
