"""YOLOv6's backbones, necks and head, and the network they make."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import part
from yoloquant.models.yolov6.blocks import BiFusion

_BACKBONES = ("EfficientRep", "EfficientRep6", "CSPBepBackbone", "CSPBepBackbone_P6")


@architecture(*(f"yolov6.models.efficientrep.{name}" for name in _BACKBONES))
class Backbone(nn.Module):
    """Stages at strides 4, 8, 16, 32 and, in the P6 models, 64."""

    fields: ClassVar[dict[str, Field]] = {"fuse_P2": Field((bool, int, type(None)), default=False)}
    stem: nn.Module
    ERBlock_2: nn.Module
    ERBlock_3: nn.Module
    ERBlock_4: nn.Module
    ERBlock_5: nn.Module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images `(N, 3, H, W)` -> maps, finest first; the one at stride 4 only where `fuse_P2`."""
        x = self.ERBlock_2(self.stem(x))
        maps = [x] if self.fuse_P2 else []
        for name in ("ERBlock_3", "ERBlock_4", "ERBlock_5", "ERBlock_6"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
                maps.append(x)
        return maps


@architecture("yolov6.models.efficientrep.Lite_EffiBackbone")
class LiteBackbone(nn.Module):
    """Stages of the lite models at strides 8, 16 and 32."""

    conv_0: nn.Module
    lite_effiblock_1: nn.Module
    lite_effiblock_2: nn.Module
    lite_effiblock_3: nn.Module
    lite_effiblock_4: nn.Module

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images `(N, 3, H, W)` -> maps, finest first."""
        fine = self.lite_effiblock_2(self.lite_effiblock_1(self.conv_0(x)))
        middle = self.lite_effiblock_3(fine)
        return [fine, middle, self.lite_effiblock_4(middle)]


_NECKS = (
    "RepPANNeck",
    "RepBiFPANNeck",
    "CSPRepPANNeck",
    "CSPRepBiFPANNeck",
    "RepPANNeck6",
    "RepBiFPANNeck6",
    "CSPRepPANNeck_P6",
    "CSPRepBiFPANNeck_P6",
)


@architecture(*(f"yolov6.models.reppan.{name}" for name in _NECKS))
class Neck(nn.Module):
    """From coarse to fine and back, over three levels or four.

    On the way to the finer level a map is enlarged and concatenated with the backbone's, or, in the BiFPAN necks, fused with two
    maps of the backbone.
    """

    reduce_layer0: nn.Module
    reduce_layer1: nn.Module
    Rep_p4: nn.Module
    Rep_p3: nn.Module

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps, finest first -> as many levels as there are, finest first."""
        six = hasattr(self, "Rep_p5")
        up_blocks = ("Rep_p5", "Rep_p4", "Rep_p3") if six else ("Rep_p4", "Rep_p3")
        down_blocks = ("Rep_n4", "Rep_n5", "Rep_n6") if six else ("Rep_n3", "Rep_n4")
        x, coarse_to_fine = maps[-1], maps[::-1]
        laterals = []
        for level, name in enumerate(up_blocks):
            lateral = getattr(self, f"reduce_layer{level}")(x)
            laterals.append(lateral)
            x = getattr(self, name)(self._joined(level, lateral, coarse_to_fine))
        outputs = [x]
        for name, lateral, level in zip(down_blocks, reversed(laterals), reversed(range(3 if six else 2)), strict=True):
            down = getattr(self, f"downsample{level if six else level + 1}")
            outputs.append(getattr(self, name)(torch.cat([down(outputs[-1]), lateral], 1)))
        return outputs

    def _joined(self, level: int, lateral: Tensor, coarse_to_fine: list[Tensor]) -> Tensor:
        fusion = getattr(self, f"Bifusion{level}", None)
        if isinstance(fusion, BiFusion):
            joined: Tensor = fusion([lateral, coarse_to_fine[level + 1], coarse_to_fine[level + 2]])
            return joined
        return torch.cat([getattr(self, f"upsample{level}")(lateral), coarse_to_fine[level + 1]], 1)


@architecture("yolov6.models.reppan.Lite_EffiNeck")
class LiteNeck(nn.Module):
    """The lite models' neck: three levels of the backbone, and a fourth made of the coarsest."""

    reduce_layer0: nn.Module
    reduce_layer1: nn.Module
    reduce_layer2: nn.Module
    upsample0: nn.Module
    upsample1: nn.Module
    Csp_p4: nn.Module
    Csp_p3: nn.Module
    Csp_n3: nn.Module
    Csp_n4: nn.Module
    downsample2: nn.Module
    downsample1: nn.Module
    p6_conv_1: nn.Module
    p6_conv_2: nn.Module

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps at strides 8, 16, 32 -> maps at strides 8, 16, 32, 64."""
        fine, middle, coarse = maps
        coarse, middle, fine = self.reduce_layer0(coarse), self.reduce_layer1(middle), self.reduce_layer2(fine)
        middle = self.Csp_p4(torch.cat([self.upsample0(coarse), middle], 1))
        first = self.Csp_p3(torch.cat([self.upsample1(middle), fine], 1))
        second = self.Csp_n3(torch.cat([self.downsample2(first), middle], 1))
        third = self.Csp_n4(torch.cat([self.downsample1(second), coarse], 1))
        return [first, second, third, self.p6_conv_1(coarse) + self.p6_conv_2(third)]


_FILES_OF_HEADS = ("effidehead", "heads.effidehead_fuseab", "heads.effidehead_distill_ns", "heads.effidehead_lite")
HEADS = tuple(f"yolov6.models.{name}.Detect" for name in _FILES_OF_HEADS)


@architecture(*HEADS)
class EfficientDetect(nn.Module):
    """A stem and a class branch and a box branch for each level; decoding is in `DistanceHead`.

    Heads trained with anchors beside (`_ab`) output their anchor-free branches (`_af`), and the distilled small models
    with plain distances (`_lrtb`); the other branches only train.
    """

    fields: ClassVar[dict[str, Field]] = {
        "nc": Field((int,)),
        "reg_max": Field((int,), 16),
        "use_dfl": Field((bool,), default=False),
    }
    nc: int
    stems: nn.ModuleList
    cls_convs: nn.ModuleList
    reg_convs: nn.ModuleList

    def branches(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Last convolutions for boxes and for classes."""
        boxes = next(name for name in ("reg_preds_lrtb", "reg_preds_af", "reg_preds") if hasattr(self, name))
        classes = "cls_preds_af" if hasattr(self, "cls_preds_af") else "cls_preds"
        return part(self, boxes, nn.ModuleList), part(self, classes, nn.ModuleList)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> `[box map (N, 4*bins, Hi, Wi), class map (N, nc, Hi, Wi), ...]`."""
        boxes, classes = self.branches()
        raw: list[Tensor] = []
        for level, x in enumerate(maps):
            x = self.stems[level](x)
            raw.append(boxes[level](self.reg_convs[level](x)))
            raw.append(classes[level](self.cls_convs[level](x)))
        return raw


@architecture("yolov6.models.yolo.Model", "yolov6.models.yolo_lite.Model")
class YOLOv6Network(nn.Module):
    """Backbone, neck and head; raw maps out."""

    backbone: nn.Module
    neck: nn.Module
    detect: EfficientDetect

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images `(N, 3, H, W)` -> raw head maps."""
        maps: list[Tensor] = self.detect(self.neck(self.backbone(x)))
        return maps
