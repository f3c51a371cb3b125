"""`Recipe`: everything that decides how a model is quantized, as one validated YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from yoloquant.algorithms.calibrate import Calibrate
from yoloquant.algorithms.step import Stage, Step, all_steps
from yoloquant.errors import CheckpointError, RecipeError, nearest
from yoloquant.evaluation.evaluator import EvaluationOptions
from yoloquant.exporting.folder import RECIPE
from yoloquant.files.reading import is_file, parse_yaml, parsed, read_text, reason_of
from yoloquant.quant.images import CalibrationSettings
from yoloquant.recipe.overrides import change, long_form
from yoloquant.spec import Section
from yoloquant.targets.layer_rules import LayerRules, Override, TensorSettings

ALGORITHMS = all_steps()
if TYPE_CHECKING:
    AnyStep = Step
else:
    AnyStep = Annotated[Union[tuple(ALGORITHMS.values())], Field(discriminator="name")]  # noqa: UP007


class Recipe(LayerRules):
    """How a model is quantized: the rules of its layers, and the steps.

    Attributes:
        algorithms: Steps in order: those that prepare the float network, `calibrate`, those that choose layers, all others.
        calibration: Images for the observers.
        evaluation: Thresholds.
    """

    algorithms: tuple[AnyStep, ...] = (Calibrate(),)
    calibration: CalibrationSettings = CalibrationSettings()
    evaluation: EvaluationOptions = EvaluationOptions()
    _read_from: str | None = PrivateAttr(default=None)
    _written_for: str | None = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        """Recipes are equal where their keys are, wherever they were read."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    __hash__ = LayerRules.__hash__

    def read_as(self, source: str, target: str | None) -> Recipe:
        """The same recipe, which knows that it was read from a preset or file, and which target that names."""
        self._read_from, self._written_for = source, target
        return self

    @property
    def read_from(self) -> str | None:
        """Preset or file that the recipe was read from; none of recipes made in memory."""
        return self._read_from

    @property
    def written_for(self) -> str | None:
        """Target that the preset or file names, where another one has taken its place."""
        return None if self._written_for == self.target else self._written_for

    @model_validator(mode="before")
    @classmethod
    def _short_algorithms(cls, values: Any) -> Any:
        """Let YAML say `- calibrate: {options}` for `- {name: calibrate, options}`."""
        if isinstance(values, dict) and isinstance(values.get("algorithms"), list):
            values = {**values, "algorithms": [long_form(step) for step in values["algorithms"]]}
        return values

    @model_validator(mode="after")
    def _in_order(self) -> Recipe:
        rest = list(dropwhile(lambda step: step.stage is Stage.PREPARE, self.algorithms))
        if not rest or rest[0].stage is not Stage.CALIBRATE:
            prepare = " or ".join(name for name, step in ALGORITHMS.items() if step.stage is Stage.PREPARE)
            raise ValueError(
                f"the first algorithm must be calibrate, or {prepare} and then calibrate, since all others need ranges"
            )
        for step in rest[1:]:
            if step.stage is Stage.PREPARE:
                raise ValueError(f"{step.name} must come before calibrate, since ranges are those of scaled layers")
            if step.stage is Stage.CALIBRATE:
                raise ValueError(f"{step.name} stands in the recipe twice: leave the second one out")
        again = [step.name for step in rest if step.stage is Stage.PLACE]
        if any(step.stage is not Stage.PLACE for step in rest[1 : 1 + len(again)]):
            raise ValueError(f"{' and '.join(again)} must come right after calibrate, since they start the others' work anew")
        return self

    def to_yaml(self) -> str:
        """As YAML that `load_recipe` reads back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=False, exclude_none=True), sort_keys=False)


def load_recipe(source: str | Path | None = None, overrides: Iterable[str] = (), **changes: Any) -> Recipe:
    """Read a recipe.

    Args:
        source: A preset's name, a YAML file, or None for the preset `int8`.
        overrides: `key.path=value` strings as the command line takes them, the value in YAML.
        changes: Top-level keys, applied last.

    Raises:
        RecipeError: With the unknown key and the nearest known one, or the value that is not allowed.
    """
    name = str(source or "int8")
    with parsed(f"recipe {name}", RecipeError):
        values = _read_yaml(source)
        written_for = values.get("target")
        for override in overrides:
            change(values, override)
        values.update(changes)
        recipe = _validated(values, name)
    return recipe.read_as(name, written_for)


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a quantized folder was made by.

    Raises:
        CheckpointError: The folder has none.
    """
    if not (folder / RECIPE).is_file():
        raise CheckpointError(
            f"{folder} has no {RECIPE}: take the whole folder that `yoloquant quantize` wrote, or quantize again"
        )
    return load_recipe(folder / RECIPE)


def resolve_recipe(recipe: str | Path | Recipe | None, target: str | None = None, default: str = "int8") -> Recipe:
    """A recipe as it is given, or as it is read, for a target.

    Args:
        recipe: Preset name, YAML file or `Recipe`; none for the default.
        target: Deployment target that takes the place of the recipe's own.
        default: Preset name.

    Raises:
        RecipeError: There is no such recipe, or it is not valid.
    """
    changes = {"target": target} if target else {}
    if not isinstance(recipe, Recipe):
        return load_recipe(recipe or default, **changes)
    return recipe.model_copy(update=changes)


def file_of(recipe: str | Path | Recipe | None) -> Path | None:
    """The file that a recipe is read from, or was; none for presets and recipes made in memory."""
    source = recipe.read_from if isinstance(recipe, Recipe) else recipe
    return None if source is None or str(source) in presets() else Path(source)


def presets() -> dict[str, str]:
    """Preset name -> what it is for, in a sentence."""
    folder = resources.files("yoloquant.recipe.presets")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        for entry in files
    }


def preset_text(name: str) -> str:
    """The YAML of a preset."""
    return (resources.files("yoloquant.recipe.presets") / f"{name}.yaml").read_text(encoding="utf-8")


def _read_yaml(source: str | Path | None) -> dict[str, Any]:
    name = str(source or "int8")
    if name in presets():
        text = preset_text(name)
    elif is_file(Path(name)):
        text = read_text(Path(name), RecipeError)
    else:
        near = nearest(name, presets(), 0.8)
        hint = f"did you mean {near!r}? Presets are" if near else "give a YAML file or one of the presets"
        raise RecipeError(f"there is no recipe {name!r}: {hint} {', '.join(presets())}")
    values = parse_yaml(text, f"recipe {name}", RecipeError) or {}
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {name} must be a mapping of keys to values")
    return values


def _validated(values: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"recipe {name}: unknown key {where!r}{_nearest(first['loc'])}") from error
        if first["type"] == "union_tag_invalid":
            known = ", ".join(ALGORITHMS)
            raise RecipeError(f"recipe {name}: {where} is no known algorithm: choose from {known}") from error
        raise RecipeError(": ".join((f"recipe {name}", *([where] if first["loc"] else []), reason_of(first)))) from error


def _nearest(location: tuple[int | str, ...]) -> str:
    """`, did you mean 'bits'?` for the key at a location."""
    sections: tuple[type[Section], ...] = (
        Recipe,
        TensorSettings,
        Override,
        CalibrationSettings,
        EvaluationOptions,
        *ALGORITHMS.values(),
    )
    near = nearest(str(location[-1]), sorted({field for section in sections for field in section.model_fields}))
    return f", did you mean {near!r}?" if near else f": known keys are {', '.join(Recipe.model_fields)}"
