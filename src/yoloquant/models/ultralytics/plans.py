"""What stands where in the ultralytics families: tables only, after the model files of the package (release 8.4).

All of them have one shape: a stem, four stages that each halve the map, blocks on the coarsest map, a way to the finest level and
a way back. Channels are given in full; a size multiplies and caps them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Block(NamedTuple):
    """One block of a plan.

    Attributes:
        kind: Key of `block_builders.BLOCKS`.
        channels: Channels of its output, before the multiple.
        options: Options of its kind; `repeats` is multiplied by the size's depth, `hidden` by its width.
    """

    kind: str
    channels: int
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)


class Stage(NamedTuple):
    """A block that halves the map, and one that works on it."""

    down: Block
    body: Block


class Scale(NamedTuple):
    """A size of a family.

    Attributes:
        depth: Multiple of repeats.
        width: Multiple of channels.
        most: Maximum number of channels, before the multiple.
    """

    depth: float
    width: float
    most: int = 1 << 20


@dataclass(frozen=True)
class Plan:
    """A network up to its head.

    Attributes:
        family: Name of the family.
        scale: Scale of the size.
        stem: Channels of the first convolution.
        stages: Stages at strides 4, 8, 16, 32.
        top: Blocks on the coarsest map.
        up: Blocks at strides 16 and 8 on the way to the finest level.
        back: Blocks at strides 16 and 32 on the way back.
        bins: Distances of each side of a box; 1 if boxes are given directly.
        light: Whether class branches are depth-wise.
        end_to_end: Whether both branches are there twice, the second pair for final detections.
    """

    family: str
    scale: Scale
    stem: int
    stages: tuple[Stage, ...]
    top: tuple[Block, ...]
    up: tuple[Block, Block]
    back: tuple[Stage, Stage]
    bins: int = 16
    light: bool = True
    end_to_end: bool = False


def _repeated(kind: str, channels: int, repeats: int, **options: Any) -> Block:
    return Block(kind, channels, {"repeats": repeats, **options})


def _stages(kinds: tuple[str, ...], channels: tuple[int, ...], bodies: tuple[Block, ...]) -> tuple[Stage, ...]:
    return tuple(Stage(Block(kind, full), body) for kind, full, body in zip(kinds, channels, bodies, strict=True))


def _yolov8(scale: Scale) -> Plan:
    bodies = tuple(_repeated("C2f", full, repeats, shortcut=True) for full, repeats in ((128, 3), (256, 6), (512, 6), (1024, 3)))
    back = (Stage(Block("Conv", 256), _repeated("C2f", 512, 3)), Stage(Block("Conv", 512), _repeated("C2f", 1024, 3)))
    return Plan(
        "yolov8",
        scale,
        stem=64,
        stages=_stages(("Conv",) * 4, (128, 256, 512, 1024), bodies),
        top=(Block("SPPF", 1024),),
        up=(_repeated("C2f", 512, 3), _repeated("C2f", 256, 3)),
        back=back,
        light=False,
    )


def _elan(channels: int, hidden: int, repeats: int) -> Block:
    # Repeats of these blocks are no size's matter: every size has a table of its own.
    return Block("RepNCSPELAN4", channels, {"repeats": repeats, "hidden": hidden})


def _yolov9_small(scale: Scale) -> Plan:
    """Sizes t and s."""
    first = Block("ELAN1", 128, {"hidden": 128})
    levels = {full: _elan(full, full, 3) for full in (256, 384, 512)}
    return Plan(
        "yolov9",
        scale,
        stem=64,
        stages=_stages(("Conv", "AConv", "AConv", "AConv"), (128, 256, 384, 512), (first, *levels.values())),
        top=(Block("SPPELAN", 512),),
        up=(levels[384], levels[256]),
        back=(Stage(Block("AConv", 192), levels[384]), Stage(Block("AConv", 256), levels[512])),
        light=False,
    )


def _yolov9_m(scale: Scale) -> Plan:
    levels = {full: _elan(full, full, 1) for full in (128, 240, 360, 480)}
    return Plan(
        "yolov9",
        scale,
        stem=32,
        stages=_stages(("Conv", "AConv", "AConv", "AConv"), (64, 240, 360, 480), tuple(levels.values())),
        top=(Block("SPPELAN", 480),),
        up=(levels[360], levels[240]),
        back=(Stage(Block("AConv", 180), levels[360]), Stage(Block("AConv", 240), levels[480])),
        light=False,
    )


def _yolov9_c(scale: Scale) -> Plan:
    bodies = (_elan(256, 128, 1), _elan(512, 256, 1), _elan(512, 512, 1), _elan(512, 512, 1))
    return Plan(
        "yolov9",
        scale,
        stem=64,
        stages=_stages(("Conv", "ADown", "ADown", "ADown"), (128, 256, 512, 512), bodies),
        top=(Block("SPPELAN", 512),),
        up=(bodies[2], _elan(256, 256, 1)),
        back=(Stage(Block("ADown", 256), bodies[2]), Stage(Block("ADown", 512), bodies[2])),
        light=False,
    )


def _yolov10(scale: Scale, compact: frozenset[str], large: bool = False) -> Plan:
    """All sizes of YOLOv10.

    Args:
        scale: Scale of the size.
        compact: Places with compact inverted blocks: `stage16`, `stage32`, `up`, `middle`, `coarse`.
        large: Whether these have kernels of 7x7.
    """

    def block(place: str, full: int, repeats: int, shortcut: bool = False) -> Block:
        if place in compact:
            return _repeated("C2fCIB", full, repeats, large=large)
        return _repeated("C2f", full, repeats, shortcut=shortcut)

    plain = [_repeated("C2f", full, repeats, shortcut=True) for full, repeats in ((128, 3), (256, 6))]
    bodies = (*plain, block("stage16", 512, 6, shortcut=True), block("stage32", 1024, 3, shortcut=True))
    return Plan(
        "yolov10",
        scale,
        stem=64,
        stages=_stages(("Conv", "Conv", "SCDown", "SCDown"), (128, 256, 512, 1024), bodies),
        top=(Block("SPPF", 1024), Block("PSA", 1024)),
        up=(block("up", 512, 3), _repeated("C2f", 256, 3)),
        back=(
            Stage(Block("Conv", 256), block("middle", 512, 3)),
            Stage(Block("SCDown", 512), block("coarse", 1024, 3)),
        ),
        end_to_end=True,
    )


def _yolo11(scale: Scale, nested: bool) -> Plan:
    """`nested`: all blocks hold smaller blocks, as the sizes from m on have it."""
    bodies = (
        _repeated("C3k2", 256, 2, nested=nested, expansion=0.25),
        _repeated("C3k2", 512, 2, nested=nested, expansion=0.25),
        _repeated("C3k2", 512, 2, nested=True),
        _repeated("C3k2", 1024, 2, nested=True),
    )
    middle = _repeated("C3k2", 512, 2, nested=nested)
    return Plan(
        "yolo11",
        scale,
        stem=64,
        stages=_stages(("Conv",) * 4, (128, 256, 512, 1024), bodies),
        top=(Block("SPPF", 1024), _repeated("C2PSA", 1024, 2)),
        up=(middle, _repeated("C3k2", 256, 2, nested=nested)),
        back=(Stage(Block("Conv", 256), middle), Stage(Block("Conv", 512), _repeated("C3k2", 1024, 2, nested=True))),
    )


def _yolo12(scale: Scale, nested: bool, residual: bool) -> Plan:
    """`residual`: attention blocks of the sizes l and x, with a scaled residual addition."""
    base = _yolo11(scale, nested)
    more: dict[str, Any] = {"residual": True, "widening": 1.2} if residual else {}
    stages = [
        *base.stages[:2],
        Stage(Block("Conv", 512), _repeated("A2C2f", 512, 4, area=4, **more)),
        Stage(Block("Conv", 1024), _repeated("A2C2f", 1024, 4, area=1, **more)),
    ]
    plain = {full: _repeated("A2C2f", full, 2) for full in (256, 512)}
    back = (Stage(Block("Conv", 256), plain[512]), base.back[1])
    return replace(base, family="yolo12", stages=tuple(stages), top=(), up=(plain[512], plain[256]), back=back)


def _yolo26(scale: Scale, nested: bool) -> Plan:
    base = _yolo11(scale, nested)
    middle = _repeated("C3k2", 512, 2, nested=True)
    return replace(
        base,
        family="yolo26",
        top=(Block("SPPF", 1024, {"residual": True}), base.top[1]),
        up=(middle, _repeated("C3k2", 256, 2, nested=True)),
        back=(Stage(Block("Conv", 256), middle), Stage(Block("Conv", 512), _repeated("C3k2", 1024, 1, attentive=True))),
        bins=1,
        end_to_end=True,
    )


_YOLOV8 = {
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.5, 1024),
    "m": Scale(0.67, 0.75, 768),
    "l": Scale(1.0, 1.0, 512),
    "x": Scale(1.0, 1.25, 512),
}
_YOLO11 = {
    "n": Scale(0.5, 0.25, 1024),
    "s": Scale(0.5, 0.5, 1024),
    "m": Scale(0.5, 1.0, 512),
    "l": Scale(1.0, 1.0, 512),
    "x": Scale(1.0, 1.5, 512),
}
_COMPACT = frozenset({"stage32", "middle", "coarse"})

PLANS: dict[str, Plan] = {
    **{f"yolov8{size}": _yolov8(scale) for size, scale in _YOLOV8.items()},
    "yolov9t": _yolov9_small(Scale(1.0, 0.25)),
    "yolov9s": _yolov9_small(Scale(1.0, 0.5)),
    "yolov9m": _yolov9_m(Scale(1.0, 1.0)),
    "yolov9c": _yolov9_c(Scale(1.0, 1.0)),
    "yolov10n": _yolov10(_YOLOV8["n"], frozenset({"coarse"}), large=True),
    "yolov10s": _yolov10(_YOLOV8["s"], frozenset({"stage32", "coarse"}), large=True),
    "yolov10m": _yolov10(_YOLOV8["m"], _COMPACT),
    "yolov10b": _yolov10(Scale(0.67, 1.0, 512), _COMPACT | {"up"}),
    "yolov10l": _yolov10(_YOLOV8["l"], _COMPACT | {"up"}),
    "yolov10x": _yolov10(_YOLOV8["x"], _COMPACT | {"up", "stage16"}),
    **{f"yolo11{size}": _yolo11(scale, size in "mlx") for size, scale in _YOLO11.items()},
    **{f"yolo12{size}": _yolo12(scale, size in "mlx", size in "lx") for size, scale in _YOLO11.items()},
    **{f"yolo26{size}": _yolo26(scale, size in "mlx") for size, scale in _YOLO11.items()},
}
