"""Other activations in a network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from yoloquant.errors import YoloquantError

# Slope of YOLOv7-tiny's leaky ReLU.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "silu": nn.SiLU,
}
_REPLACED = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.SiLU, nn.Mish, nn.GELU, nn.ELU)


def swap_activations(network: nn.Module, name: str) -> int:
    """Put an activation in the place of all others, in place; gates (sigmoids) stay.

    Args:
        network: Network whose layers are modules.
        name: A key of `ACTIVATIONS`.

    Returns:
        How many places there are.

    Raises:
        YoloquantError: The name is unknown, or the network has no activation.
    """
    if name not in ACTIVATIONS:
        raise YoloquantError(f"there is no activation {name!r}: choose from {', '.join(ACTIVATIONS)}")
    places = [
        (module, child_name)
        for module in network.modules()
        for child_name, child in module.named_children()
        if isinstance(child, _REPLACED)
    ]
    if not places:
        raise YoloquantError("the network has no activation layer that could be swapped")
    for module, child_name in places:
        setattr(module, child_name, ACTIVATIONS[name]())
    return len(places)
