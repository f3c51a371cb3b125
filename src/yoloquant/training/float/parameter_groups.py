"""Which parameters the optimizer treats how."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Three groups, as YOLOv5 has them: biases, weights of norms (neither decays), all other weights (these decay).

    Other vectors and scalars, such as learned scales of quantizers, are kept with the norms.
    """
    norms = tuple(cls for name, cls in nn.__dict__.items() if isinstance(cls, type) and "Norm" in name)
    biases, plain, decayed = [], [], []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, norms) or parameter.ndim < 2:
                plain.append(parameter)
            else:
                decayed.append(parameter)
    return [
        {"params": biases, "weight_decay": 0.0, "role": "bias"},
        {"params": plain, "weight_decay": 0.0, "role": "norm"},
        {"params": decayed, "weight_decay": weight_decay, "role": "weight"},
    ]
