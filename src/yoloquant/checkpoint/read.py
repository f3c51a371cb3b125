"""Read a model file as a `Detector`, whatever kind of file it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from yoloquant.checkpoint.onnx_checks import channels_refused
from yoloquant.checkpoint.read_onnx import read_onnx
from yoloquant.checkpoint.recognise import build_head, no_detector, recognised
from yoloquant.checkpoint.records import check_modules, describe_record, unwrapped
from yoloquant.checkpoint.safetensors_file import load_detector
from yoloquant.checkpoint.unpickler import read_pickle
from yoloquant.errors import CheckpointError
from yoloquant.files.reading import is_file, parsed
from yoloquant.models.architecture import CLASSES, build, canonical
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.models.record import Record, head_record, is_module, to_number

DEFAULT_INPUT_SIZE = 640
# The file that makes a folder a quantized one.
QUANTIZED = "quantized.safetensors"


def read_detector(path: str | Path, preprocessing: Preprocessing | None = None) -> Detector:
    """Read an official checkpoint (`.pt`), an ONNX file of an official exporter, or this project's float format (`.safetensors`).

    Args:
        path: Path of the file. Nothing in it is executed.
        preprocessing: Form in which an ONNX file takes images; by default that of its exporter. Not for checkpoints.

    Raises:
        CheckpointError: The file cannot be read, is no supported detector, or is a quantized folder.
    """
    path = Path(path)
    if is_file(path / QUANTIZED):
        raise CheckpointError(f"{path} is already quantized: give the float checkpoint that it was made from")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give the checkpoint file in it")
    with parsed(path, CheckpointError, "download or save it again"):
        if path.suffix == ".safetensors":
            return load_detector(path)
        if path.suffix == ".onnx":
            return read_onnx(path, preprocessing)
        if preprocessing is not None:
            raise CheckpointError(f"{path} is a checkpoint, whose images are known: only ONNX files take other ones")
        return detector_from_checkpoint(read_pickle(path), path)


def detector_from_checkpoint(content: Any, path: Path) -> Detector:
    """The detector in an unpickled checkpoint.

    Raises:
        CheckpointError: There is none.
    """
    record = _model_record(content, path)
    try:
        # The head first: a network for another task should be told so, not which of its layers is unknown.
        check_modules(record)
        last = head_record(record)
        if canonical(last.path) not in CLASSES:
            raise no_detector(last)
        network = build(describe_record(record))
        _check_channels(network)
        family, reader = recognised(record)
        head, strides = build_head(reader, record, network)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    names = _names(record.state.get("names"), head.class_count)
    # The network's own size is not in these files; the training options are, sometimes.
    size = _round_up(_training_size(content, record), max(strides))
    return Detector(network, head, names, strides, (size, size), family, source=_source(content))


def _check_channels(network: nn.Module) -> None:
    """Make sure that the first convolution reads colour images, or four pixels of them at once as Focus and ReOrg do.

    Raises:
        CheckpointError: It reads images of another number of channels.
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels not in (3, 12):
        count = first.in_channels // 4 if first.in_channels > 4 and first.in_channels % 4 == 0 else first.in_channels
        raise CheckpointError(channels_refused(count))


def _model_record(content: Any, path: Path) -> Record:
    if is_module(content):
        return unwrapped(content)
    if isinstance(content, dict):
        for key in ("ema", "model"):
            if is_module(content.get(key)):
                return unwrapped(content[key])
        values = list(content.values())
        if (values and all(isinstance(value, Tensor) for value in values)) or "state_dict" in content:
            raise CheckpointError(
                f"{path} holds only weights (a state dict), not the network they belong to: give the checkpoint that the "
                "training script saved"
            )
    raise CheckpointError(f"{path} is a torch file but holds no model")


def _names(value: Any, count: int) -> tuple[str, ...]:
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, list) or len(value) != count:
        return tuple(f"class {index}" for index in range(count))
    return tuple(str(name) for name in value)


def _training_size(content: Any, network: Record) -> int:
    """Side of the training images, where the file's training options hold it."""
    options = content.get("opt", content.get("train_args")) if isinstance(content, dict) else None
    if options is None:
        options = network.state.get("args")
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
