"""What runners of exported files have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yoloquant.errors import CheckpointError, YoloquantError, first_line
from yoloquant.files.reading import parsed
from yoloquant.models.architecture import Description, build
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.runtime.runner import ClosedRunnerError


class FileRunner:
    """Base of runners of files: facts of the file, conversion of images, decoding of what the file leaves undecoded."""

    batch_size: int | None
    # TensorRT's engines are of one size; other runtimes take what the file leaves free.
    free_size: bool = False

    def __init__(self, path: Path | bytes, metadata: ModelMetadata, name: str) -> None:
        """Take over the file's facts.

        Args:
            path: Path of the file, or its bytes, for messages.
            metadata: Metadata of the file.
            name: Name of the runtime.

        Raises:
            CheckpointError: The metadata are damaged.
        """
        self.name = name
        self.layout, self.names, self.input_size = metadata.layout, metadata.names, metadata.input_size
        self.branch: str | None = metadata.extra.get("branch")
        self.stride = max(metadata.strides)
        with parsed("the model in memory" if isinstance(path, bytes) else path, CheckpointError, "export it again"):
            self.preprocessing = Preprocessing(**metadata.extra.get("preprocessing", {}))
            decoder = metadata.extra.get("decoder")
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
