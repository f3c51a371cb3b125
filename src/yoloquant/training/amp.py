"""Automatic mixed precision: fp16 with a scaled loss on CUDA, bf16 on CPUs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class Precision:
    """In what precision a step computes.

    Gradients of fp16 underflow, so the loss is scaled, and a step whose gradients overflowed is left out (Micikevicius et al.
    2018, "Mixed Precision Training", section 3.2). bf16 has the range of float32 and needs neither.
    """

    def __init__(self, device: torch.device, *, amp: bool) -> None:
        """Choose the type.

        Args:
            device: Device that trains.
            amp: Whether precisions are mixed; everything is float32 otherwise.
        """
        self._device, self._amp = device.type, amp
        self.scaler = torch.amp.GradScaler(self._device, enabled=amp and self._device == "cuda")

    def autocast(self) -> AbstractContextManager[object]:
        """The context that the forward pass runs in."""
        if not self._amp:
            return nullcontext()
        return torch.autocast(self._device, torch.float16 if self._device == "cuda" else torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer, network: nn.Module, largest_norm: float) -> None:
        """Clip the gradients and step."""
        self.scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), largest_norm)
        self.scaler.step(optimizer)
        self.scaler.update()


def in_float32(values: Iterable[Tensor]) -> list[Tensor]:
    """As losses need them, whatever mixed precision computed them in."""
    return [value.float() for value in values]
