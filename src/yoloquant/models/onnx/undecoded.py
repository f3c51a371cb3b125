"""Heads behind the maps of a file that an exporter left undecoded."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from yoloquant.models.architecture import Field
from yoloquant.models.detector import Head


class RegroupedMapsHead(Head):
    """A family's own head behind maps whose values stand in another order or in other tensors than it reads them."""

    fields: ClassVar[dict[str, Field]] = {"class_count": Field((int,))}

    def __init__(self, decoder: Head):
        """`decoder`: the head that reads the maps as `regrouped` orders them."""
        super().__init__()
        self.class_count = decoder.class_count
        self.decoder = decoder

    def regrouped(self, raw_maps: list[Tensor]) -> list[Tensor]:
        """The maps of the file as the decoder reads them."""
        raise NotImplementedError

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """Maps of the file, finest first -> decoded output."""
        out: Tensor = self.get_submodule("decoder")(self.regrouped(raw_maps))
        return out
