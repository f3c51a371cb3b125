"""A small detector as ultralytics pickles it, without ultralytics: what `torch.save` writes of classes of those names."""

import sys
import types
from pathlib import Path

import pytest
import torch

from test_saved_states import Conv, Detect, DetectionModel, network

PLACES = {
    "ultralytics.nn.modules.conv": Conv,
    "ultralytics.nn.modules.head": Detect,
    "ultralytics.nn.tasks": DetectionModel,
}


def write_checkpoint(path: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name in PLACES:
            for level in range(1, name.count(".") + 1):
                parent = name.rsplit(".", level)[0]
                patch.setitem(sys.modules, parent, types.ModuleType(parent))
        for name, cls in PLACES.items():
            module = types.ModuleType(name)
            setattr(module, cls.__name__, cls)
            patch.setitem(sys.modules, name, module)
            patch.setattr(cls, "__module__", name)
        torch.save({"epoch": -1, "model": network(), "train_args": {"imgsz": 64}}, path)
    return path
