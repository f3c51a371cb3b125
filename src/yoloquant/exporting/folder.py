"""The folder that quantization leaves: everything to run, export again, or go on training.

`quantized.safetensors` holds the folded network's tensors with all scales; its metadata, the architecture and the placement.
Reading builds the architecture, captures and folds it again, puts quantizers where the placement says, and loads the
tensors. The original checkpoint is not needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from yoloquant.checkpoint.read import QUANTIZED
from yoloquant.checkpoint.safetensors_file import check_declared, detector_facts, detector_from_facts, read_safetensors
from yoloquant.errors import CheckpointError
from yoloquant.exporting.formats.registry import FORMATS
from yoloquant.files.reading import parsed
from yoloquant.graph.capture import captured
from yoloquant.graph.channel_constants import constants, put_back
from yoloquant.models.detector import Detector
from yoloquant.quant.fake_quantize import FakeQuantize, State
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_from
from yoloquant.targets.placement import QuantizationPlacement

FORMAT = "yoloquant.quantized.1"
WEIGHTS = QUANTIZED
MODEL = "model.onnx"
RECIPE = "recipe.yaml"
METRICS = "metrics.json"
# Bytes of it; tables of thousands of layers and tensors are long.
LARGEST_METRICS = 256 << 20
REPORT = "report.html"
# All that may stand in the folder; what else does is the user's.
FILES = (
    *(MODEL, WEIGHTS, RECIPE, METRICS, REPORT, "layers.csv", "classes.csv", "plots"),
    *(known.in_folder for known in FORMATS.values() if known.in_folder != MODEL),
)


def save_quantized(quantized: QuantizedDetector, detector: Detector, path: Path) -> None:
    """Write a quantized detector.

    Args:
        quantized: Calibrated detector.
        detector: The float detector it was made from; only its architecture is used.
        path: Path of the safetensors file.
    """
    facts = {**detector_facts(detector), "placement": quantized.placement.to_dict(), "channels": constants(quantized.network)}
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in quantized.network.state_dict().items()}
    save_file(tensors, str(path), {"format": FORMAT, "detector": json.dumps(facts)})


def check_quantized_folder(folder: Path) -> None:
    """Make sure that a folder is one that quantization left.

    Raises:
        CheckpointError: It is not.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} is no quantized folder: it has no {WEIGHTS}; make one with `yoloquant quantize`")


def load_quantized(path: Path, detector: Detector | None = None) -> QuantizedDetector:
    """Read a quantized folder, or its safetensors file.

    Args:
        path: Path of the folder or of its tensors.
        detector: Detector that was quantized, where its network is a module of the user's own, which files do not hold.

    Raises:
        CheckpointError: It is missing, damaged, of another format, or needs the detector.
    """
    if path.is_dir():
        check_quantized_folder(path)
        path = path / WEIGHTS
    tensors, metadata = read_safetensors(path, FORMAT)
    with parsed(path, CheckpointError, "its description and its tensors do not fit together"):
        facts = json.loads(metadata["detector"])
        if detector is None and facts.get("network", ...) is None:
            raise CheckpointError(
                f"{path} was made from a network of your own: name the float detector, as load(folder, network_of=detector)"
            )
        if detector is None:
            check_declared(facts, path)
            detector = detector_from_facts(facts)
        network = captured(detector)
        put_back(network, facts.get("channels", ()))
        quantized = quantized_from(detector, QuantizationPlacement.from_dict(facts["placement"]), network)
        _load(quantized, tensors)
        return quantized


def _load(quantized: QuantizedDetector, tensors: dict[str, torch.Tensor]) -> None:
    # Scales get their shapes from calibration, so the file decides them.
    for module in quantized.network.modules():
        if isinstance(module, FakeQuantize):
            module.set_parameters(tensors[f"{module.name}.scale"], tensors[f"{module.name}.zero_point"])
            module.observer = None
            module.state = State.QUANTIZE
    quantized.network.load_state_dict(tensors)
