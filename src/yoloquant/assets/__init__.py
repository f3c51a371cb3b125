"""Files shipped with the package: the demo's detector."""

from importlib import resources
from pathlib import Path


def demo_weights() -> Path:
    """The small YOLOv5 trained on the generated set by `scripts/train_demo.py`."""
    return Path(str(resources.files("yoloquant.assets") / "demo_yolov5.safetensors"))
