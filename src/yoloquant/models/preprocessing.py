"""How a network wants its images, where that is not RGB in 0..1 with padding on both sides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from yoloquant.errors import RecipeError
from yoloquant.models.architecture import Field, architecture


@dataclass(frozen=True)
class Preprocessing:
    """What an image becomes before a file sees it.

    Attributes:
        bgr: Whether channels are in the order blue, green, red.
        maximum: Value of white, 1 or 255.
        top_left: Whether the image is at the top left, with all padding on its right and below it.
    """

    bgr: bool = False
    maximum: float = 1.0
    top_left: bool = False

    @property
    def is_plain(self) -> bool:
        """Values need no conversion."""
        return not self.bgr and self.maximum == 1.0

    def convert(self, images: np.ndarray) -> np.ndarray:
        """Images `(N, 3, H, W)`, RGB, 0..1 -> as the file takes them."""
        if self.is_plain:
            return images
        ordered = images[:, ::-1] if self.bgr else images
        return np.ascontiguousarray(ordered * np.float32(self.maximum))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def words(self) -> str:
        """As `parse_preprocessing` reads it."""
        order, place = "bgr" if self.bgr else "rgb", "top-left" if self.top_left else "centered"
        return f"{order},0..{self.maximum:g},{place}"


PLAIN = Preprocessing()

_WORDS: dict[str, dict[str, Any]] = {
    "rgb": {"bgr": False},
    "bgr": {"bgr": True},
    "0..1": {"maximum": 1.0},
    "0..255": {"maximum": 255.0},
    "centered": {"top_left": False},
    "top-left": {"top_left": True},
}


def parse_preprocessing(text: str) -> Preprocessing:
    """Words separated by commas, as the command line takes them: `bgr,0..255,top-left`; what is left out is plain.

    Raises:
        RecipeError: A word is unknown.
    """
    values: dict[str, Any] = {}
    for word in text.split(","):
        if word.strip().lower() not in _WORDS:
            raise RecipeError(f"images cannot be {word.strip()!r}: choose from {', '.join(_WORDS)}, separated by commas")
        values.update(_WORDS[word.strip().lower()])
    return Preprocessing(**values)


@architecture("yoloquant.InputConversion")
class InputConversion(nn.Module):
    """The same conversion at the start of a network, so that networks of every kind take RGB in 0..1; files leave it out."""

    fields: ClassVar[dict[str, Field]] = {"bgr": Field((bool,)), "maximum": Field((int, float))}
    bgr: bool
    maximum: float

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W)`, RGB, 0..1 -> as the file takes them."""
        images = images.flip(1) if self.bgr else images
        return images * self.maximum
