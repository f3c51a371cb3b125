"""The `Runner` protocol: images in, decoded output out, whatever runs in between."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from yoloquant.models.preprocessing import Preprocessing


class ClosedRunnerError(RuntimeError):
    """A runner was called after `close`: a mistake of the program that calls it, not a fault of the model."""

    def __init__(self) -> None:
        """The one message."""
        super().__init__("this runner is closed")


class Runner(Protocol):
    """A model loaded into a runtime.

    Attributes:
        name: of the runtime, for tables: "torch", "onnxruntime", "openvino".
        layout: of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        branch: `one-to-one` or `one-to-many`, where the family has both.
        names: class names.
        input_size: `(height, width)` in pixels that the model wants.
        batch_size: the only batch size it takes, or none if free.
        stride: largest of the network, in pixels.
        free_size: it takes images of other sizes than `input_size`, too.
        preprocessing: only where the image stands in the input matters to callers; the runner converts values itself.
    """

    name: str
    layout: str
    branch: str | None
    names: tuple[str, ...]
    input_size: tuple[int, int]
    batch_size: int | None
    stride: int
    free_size: bool
    preprocessing: Preprocessing

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Run images `(N, 3, H, W)`, float32, RGB, 0..1; returns the decoded output, float32.

        Raises:
            ClosedRunnerError: the runner was closed.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory; the runner cannot be called afterwards."""
        ...
