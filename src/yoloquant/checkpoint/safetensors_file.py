"""This project's own float format: weights as safetensors, everything else as JSON in its metadata."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import yoloquant.models.registry  # noqa: F401  (registers the modules that files may hold)
from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parsed
from yoloquant.models.architecture import Description, build, describe
from yoloquant.models.detector import Detector, Head
from yoloquant.models.preprocessing import Preprocessing

FORMAT = "yoloquant.detector.1"

# Family of detectors whose network is a user's own module, which no file of ours can hold.
CUSTOM = "custom"


def detector_facts(detector: Detector) -> dict[str, Any]:
    """Everything about a detector but its weights, as JSON values; network and head are null if they are a user's own."""
    own = detector.family == CUSTOM
    return {
        "network": None if own else describe(detector.network).to_dict(),
        "head": None if own else describe(detector.head).to_dict(),
        "names": list(detector.names),
        "strides": list(detector.strides),
        "input_size": list(detector.input_size),
        "family": detector.family,
        "preprocessing": detector.preprocessing.to_dict(),
        "source": detector.source,
    }


def detector_from_facts(facts: dict[str, Any]) -> Detector:
    """The inverse of `detector_facts`; weights are not initialised."""
    head = build(Description.from_dict(facts["head"]))
    assert isinstance(head, Head)
    return Detector(
        build(Description.from_dict(facts["network"])),
        head,
        tuple(facts["names"]),
        tuple(facts["strides"]),
        (facts["input_size"][0], facts["input_size"][1]),
        facts["family"],
        Preprocessing(**facts.get("preprocessing", {})),
        dict(facts["source"]),
    )


def save_detector(detector: Detector, path: Path, *, half: bool = False) -> None:
    """Write a float detector.

    Args:
        detector: Detector of registered modules.
        path: Path of the file.
        half: Whether weights are stored in half precision.
    """
    tensors = {name: tensor.contiguous() for name, tensor in detector.network.state_dict().items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(tensors, str(path), {"format": FORMAT, "detector": json.dumps(detector_facts(detector))})


def read_safetensors(path: Path, expected_format: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file of this project.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    with parsed(path, CheckpointError, "copy or make it again"):
        try:
            with safe_open(str(path), "pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file, or is damaged") from error
    if metadata.get("format") != expected_format:
        raise CheckpointError(f"{path} is a safetensors file, but not one of the kind {expected_format} that yoloquant writes")
    return tensors, metadata


def load_detector(path: Path) -> Detector:
    """Read what `save_detector` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, or of another format.
    """
    tensors, metadata = read_safetensors(path, FORMAT)
    with parsed(path, CheckpointError, "its description and its weights do not fit together"):
        facts = json.loads(metadata["detector"])
        check_declared(facts, path)
        detector = detector_from_facts(facts)
        own = detector.network.state_dict()
        detector.network.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
        detector.network.eval()
        return detector


def check_declared(facts: dict[str, Any], path: Path) -> None:
    """Make sure that a description asks for no more memory than the file's own tensors come near.

    Raises:
        CheckpointError: It does.
    """
    waiting = [facts["network"], facts["head"]]
    numbers = 0
    while waiting:
        module = waiting.pop()
        if module is not None:
            numbers += sum(math.prod(shape) for shape, *_ in module["tensors"].values())
            waiting += module["children"].values()
    # Constants of the head are not in the file.
    if numbers > (16 << 20) + 8 * path.stat().st_size:
        raise CheckpointError(f"{path} is damaged: its description asks for far more tensors than it holds")
