"""In which order tensors of images lie in memory while a network trains."""

from __future__ import annotations

import torch
from torch import nn


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, which is faster, wherever it works.

    On CPUs oneDNN 3.12 (torch 2.13) writes beyond its buffers when it computes the weight gradient of a strided 1x1 convolution
    in that order; YOLOv6's blocks in training form have such convolutions.
    """
    strided = any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1) for module in network.modules()
    )
    return torch.contiguous_format if strided and device.type == "cpu" else torch.channels_last
