"""The head part of an ONNX graph, kept as it is in the file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.detector import Head
from yoloquant.models.output_formats import LAYOUTS


@architecture("yoloquant.OnnxHead")
class OnnxHead(Head):
    """Runs the head's own nodes in ONNX Runtime, and, where these leave raw maps, decodes them.

    Attributes:
        model: The head as an ONNX model of its own, base64 of its bytes; inputs are the raw maps.
        map_names: Its inputs, in the order of the network's outputs.
        input_name: Name of the input of images in the file.
        input_size: `(height, width)` that the file takes alone, pixels; none if both are free.
        decoder: Child that turns the file's outputs into boxes and scores; absent where the first output holds these.
    """

    fields: ClassVar[dict[str, Field]] = {
        "layout": Field((str,)),
        "class_count": Field((int,)),
        "model": Field((str,)),
        "map_names": Field((list, tuple)),
        "input_name": Field((str,)),
        "branch": Field((str, type(None)), None),
        "input_size": Field((list, tuple, type(None)), None),
    }
    model: str
    map_names: list[str]
    input_size: Sequence[int] | None

    def __init__(
        self,
        model: bytes,
        map_names: list[str],
        input_name: str,
        layout: str,
        class_count: int,
        decoder: Head | None = None,
        input_size: tuple[int, int] | None = None,
    ):
        """Keep the model's bytes; it is loaded when it first runs."""
        super().__init__()
        self.model = base64.b64encode(model).decode("ascii")
        self.map_names, self.input_name, self.input_size = map_names, input_name, input_size
        self.layout, self.class_count = layout, class_count
        if decoder is not None:
            self.decoder = decoder

    def model_bytes(self) -> bytes:
        """The head as an ONNX model."""
        return base64.b64decode(self.model)

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """Raw maps -> decoded output; not differentiable."""
        outputs = self.outputs([raw.detach().cpu().numpy() for raw in raw_maps])
        tensors = [torch.from_numpy(output).to(raw_maps[0].device) for output in outputs]
        return self.decoder(tensors) if hasattr(self, "decoder") else tensors[0]

    @property
    def suppresses(self) -> bool:
        """The file itself keeps only final detections."""
        return LAYOUTS[self.layout].suppressed

    @property
    def batch_size(self) -> int | None:
        """The only number of images that the file's head takes, or none if any."""
        fixed = self._loaded().get_inputs()[0].shape[0]
        return fixed if isinstance(fixed, int) else None

    @property
    def free_size(self) -> bool:
        """The file takes images of any height and width."""
        return self.input_size is None

    def outputs(self, maps: list[np.ndarray]) -> list[np.ndarray]:
        """All outputs of the file, float32, for any number of images."""
        session = self._loaded()
        step = self.batch_size or len(maps[0])
        names = [value.name for value in session.get_inputs()]
        parts = []
        for start in range(0, len(maps[0]), step):
            slices = {name: values[start : start + step] for name, values in zip(names, maps, strict=True)}
            parts.append(session.run(None, slices))
        return [np.concatenate(answers).astype(np.float32) for answers in zip(*parts, strict=True)]

    def _loaded(self) -> Any:
        if "_session" not in self.__dict__:
            import onnxruntime

            self.__dict__["_session"] = onnxruntime.InferenceSession(self.model_bytes(), providers=["CPUExecutionProvider"])
        return self.__dict__["_session"]

    def __getstate__(self) -> dict[str, Any]:
        """Copies load their own session."""
        return {key: value for key, value in self.__dict__.items() if key != "_session"}
