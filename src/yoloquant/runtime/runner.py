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
        name: Name of the runtime, for tables: "torch", "onnxruntime", "openvino".
        layout: Layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        branch: `one-to-one` or `one-to-many`, where the family has both.
        names: Class names.
        input_size: `(height, width)` in pixels that the model wants.
        batch_size: Only accepted batch size, or None if free.
        stride: Largest stride of the network, in pixels.
        free_size: Whether images of other sizes than `input_size` are accepted, too.
        preprocessing: Position of the image in the input; the runner converts values itself.
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
            ClosedRunnerError: The runner was closed.
        """
        ...

    def close(self) -> None:
        """Free the runtime's memory; the runner cannot be called afterwards."""
        ...
