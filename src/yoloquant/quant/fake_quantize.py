"""`FakeQuantize`: the one module that stands on every quantized edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import torch
from torch import Tensor, nn

from yoloquant.errors import YoloquantError
from yoloquant.quant.arithmetic import fake_quantize, operator_constants
from yoloquant.quant.learned import TrainedQuantization, of_weight
from yoloquant.quant.observers import Observer, make_observer
from yoloquant.quant.rounding import LearnedRounding, SignRounding, SoftRounding
from yoloquant.spec import TensorSpec


class State(Enum):
    """What a `FakeQuantize` does with a tensor."""

    OBSERVE = "observe"
    QUANTIZE = "quantize"
    PASS = "pass"


class FakeQuantize(nn.Module):
    """Observes, quantizes, or passes a tensor through.

    Attributes:
        spec: Spec of the quantization.
        name: Layer name of the quantizer; exported tensors carry it.
        state: Mode: observe (and pass on), quantize, or pass.
        scale: Buffer, or parameter after `learn_scale`, of shape `()`, `(C,)` or `(C, G)`.
        zero_point: Zero point, an int32 buffer of the same shape.
        observer: Observer of values; None once its statistics are no longer needed.
        rounding: Learned rounding of a weight, which replaces rounding to nearest.
        trained: Scale and zero point while the whole network is trained; it replaces both.
        drop: Share of the values, 0..1, that pass unquantized, drawn at random, where gradients are computed (QDrop, Wei et al.
            2022).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, spec: TensorSpec, name: str) -> None:
        """Start observing, with scale 1."""
        super().__init__()
        self.spec = spec
        self.name = name
        self.state = State.OBSERVE
        self.observer: Observer | None = make_observer(spec)
        self.rounding: LearnedRounding | None = None
        self.trained: TrainedQuantization | None = None
        self.drop = 0.0
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @property
    def of_weight(self) -> bool:
        """It stands on a weight, not on an activation."""
        return of_weight(self.name)

    @property
    def axis(self) -> int:
        """Channel axis for the arithmetic."""
        return operator_constants(self.spec)[2]

    @property
    def group_size(self) -> int:
        """Group size for the arithmetic, 0 unless group-wise."""
        return operator_constants(self.spec)[3]

    def set_parameters(self, scale: Tensor, zero_point: Tensor) -> None:
        """Replace scale and zero point, shapes included."""
        if isinstance(self.scale, nn.Parameter):
            self.scale.data = scale.to(self.scale)
        else:
            self.scale = scale.to(self.scale)
        self.zero_point = zero_point.to(self.zero_point)

    def freeze_observer(self) -> None:
        """Take scale and zero point from the observer, drop its statistics, and quantize from now on."""
        assert self.observer is not None
        self.set_parameters(*self.observer.quantization_parameters())
        self.observer = None
        self.state = State.QUANTIZE

    def learn_scale(self) -> None:
        """Make the scale a parameter that training changes."""
        scale = self.scale.detach().clone()
        del self.scale
        self.scale = nn.Parameter(scale)

    def fix_scale(self) -> None:
        """Make a learned scale a constant again."""
        scale = self.scale.detach().clone()
        del self.scale
        self.register_buffer("scale", scale)

    def finish_training(self) -> None:
        """Take scale and zero point as training left them, as constants."""
        if self.trained is not None:
            scale, zero_point = self.trained.parameters_now()
            self.set_parameters(scale.detach(), zero_point.detach())
            self.trained = None

    def learn_rounding(
        self, weight: Tensor, method: str = "soft", rounded: Tensor | None = None, reach: float = 0.5
    ) -> LearnedRounding:
        """Let training choose how each value of a float weight is rounded.

        Args:
            weight: Weight of the float network.
            method: "soft" (AdaRound) or "sign" (SignRound).
            rounded: Same weight as left by an earlier learning, to start from.
            reach: Maximum distance that "sign" may move a weight before rounding, in steps of its scale.
        """
        parameters = (weight, self.scale, self.zero_point, *operator_constants(self.spec))
        self.rounding = SoftRounding(*parameters) if method == "soft" else SignRounding(*parameters, reach=reach)
        if rounded is not None:
            self.rounding.start_from(rounded)
        return self.rounding

    def forward(self, x: Tensor) -> Tensor:
        """`x`, quantized or not according to the state."""
        if self.state is State.QUANTIZE:
            quantized: Tensor
            if self.rounding is not None:
                quantized = self.rounding()
                return quantized
            if self.trained is not None:
                quantized = self.trained(x)
                return quantized
            quantized = fake_quantize(x, self.scale, self.zero_point, *operator_constants(self.spec), self.name)
            if self.drop and torch.is_grad_enabled():
                return torch.where(torch.rand_like(x) < self.drop, x, quantized)
            return quantized
        if self.state is State.OBSERVE:
            self.observe(x)
        return x

    def observe(self, x: Tensor) -> None:
        """Show a tensor to the observer.

        Raises:
            YoloquantError: It holds NaN or infinity; the message names the layer.
        """
        assert self.observer is not None
        try:
            self.observer.update(x)
        except YoloquantError as error:
            raise YoloquantError(
                f"the float network has NaN or infinity at {self.name.removesuffix('_quantizer')}: check the checkpoint, "
                "for example with `yoloquant evaluate`"
            ) from error

    def extra_repr(self) -> str:
        """The spec, for printed networks."""
        return f"{self.spec}, {self.state.value}"


@contextmanager
def passing(quantizers: Sequence[FakeQuantize]) -> Iterator[None]:
    """Let these quantizers pass values on, and put them back afterwards."""
    states = [quantizer.state for quantizer in quantizers]
    for quantizer in quantizers:
        quantizer.state = State.PASS
    try:
        yield
    finally:
        for quantizer, state in zip(quantizers, states, strict=True):
            quantizer.state = state
