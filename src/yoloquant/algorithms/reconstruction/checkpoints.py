"""Results of single regions on disk, so that an interrupted reconstruction goes on where it stopped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yoloquant.distributed import process_number
from yoloquant.files.outputs import PREFIX
from yoloquant.files.writing import replaced_whole
from yoloquant.quant.quantized_detector import QuantizedDetector


def is_state(path: Path) -> bool:
    """Whether a file is named as those that interrupted reconstructions and trainings keep."""
    named = re.fullmatch(r"([0-9a-f]{16}-\d{4,}|train-[0-9a-f]{16})\.safetensors", path.name)
    return named is not None or path.name.startswith(PREFIX)


def state_key(detector: QuantizedDetector, settings: BaseModel, images: Sequence[str]) -> str:
    """A digest of all that a reconstruction or a training starts from: weights, scales, placement, settings and images.

    Args:
        detector: Detector as it is before.
        settings: Settings of the recipe's step.
        images: What each image is, see `yoloquant.data.contents.contents_of`.
    """
    digest = hashlib.sha256(settings.model_dump_json().encode())
    digest.update(repr(images).encode())
    for name, tensor in sorted(detector.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class RegionCheckpoints:
    """A folder with one file for each region that is done.

    Attributes:
        folder: Folder for the results; created when the first one is saved.
        key: Key of everything that the results depend on; files with another key are not used.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Use a folder."""
        self.folder, self.key = folder, key

    def load(self, number: int) -> tuple[list[Tensor], float, float] | None:
        """State, loss before and loss after of a region; none if it has not been learned with this key."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                # Keys are numbered; safetensors gives them in no promised order.
                state = [file.get_tensor(str(index)) for index in range(int(metadata["count"]))]
            return state, float(metadata["before"]), float(metadata["after"])
        except (SafetensorError, OSError, ValueError, KeyError):
            # Damaged: the region is learned again.
            return None

    def save(self, number: int, state: Sequence[Tensor], before: float, after: float) -> None:
        """Keep a region's result, in the first process; a kill leaves the old file or the new one, never half."""
        if process_number() != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        # Copies, since a scale of no dimension and views cannot share memory in the file.
        tensors = {str(index): torch.clone(tensor.detach()).contiguous() for index, tensor in enumerate(state)}
        metadata = {"key": self.key, "count": str(len(tensors)), "before": repr(before), "after": repr(after)}
        with replaced_whole(self._path(number)) as partial:
            save_file(tensors, partial, metadata)

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.key[:16]}-{number:04}.safetensors"
