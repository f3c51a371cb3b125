"""One small detector of every family that is read, with random weights: `small_detector(name)` for each name in `SMALL_FAMILIES`.

Channels are few, the input is 128 pixels wide and high, BatchNorm statistics are settled on drawn images, and the last layers are
scaled so that scores and boxes spread as a trained network's do. `yolov10n` and `yolo26n` answer with their one-to-one branch,
`yolov10s` with the one-to-many branch.
"""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from yoloquant.checkpoint.read import read_detector
from yoloquant.data.synthetic import CLASS_NAMES, generate_image
from yoloquant.models.branches import ONE_TO_ONE, choose_branch
from yoloquant.models.detector import Detector
from yoloquant.models.registry import build_detector
from yoloquant.models.yolov5.blocks import C3, SPP, Concat, Conv, Focus

SIDE = 128


@dataclass(frozen=True)
class SmallFamily:
    """How a small detector is built.

    Attributes:
        family: what `Detector.family` says.
        build: -> a detector with fresh weights.
    """

    family: str
    build: Callable[[], Detector]


def _built(architecture: str, family: str, branch: str | None = None, **multiples: float) -> SmallFamily:
    return SmallFamily(
        family, lambda: choose_branch(build_detector(architecture, CLASS_NAMES, SIDE, seed=0, **multiples), branch)
    )


SMALL_FAMILIES: dict[str, SmallFamily] = {
    "yolov5n": _built("yolov5n", "yolov5", width=0.125, depth=0.2),
    "yolov6n": _built("yolov6n", "yolov6", width=0.125),
    "yolov6s": _built("yolov6s", "yolov6", width=0.2),
    "yolov7-tiny": _built("yolov7-tiny", "yolov7", width=0.25),
    "yolov8n": _built("yolov8n", "yolov8", width=0.125, depth=0.2),
    "yolov9t": _built("yolov9t", "yolov9", width=0.125, depth=0.33),
    "yolov10n": _built("yolov10n", "yolov10", ONE_TO_ONE, width=0.125, depth=0.2),
    "yolov10s": _built("yolov10s", "yolov10", width=0.25, depth=0.2),
    "yolo11n": _built("yolo11n", "yolo11", width=0.125, depth=0.2),
    "yolo12n": _built("yolo12n", "yolo12", width=0.125, depth=0.2),
    "yolo26n": _built("yolo26n", "yolo26", ONE_TO_ONE, width=0.125, depth=0.2),
    "yolox": SmallFamily("yolox", lambda: _yolox(0.125)),
}


