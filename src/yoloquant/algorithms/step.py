"""`Step`: one entry of a recipe, its options and what it does, and the registry of all steps.

A new step is a class in a file of its own in `algorithms/`, enrolled by `@step`; or in another package that names the module in
its entry points of the group `yoloquant.steps`.
"""

from __future__ import annotations

import pkgutil
from abc import abstractmethod
from enum import IntEnum
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, TypeVar

from yoloquant.environment import plug_ins
from yoloquant.spec import Section

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

S = TypeVar("S", bound="Step")


class Stage(IntEnum):
    """Where in a recipe a step may stand; steps of an earlier stage come first.

    Attributes:
        PREPARE: Changes the float network, before any quantizer is placed. A step that scales channels by what images show says
            so with `note_scaled`: the float network's features can then not be compared with the quantized network's.
        CALIBRATE: Gives every quantizer its range.
        PLACE: Changes the placement, after which quantizers are placed and calibrated again.
        REFINE: Changes ranges, weights and biases of a calibrated network.
    """

    PREPARE = 0
    CALIBRATE = 1
    PLACE = 2
    REFINE = 3


class Step(Section):
    """One step of a recipe: its fields are options.

    Attributes:
        name: Name in recipes; a class gives it one value, as `name: Literal["equalize"] = "equalize"`.
        stage: Stage of the recipe in which it may stand.
        reads_images: What it does depends on images, and not on weights alone.
    """

    name: str
    stage: ClassVar[Stage] = Stage.REFINE
    reads_images: ClassVar[bool] = True

    def compares_boxes(self) -> bool:
        """It compares boxes of the float and the quantized network one by one, which a head with suppression does not allow."""
        return False

    @abstractmethod
    def apply(self, job: Job) -> None:
        """Do the step's work on a job, in place."""


STEPS: dict[str, type[Step]] = {}
# Packages whose modules may enrol steps.
_HOMES = ("yoloquant.algorithms", "yoloquant.training.quantized")


def step(cls: type[S]) -> type[S]:
    """Enrol a step under the default of its field `name`."""
    STEPS[cls.model_fields["name"].default] = cls
    return cls


def all_steps() -> dict[str, type[Step]]:
    """Every step by its name, in the order in which recipes may have them; those of installed plug-ins, too."""
    for home in _HOMES:
        for module in pkgutil.walk_packages(import_module(home).__path__, f"{home}."):
            import_module(module.name)
    plug_ins("yoloquant.steps")
    return dict(sorted(STEPS.items(), key=lambda item: (item[1].stage, item[0])))
