"""What runners of ONNX files have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yoloquant.checkpoint.onnx_checks import onnx_parsed
from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import YoloquantError, first_line
from yoloquant.models.architecture import Description, build
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.runtime.runner import ClosedRunnerError


class OnnxRunner:
    """Base of runners of ONNX files: facts of the file, conversion of images, decoding of what the file leaves undecoded."""

    batch_size: int | None
    # TensorRT's engines are of one size; other runtimes take what the file leaves free.
    free_size: bool = False

    def __init__(self, path: Path | bytes, metadata: ModelMetadata | None, name: str) -> None:
        """Read the file's facts.

        Args:
            path: of the file, or its bytes.
            metadata: instead of the file's own.
            name: of the runtime.
        """
        facts = metadata or read_metadata(path)
        self.name = name
        self.layout, self.names, self.input_size = facts.layout, facts.names, facts.input_size
        self.branch: str | None = facts.extra.get("branch")
        self.stride = max(facts.strides)
        with onnx_parsed(path):
            self.preprocessing = Preprocessing(**facts.extra.get("preprocessing", {}))
            decoder = facts.extra.get("decoder")
            self._decoder = build(Description.from_dict(decoder)) if decoder else None

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs by name, for images as the file takes them."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Runner`."""
        raise NotImplementedError

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Runner`."""
        try:
            outputs = list(self.outputs(self.preprocessing.convert(images)).values())
            if self._decoder is None:
                return outputs[0].astype(np.float32, copy=False)
            with torch.inference_mode():
                decoded: Tensor = self._decoder([torch.from_numpy(output) for output in outputs])
                return decoded.numpy()
        except (YoloquantError, ClosedRunnerError):
            raise
        except Exception as error:
            # Runtimes raise classes of their own, without a common base, for files that load and cannot run.
            raise YoloquantError(f"{self.name} cannot run the model: {first_line(error)}") from error
