"""A family: a small network of its own modules, whose boxes are plain distances on two levels."""

from typing import ClassVar

import torch
from torch import nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.class_outputs import renew_children
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.family import CheckpointReader, Family
from yoloquant.models.ultralytics.loss import YOLOv8Loss

STRIDES = (8, 16)


@architecture("yoloquant_plugin.family.Block")
class Block(nn.Module):
    """Convolution, BatchNorm, ReLU; halves the map."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.ReLU

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, x):
        """`(N, inputs, H, W)` -> `(N, outputs, H/2, W/2)`."""
        return self.act(self.norm(self.conv(x)))


@architecture("yoloquant_plugin.family.Detect")
class Detect(nn.Module):
    """Distances and classes of each level."""

    fields: ClassVar[dict[str, Field]] = {"nc": Field((int,))}
    boxes: nn.ModuleList
    classes: nn.ModuleList

    def __init__(self, nc, channels):
        super().__init__()
        self.nc, self.stride = nc, torch.tensor(STRIDES)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in channels)
        self.classes = nn.ModuleList(nn.Conv2d(width, nc, 1) for width in channels)

    def forward(self, maps):
        """Maps of the levels -> box map and class map of each."""
        return [layer(x) for pair, x in zip(zip(self.boxes, self.classes, strict=True), maps, strict=True) for layer in pair]


@architecture("yoloquant_plugin.family.Network")
class Network(nn.Module):
    """Two stages and the detection layer."""

    fine: nn.Sequential
    coarse: Block
    detect: Detect

    def __init__(self, nc, width):
        super().__init__()
        self.fine = nn.Sequential(Block(3, width), Block(width, width), Block(width, 2 * width))
        self.coarse, self.detect = Block(2 * width, 4 * width), Detect(nc, (2 * width, 4 * width))

    def forward(self, x):
        """Images `(N, 3, H, W)` -> raw maps."""
        fine = self.fine(x)
        return self.detect([fine, self.coarse(fine)])


def head_for(class_count, strides):
    """What decodes the maps."""
    return DistanceHead("columns_classes", class_count, list(strides), 1)


def build(request):
    """Random weights."""
    network = Network(len(request.names), max(int(16 * (request.width or 1.0)), 2)).eval()
    size = (request.input_size, request.input_size)
    return Detector(network, head_for(len(request.names), STRIDES).eval(), request.names, STRIDES, size, FAMILY.name)


def renew_classes(layer, kept):
    """Class outputs for other classes."""
    renew_children(layer.classes, kept)
    layer.nc = len(kept)


FAMILY = Family(
    name="pebble",
    head=DistanceHead,
    architectures=("pebble-s",),
    build=build,
    checkpoint=CheckpointReader(
        packages=("yoloquant_plugin.",),
        recognises=lambda network: network.path == "yoloquant_plugin.family.Network",
        heads={"yoloquant_plugin.family.Detect": lambda _record, layer, strides: head_for(layer.nc, strides)},
    ),
    loss=lambda request: YOLOv8Loss(request.detector.head, box=request.parameters.box, cls=request.parameters.cls),
    hyperparameters={"box": 5.0, "warmup_iterations": 10},
    class_layers={Detect: renew_classes},
)
