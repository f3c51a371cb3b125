"""Targets by name: those that are listed here, and those of installed plug-ins."""

from __future__ import annotations

from yoloquant.environment import plug_ins
from yoloquant.errors import RecipeError
from yoloquant.targets.ncnn import NCNN
from yoloquant.targets.npu_pow2 import NPU_POW2
from yoloquant.targets.npu_pow2_zero_point import NPU_POW2_ZERO_POINT
from yoloquant.targets.npu_shift import NPU_SHIFT
from yoloquant.targets.onnxruntime import ONNXRUNTIME
from yoloquant.targets.openvino import OPENVINO
from yoloquant.targets.reference import REFERENCE
from yoloquant.targets.rknn import RKNN
from yoloquant.targets.target import Target
from yoloquant.targets.tensorrt import TENSORRT
from yoloquant.targets.tflite import TFLITE

_ALL = (ONNXRUNTIME, OPENVINO, TENSORRT, NCNN, RKNN, TFLITE, NPU_POW2, NPU_POW2_ZERO_POINT, NPU_SHIFT, REFERENCE)
TARGETS: dict[str, Target] = {target.name: target for target in (*_ALL, *plug_ins("yoloquant.targets").values())}


def get_target(name: str) -> Target:
    """The target of a name.

    Raises:
        RecipeError: There is none; the message lists those there are.
    """
    if name not in TARGETS:
        raise RecipeError(f"there is no target {name!r}: choose one of {', '.join(TARGETS)}")
    return TARGETS[name]
