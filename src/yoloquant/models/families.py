"""Importing this registers the modules of all families."""

from yoloquant.models.yolov5 import blocks, network

__all__ = ["blocks", "network"]
