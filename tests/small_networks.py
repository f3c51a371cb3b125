"""Small detectors for tests: every kind of layer that matters for placement, random weights, seconds to run."""

import torch
from torch import Tensor, nn

from yoloquant.graph.capture import capture
from yoloquant.models.detector import Head
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers
from yoloquant.targets.target import Target


class ConvBlock(nn.Module):
    """Convolution, BatchNorm with settled statistics, activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, activation: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class SmallNetwork(nn.Module):
    """Stride 8, two levels: a residual addition, max pooling, upsampling and a concat."""

    def __init__(self, activation: type[nn.Module] = nn.SiLU, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = ConvBlock(3, 8, stride=2, activation=activation)
        self.down = ConvBlock(8, 16, stride=2, activation=activation)
        self.residual = ConvBlock(16, 16, activation=activation)
        self.deep = ConvBlock(16, 16, stride=2, activation=activation)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.ModuleList([nn.Conv2d(32, 9, 1), nn.Conv2d(16, 9, 1)])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_()
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        shallow = self.down(self.stem(x))
        shallow = shallow + self.residual(shallow)
        deep = self.pool(self.deep(shallow))
        return [self.head[0](torch.cat([self.up(deep), shallow], 1)), self.head[1](deep)]


class RowsHead(Head):
    """Maps as rows, without decoding."""

    layout = "rows_objectness"
    class_count = 4

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        return torch.cat([raw.flatten(2) for raw in raw_maps], 2).transpose(1, 2).sigmoid()


SIZE = (64, 96)


def images(count: int, seed: int = 1) -> Tensor:
    """uint8 `(count, 3, 64, 96)`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)


def quantized_detector(target: Target, network: nn.Module | None = None, **place: object) -> QuantizedDetector:
    """A small network captured and with fresh quantizers."""
    graph_module = capture(network or SmallNetwork(), SIZE, 8)
    placement = target.place(graph_module, **place)
    insert_quantizers(graph_module, placement)
    return QuantizedDetector(graph_module, placement, RowsHead(), ("a", "b", "c", "d"), (4, 8), SIZE, "small")
