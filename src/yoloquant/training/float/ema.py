"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class ExponentialMovingAverage:
    """Follows a network; averages are better detectors than the weights of any one step.

    The decay grows from 0 to `decay` over some `tau` updates, so that the first, poor weights are forgotten.

    Attributes:
        network: The average, in evaluation mode.
        updates: Number of updates of the average.
    """

    def __init__(self, network: nn.Module, decay: float = 0.9999, tau: float = 2000.0) -> None:
        """Copy the network."""
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.updates = 0
        self._decay, self._tau = decay, tau

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights and buffers."""
        self.updates += 1
        kept = self._decay * (1 - math.exp(-self.updates / self._tau))
        current = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name].detach(), 1 - kept)
            else:
                value.copy_(current[name])