def small_images(count: int = 4, side: int = SIDE, first: int = 0) -> Tensor:
    """Drawn images, uint8 `(count, 3, side, side)`, RGB; `first` is the index of the first one."""
    drawn = [generate_image(7, first + index, side).image for index in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def small_detector(name: str) -> Detector:
    """A copy of the small detector of a family, in evaluation mode; 8 classes, 128 by 128 pixels."""
    return copy.deepcopy(_settled(name))


@functools.cache
def _settled(name: str) -> Detector:
    detector = SMALL_FAMILIES[name].build()
    if name != "yolox":
        settle(detector.network)
    return detector


def settle(network: nn.Module, side: int = SIDE) -> nn.Module:
    """BatchNorm statistics of drawn images, and last layers whose outputs spread; returns the network, in evaluation mode.

    Rounding must not blow up on the way through a random network as it does not in a trained one. So kernels are half smooth, as
    images are, and no channel's variance is taken for less than half of its layer's mean, which would amplify what is next to
    constant.
    """
    images = small_images(48, side) / 255.0
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for conv in [module for module in network.modules() if isinstance(module, nn.Conv2d)]:
            smooth = conv.weight.mean((2, 3), keepdim=True) * conv.kernel_size[0]
            conv.weight.add_(smooth).mul_(0.5)
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        network.train()(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.running_var.clamp_(min=0.5 * norm.running_var.mean().item())
        _spread_last_layers(network.eval(), images)
    return network


def _spread_last_layers(network: nn.Module, images: Tensor) -> None:
    """Convolutions with a bias are a network's last ones before it is deployed."""
    generator = torch.Generator().manual_seed(1)
    last = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.bias is not None]
    spread: dict[nn.Conv2d, Tensor] = {}
    for conv in last:
        # Some families begin with zeros.
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        conv.bias.clamp_(min=-2.0)
    hooks = [conv.register_forward_hook(lambda conv, _, output: spread.update({conv: output.std()})) for conv in last]
    network(images)
    for hook in hooks:
        hook.remove()
    for conv, deviation in spread.items():
        conv.weight.mul_(1.5 / deviation)


class Yolox(nn.Module):
    """YOLOX (Ge et al. 2021) as its exporter writes it: 0..255 in, rows of distances, objectness and classes out."""

    def __init__(self, class_count: int, width: float):
        super().__init__()
        fine, middle, coarse, hidden = (int(full * width) for full in (256, 512, 1024, 256))
        self.stem = Focus(3, fine // 4, 3)
        self.dark2 = nn.Sequential(Conv(fine // 4, fine // 2, 3, 2), C3(fine // 2, fine // 2))
        self.dark3 = nn.Sequential(Conv(fine // 2, fine, 3, 2), C3(fine, fine))
        self.dark4 = nn.Sequential(Conv(fine, middle, 3, 2), C3(middle, middle))
        self.dark5 = nn.Sequential(Conv(middle, coarse, 3, 2), SPP(coarse, coarse), C3(coarse, coarse, shortcut=False))
        self.up, self.join = nn.Upsample(scale_factor=2), Concat(1)
        self.lateral_conv0, self.reduce_conv1 = Conv(coarse, middle), Conv(middle, fine)
        self.C3_p4, self.C3_p3 = C3(2 * middle, middle, shortcut=False), C3(2 * fine, fine, shortcut=False)
        self.bu_conv2, self.bu_conv1 = Conv(fine, fine, 3, 2), Conv(middle, middle, 3, 2)
        self.C3_n3, self.C3_n4 = C3(2 * fine, middle, shortcut=False), C3(2 * middle, coarse, shortcut=False)
        self.stems = nn.ModuleList(Conv(channels, hidden) for channels in (fine, middle, coarse))
        self.cls_convs, self.reg_convs = (nn.ModuleList(self._tower(hidden) for _ in range(3)) for _ in range(2))
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList(nn.Conv2d(hidden, values, 1) for _ in range(3)) for values in (class_count, 4, 1)
        )

    @staticmethod
    def _tower(channels: int) -> nn.Sequential:
        return nn.Sequential(Conv(channels, channels, 3), Conv(channels, channels, 3))

    def forward(self, images: Tensor) -> Tensor:
        rows = []
        for level, x in enumerate(self._pyramid(images)):
            x = self.stems[level](x)
            boxes = self.reg_convs[level](x)
            parts = [self.reg_preds[level](boxes), self.obj_preds[level](boxes).sigmoid()]
            parts.append(self.cls_preds[level](self.cls_convs[level](x)).sigmoid())
            rows.append(torch.cat(parts, 1).flatten(2))
        return torch.cat(rows, 2).permute(0, 2, 1)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        fine = self.dark3(self.dark2(self.stem(images)))
        middle = self.dark4(fine)
        coarse = self.lateral_conv0(self.dark5(middle))
        middle = self.reduce_conv1(self.C3_p4(self.join([self.up(coarse), middle])))
        fine = self.C3_p3(self.join([self.up(middle), fine]))
        middle = self.C3_n3(self.join([self.bu_conv2(fine), middle]))
        return [fine, middle, self.C3_n4(self.join([self.bu_conv1(middle), coarse]))]


def write_yolox(path: Path, width: float = 0.125) -> Path:
    """The ONNX file of a small YOLOX, operator set 11, as torch's older exporter writes it."""
    torch.manual_seed(0)
    network = Yolox(len(CLASS_NAMES), width)
    settle(network)
    with torch.no_grad():
        # The file takes 0..255.
        network.stem.conv.conv.weight.div_(255.0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, 3, SIDE, SIDE)
        torch.onnx.export(
            network, (example,), str(path), opset_version=11, dynamo=False, input_names=["images"], output_names=["output"]
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"names": str(dict(enumerate(CLASS_NAMES)))})
    onnx.save(model, str(path))
    return path


def _yolox(width: float) -> Detector:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_detector(write_yolox(Path(folder) / "yolox.onnx", width))
