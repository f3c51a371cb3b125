"""Read a model file as a `Detector`, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

import yoloquant.models.families  # noqa: F401  (registers the modules that files may hold)
from yoloquant.checkpoint.records import describe_record, is_module
from yoloquant.checkpoint.safetensors_file import load_detector
from yoloquant.checkpoint.unpickler import Record, read_pickle, to_number
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import build
from yoloquant.models.detector import Detector
from yoloquant.models.yolov5.network import AnchorHead, Detect

DEFAULT_INPUT_SIZE = 640


def read_detector(path: str | Path) -> Detector:
    """Read an official checkpoint (`.pt`) or a float detector of this project (`.safetensors`).

    Args:
        path: of the file. Nothing in it is executed.

    Raises:
        CheckpointError: the file cannot be read, or is no supported detector.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return load_detector(path)
    return detector_from_checkpoint(read_pickle(path), path)


def detector_from_checkpoint(content: Any, path: Path) -> Detector:
    """The detector in an unpickled checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    record = _model_record(content, path)
    network = build(describe_record(record))
    assert isinstance(network, nn.Module)
    state = record.state
    detect_record = _last_layer(state, path)
    detect = network.model[-1]  # type: ignore[index]
    assert isinstance(detect, Detect)
    strides = _strides(detect_record.state.get("stride", state.get("stride")), path)
    anchors = _anchors(detect_record, strides, path)
    head = AnchorHead(detect.nc, list(strides), anchors)
    names = _names(state.get("names"), detect.nc)
    # The network's own size is not in these files; the training options are, sometimes.
    size = _round_up(_training_size(content), max(strides))
    return Detector(network, head.eval(), names, strides, (size, size), "yolov5", _source(content))


def _model_record(content: Any, path: Path) -> Record:
    if is_module(content):
        return content
    if isinstance(content, dict):
        for key in ("ema", "model"):
            if is_module(content.get(key)):
                return content[key]
        values = list(content.values())
        if (values and all(isinstance(value, Tensor) for value in values)) or "state_dict" in content:
            raise CheckpointError(
                f"{path} holds only weights (a state dict), not the network they belong to: give the checkpoint that the "
                "training script saved"
            )
    raise CheckpointError(f"{path} is a torch file but holds no model")


def _last_layer(state: dict[str, Any], path: Path) -> Record:
    layers = state["_modules"].get("model")
    if not is_module(layers) or not layers.state["_modules"]:
        raise CheckpointError(f"{path} holds a network without layers: the checkpoint is damaged")
    last = list(layers.state["_modules"].values())[-1]
    if last.path != "models.yolo.Detect":
        raise CheckpointError(f"{path} ends in a {last.path}, not in a detection head: only detectors are supported")
    return last


def _strides(value: Any, path: Path) -> tuple[int, ...]:
    if not isinstance(value, Tensor) or value.numel() == 0:
        raise CheckpointError(f"{path} does not tell the strides of its detection head: the checkpoint is damaged")
    return tuple(round(stride) for stride in value.flatten().tolist())


def _anchors(detect: Record, strides: tuple[int, ...], path: Path) -> list[list[list[float]]]:
    """Anchors in pixels; files hold them in units of the stride."""
    anchors = detect.state.get("_buffers", {}).get("anchors")
    if not isinstance(anchors, Tensor) or anchors.shape[0] != len(strides):
        raise CheckpointError(f"{path} lacks the anchors of its detection head: the checkpoint is damaged")
    return [(level.float() * stride).view(-1, 2).tolist() for level, stride in zip(anchors, strides, strict=True)]


def _names(value: Any, count: int) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, list) or len(value) != count:
        return tuple(f"class {index}" for index in range(count))
    return tuple(str(name) for name in value)


def _training_size(content: Any) -> int:
    options = content.get("opt") if isinstance(content, dict) else None
    if isinstance(options, Record):
        options = options.state
    size = options.get("imgsz", options.get("img_size")) if isinstance(options, dict) else None
    size = size[-1] if isinstance(size, list) and size else size
    return size if isinstance(size, int) and 0 < size <= 8192 else DEFAULT_INPUT_SIZE


def _round_up(size: int, stride: int) -> int:
    return -(-size // stride) * stride


def _source(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    facts = {key: to_number(content.get(key)) for key in ("epoch", "date", "best_fitness")}
    return {key: value for key, value in facts.items() if isinstance(value, str | int | float)}
