"""Other classes for YOLOv7's detection layers: convolutions and the factors behind them."""

from __future__ import annotations

from torch import nn

from yoloquant.models.class_outputs import Kept
from yoloquant.models.reparameterize import part
from yoloquant.models.yolov5.class_outputs import anchor_rows, renew_anchor_maps
from yoloquant.models.yolov7.blocks import ImplicitM
from yoloquant.models.yolov7.network import IDetect


def renew_idetect(layer: IDetect, kept: Kept) -> None:
    """Make the class outputs of YOLOv7's detection layer anew, those of its auxiliary heads, too, where it has them."""
    count = layer.nc
    for name in ("m", "m2"):
        if hasattr(layer, name):
            renew_anchor_maps(part(layer, name, nn.ModuleList), kept, count)
    for index in range(len(getattr(layer, "im", ()))):
        _renew_factor(part(layer, f"im.{index}", ImplicitM), kept, count)
    layer.nc = len(kept)


def _renew_factor(factor: ImplicitM, kept: Kept, count: int) -> None:
    """One factor for each channel; that of a fresh one is 1."""
    old = factor.implicit.detach()
    rows = anchor_rows(kept, count, old.shape[1])
    values = [1.0 if row is None else old[0, row, 0, 0].item() for row in rows]
    factor.implicit = nn.Parameter(old.new_tensor(values).view(1, -1, 1, 1))
