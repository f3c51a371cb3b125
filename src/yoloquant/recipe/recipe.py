"""`Recipe`: everything that decides how a model is quantized, as one validated YAML file."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Container, Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from yoloquant.errors import RecipeError
from yoloquant.files.reading import parse_setting, parse_yaml, read_text, reason_of
from yoloquant.spec import Granularity, TensorSpec
from yoloquant.training.quantized.step import Train

# What overrides can name instead of layers: those that read the image, and those that answer.
PLACES = ("@first", "@last")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSettings(_Section):
    """Changes to the target's own `TensorSpec`; what is left out stays as the target has it.

    `bits: 32` leaves the tensor in float.
    """

    bits: Literal[2, 3, 4, 5, 6, 7, 8, 16, 32] | None = None
    signed: bool | None = None
    symmetric: bool | None = None
    granularity: Granularity | None = None
    group_size: Annotated[int, Field(ge=1)] | None = None
    power_of_two: bool | None = None
    narrow: bool | None = None
    observer: str | None = None
    options: dict[str, Any] | None = None

    def apply(self, spec: TensorSpec) -> TensorSpec | None:
        """The spec with these changes; none for float."""
        if self.bits == 32:
            return None
        changes = {key: value for key, value in self.model_dump().items() if value is not None}
        if changes.get("observer", spec.observer) != spec.observer:
            # Options belong to an observer; another one starts from its own defaults.
            changes.setdefault("options", {})
        if changes.get("granularity", spec.granularity) != "group":
            changes["group_size"] = 0
        return spec.with_changes(**changes)


class Override(_Section):
    """Settings for the layers that `match` and `op` (a kind) both select.

    `match` is a name, a pattern with `*`, `?` and `[0-5]`, or a place: `@first` (layers that read the image) or `@last` (those
    that answer). A name or a pattern must match a layer, unless the override is `optional`, as for recipes of several families.
    """

    match: str = "*"
    op: str | None = None
    optional: bool = False
    weights: TensorSettings = TensorSettings()
    activations: TensorSettings = TensorSettings()

    @field_validator("match")
    @classmethod
    def _known_place(cls, match: str) -> str:
        if match.startswith("@") and match not in PLACES:
            raise ValueError(f"there is no place {match!r}: choose {' or '.join(PLACES)}, or name layers")
        return match


class Equalize(_Section):
    """Before calibration, give the channels of layers in a row the same range, where ReLU, LeakyReLU or ReLU6 stands between."""

    name: Literal["equalize"] = "equalize"
    rounds: Annotated[int, Field(ge=1)] = 20


class Smooth(_Section):
    """Before calibration, move outlier channels of activations into the weights that read them (SmoothQuant).

    Attributes:
        alpha: share of the difference between channels that moves, 0..1.
        least_gain: where no layer before can take up the scale, a multiplication is put in only if the largest channel reaches so
            many times as far as the median one.
        images: calibration images that activations are watched on.
    """

    name: Literal["smooth"] = "smooth"
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    least_gain: Annotated[float, Field(ge=1.0)] = 4.0
    images: Annotated[int, Field(ge=1)] = 32


class WeightRanges(_Section):
    """Choose weight ranges by the squared error at each layer's output: cures outliers of re-parameterised weights."""

    name: Literal["weight_ranges"] = "weight_ranges"
    images: Annotated[int, Field(ge=1)] = 32


class Calibrate(_Section):
    """Run the calibration images and take every range from its observer."""

    name: Literal["calibrate"] = "calibrate"


class BiasCorrection(_Section):
    """Correct each layer's bias by the mean error that quantization causes at its output (Nagel et al. 2019, section 4.2).

    "exact" measures layer after layer; "fast" takes the errors of the weights times the mean inputs, in one pass.
    """

    name: Literal["bias_correction"] = "bias_correction"
    method: Literal["exact", "fast"] = "exact"
    images: Annotated[int, Field(ge=1)] = 32


class BatchNormReestimation(_Section):
    """Give each channel of each layer's answer the mean and the spread that it has in the float network."""

    name: Literal["batch_norm_reestimation"] = "batch_norm_reestimation"
    images: Annotated[int, Field(ge=1)] = 32


class KeepFloat(_Section):
    """Keep in float the few layers whose quantization changes boxes and scores most, found on calibration images.

    At most `layers`, the target's own number by default, and each must make at least the share `least_gain` of the whole error.
    """

    name: Literal["keep_float"] = "keep_float"
    layers: Annotated[int, Field(ge=0)] | None = None
    least_gain: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    images: Annotated[int, Field(ge=1)] = 12


class DetectionRanges(_Section):
    """Scale each activation's range by the factor that changes boxes and scores least; powers of two are halved or doubled."""

    name: Literal["detection_ranges"] = "detection_ranges"
    factors: tuple[Annotated[float, Field(gt=0.0)], ...] = (0.7, 0.85, 1.2, 1.4)
    images: Annotated[int, Field(ge=1)] = 8


class MixedPrecision(_Section):
    """Choose each layer's weight bits so that boxes and scores change least within a budget; exactly one budget is given.

    Attributes:
        bits: widths to choose from.
        average_bits: budget as the mean width of all weights.
        weight_bytes: budget as the size of all weights.
        bit_operations: budget as the sum, over an image's multiplications, of weight bits times activation bits.
        latency: budget as the time of all layers, as a share of what they take in float, both measured on this machine in the
            target's runtime; a layer is then either quantized, as the recipe says, or left in float, and `bits` is not asked.
        images: calibration images that layers are measured on.
    """

    name: Literal["mixed_precision"] = "mixed_precision"
    bits: tuple[Literal[2, 3, 4, 5, 6, 7, 8], ...] = (4, 8)
    average_bits: Annotated[float, Field(gt=0.0)] | None = None
    weight_bytes: Annotated[int, Field(gt=0)] | None = None
    bit_operations: Annotated[float, Field(gt=0.0)] | None = None
    latency: Annotated[float, Field(gt=0.0)] | None = None
    images: Annotated[int, Field(ge=1)] = 8

    @model_validator(mode="after")
    def _one_budget(self) -> MixedPrecision:
        budgets = (self.average_bits, self.weight_bytes, self.bit_operations, self.latency)
        if sum(budget is not None for budget in budgets) != 1:
            raise ValueError("mixed_precision needs exactly one budget: average_bits, weight_bytes, bit_operations or latency")
        return self


class Reconstruct(_Section):
    """Let regions of the network learn, without labels, to answer as the float network does.

    Attributes:
        unit: what a region is: "layer" (AdaRound), "region" of at most `region_layers` layers, "block" of the network's top
            level (BRECQ), or "network".
        region_layers: weighted layers of a "region", at most.
        loss: "mse", "fisher" (squared error weighted by squared gradients of the detection error), or "detection" (the error of
            boxes and scores itself, for the unit "network").
        rounding: how rounding of weights is learned: "sign" (SignRound), "soft" (AdaRound), or "nearest", not at all.
        scales: learn activation scales.
        biases: learn biases.
        images: calibration images that are used.
        iterations: for each region.
        batch_size: images in a step, at most; fewer where maps are large.
        drop: share of activations that pass unquantized in training (QDrop).
        sign_rate: how far "sign" can move each weight in all iterations together, in steps of its scale.
        reach: how far "sign" may move a weight from its float value, in steps; one half chooses between the two neighbours.
        rounding_rate: learning rate of "soft".
        scale_rate: of scales, as a share of each.
        bias_rate: of biases, as a share of their mean size.
        rounding_weight: of the rounding's indecision in the loss.
        beta: exponent of the indecision, at first and at last.
        warm_up: share of the iterations before indecision counts.
        cache: where values between regions are kept; "auto" takes the disk where memory is short.
    """

    name: Literal["reconstruct"] = "reconstruct"
    unit: Literal["layer", "region", "block", "network"] = "block"
    region_layers: Annotated[int, Field(ge=1)] = 5
    loss: Literal["mse", "fisher", "detection"] = "mse"
    rounding: Literal["sign", "soft", "nearest"] = "sign"
    scales: bool = True
    biases: bool = True
    images: Annotated[int, Field(ge=1)] = 128
    iterations: Annotated[int, Field(ge=1)] = 400
    batch_size: Annotated[int, Field(ge=1)] = 16
    drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    sign_rate: Annotated[float, Field(gt=0.0)] = 0.5
    reach: Annotated[float, Field(gt=0.0)] = 0.5
    rounding_rate: Annotated[float, Field(gt=0.0)] = 0.02
    scale_rate: Annotated[float, Field(gt=0.0)] = 0.001
    bias_rate: Annotated[float, Field(gt=0.0)] = 0.001
    rounding_weight: Annotated[float, Field(ge=0.0)] = 1.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    cache: Literal["auto", "memory", "disk"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Reconstruct:
        if self.loss == "detection" and self.unit != "network":
            raise ValueError("loss detection is of boxes and scores, which only unit network answers with")
        return self


Algorithm = Annotated[
    Equalize
    | Smooth
    | Calibrate
    | KeepFloat
    | MixedPrecision
    | WeightRanges
    | DetectionRanges
    | BiasCorrection
    | BatchNormReestimation
    | Reconstruct
    | Train,
    Field(discriminator="name"),
]
ALGORITHMS: tuple[type[BaseModel], ...] = get_args(get_args(Algorithm)[0])
ALGORITHM_NAMES = tuple(step.model_fields["name"].default for step in ALGORITHMS)

# These change the float network, before any quantizer is placed.
BEFORE_CALIBRATION = ("equalize", "smooth")

# These change the placement, after which the network is captured and calibrated again.
_STARTS_ANEW = ("keep_float", "mixed_precision")


class CalibrationSettings(_Section):
    """Which images observers see: `images` of them drawn with `seed`, in batches of `batch_size`."""

    images: Annotated[int, Field(ge=1)] = 128
    seed: int = 42
    batch_size: Annotated[int, Field(ge=1)] = 8


class EvaluationOptions(_Section):
    """Thresholds of evaluation; the defaults are those of YOLOv5's own validation for COCO."""

    confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.001
    iou: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    max_detections: Annotated[int, Field(ge=1)] = 300
    batch_size: Annotated[int, Field(ge=1)] = 8


class Recipe(_Section):
    """How a model is quantized.

    Attributes:
        target: deployment target, a key of `yoloquant.targets.registry.TARGETS`.
        weights: changes to the target's weight spec.
        activations: changes to its activation spec.
        overrides: changes for single layers, the last match wins key by key.
        ignore: names or patterns of layers that stay in float.
        input_layers: whether the convolutions that read the image stay in float or are quantized; the target's own choice by
            default.
        output_layers: whether the last convolutions stay in float or are quantized; the target's own choice by default.
        algorithms: steps in order; the first is `calibrate`; `equalize` and `smooth` may come before it.
        calibration: images for the observers.
        evaluation: thresholds.
    """

    target: str = "onnxruntime"
    weights: TensorSettings = TensorSettings()
    activations: TensorSettings = TensorSettings()
    overrides: tuple[Override, ...] = ()
    ignore: tuple[str, ...] = ()
    input_layers: Literal["float", "quantized"] | None = None
    output_layers: Literal["float", "quantized"] | None = None
    algorithms: tuple[Algorithm, ...] = (Calibrate(),)
    calibration: CalibrationSettings = CalibrationSettings()
    evaluation: EvaluationOptions = EvaluationOptions()

    @model_validator(mode="before")
    @classmethod
    def _short_algorithms(cls, values: Any) -> Any:
        """Let YAML say `- calibrate: {options}` for `- {name: calibrate, options}`."""
        if isinstance(values, dict) and isinstance(values.get("algorithms"), list):
            values = {**values, "algorithms": [_long_form(step) for step in values["algorithms"]]}
        return values

    @model_validator(mode="after")
    def _calibrate_first(self) -> Recipe:
        names = [step.name for step in self.algorithms]
        while names and names[0] in BEFORE_CALIBRATION:
            names = names[1:]
        if names[:1] != ["calibrate"]:
            raise ValueError(
                "the first algorithm must be calibrate, or equalize or smooth and then calibrate, since all others need ranges"
            )
        for late in BEFORE_CALIBRATION:
            if late in names:
                raise ValueError(f"{late} must come before calibrate, since ranges are those of scaled layers")
        again = [name for name in names if name in _STARTS_ANEW]
        if names[1 : 1 + len(again)] != again:
            raise ValueError(f"{' and '.join(again)} must come right after calibrate, since they start the others' work anew")
        return self

    def choose(self, layer: str, op: str, tensor: str, spec: TensorSpec, places: Container[str] = ()) -> TensorSpec | None:
        """The spec for one layer's weights or activations; none for float.

        Args:
            layer: layer name.
            op: kind of the layer.
            tensor: "weights" or "activations".
            spec: the target's own.
            places: "@first", "@last": where the layer is.
        """
        chosen: TensorSpec | None = getattr(self, tensor).apply(spec)
        for override in self.overrides:
            selected = override.match in places or fnmatch.fnmatchcase(layer, override.match)
            if selected and override.op in (None, op):
                chosen = getattr(override, tensor).apply(chosen or spec)
        return chosen

    def ignored(self, layers: Iterable[str]) -> frozenset[str]:
        """Those of `layers` that stay in float.

        Raises:
            RecipeError: a pattern matches no layer.
        """
        layers = list(layers)
        found: set[str] = set()
        for pattern in self.ignore:
            found.update(_matched(pattern, layers, "ignore"))
        return frozenset(found)

    def check_overrides(self, layers: Iterable[str]) -> None:
        """Make sure that each override's pattern matches one of `layers`.

        Raises:
            RecipeError: it matches none, and the override is not optional.
        """
        layers = list(layers)
        for override in self.overrides:
            if override.match not in PLACES and not override.optional:
                _matched(override.match, layers, "override")

    def to_yaml(self) -> str:
        """As YAML that `load_recipe` reads back to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=False, exclude_none=True), sort_keys=False)


def _matched(pattern: str, layers: list[str], use: str) -> list[str]:
    """The layers that a pattern matches, at least one."""
    matches = fnmatch.filter(layers, pattern)
    if not matches:
        near = difflib.get_close_matches(pattern.strip("*"), layers, 1, 0.0)
        raise RecipeError(f"{use} pattern {pattern!r} matches no layer: the nearest layer name is {near[0]!r}")
    return matches


def _long_form(step: Any) -> Any:
    if isinstance(step, str):
        return {"name": step}
    if isinstance(step, dict) and len(step) == 1 and "name" not in step:
        (name, options), *_ = step.items()
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"algorithm {name} takes its options by name, as {{images: 32}}, not {options!r}")
        return {"name": name, **(options or {})}
    return step


def load_recipe(source: str | Path | None = None, overrides: Iterable[str] = (), **changes: Any) -> Recipe:
    """Read a recipe.

    Args:
        source: a preset's name, a YAML file, or none for the preset `int8`.
        overrides: `key.path=value` strings as the command line takes them, the value in YAML.
        changes: top-level keys, applied last.

    Raises:
        RecipeError: with the unknown key and the nearest known one, or the value that is not allowed.
    """
    values = _read_yaml(source)
    for override in overrides:
        _set(values, override)
    values.update(changes)
    return _validated(values, str(source or "int8"))


def resolve_recipe(
    recipe: str | Path | Recipe | None, overrides: Iterable[str] = (), target: str | None = None, default: str = "int8"
) -> Recipe:
    """A recipe that is given as it is, or is read; `overrides` and `target` change what is read."""
    if isinstance(recipe, Recipe):
        return recipe
    return load_recipe(recipe or default, overrides, **({"target": target} if target else {}))


def replaced_target(recipe: str | Path | Recipe | None, target: str | None) -> str | None:
    """The target that a recipe is written for, where another one takes its place."""
    if recipe is None or target is None or isinstance(recipe, Recipe):
        return None
    written: str | None = _read_yaml(recipe).get("target")
    return None if written == target else written


def file_of(recipe: str | Path | Recipe | None) -> Path | None:
    """The file that a recipe is read from; none for presets and recipes in memory."""
    return None if recipe is None or isinstance(recipe, Recipe) or str(recipe) in presets() else Path(recipe)


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
    elif Path(name).is_file():
        text = read_text(Path(name), RecipeError)
    else:
        near = difflib.get_close_matches(name, presets(), 1, 0.8)
        hint = f"did you mean {near[0]!r}? Presets are" if near else "give a YAML file or one of the presets"
        raise RecipeError(f"there is no recipe {name!r}: {hint} {', '.join(presets())}")
    values = parse_yaml(text, f"recipe {name}", RecipeError) or {}
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {name} must be a mapping of keys to values")
    return values


def _set(values: dict[str, Any], override: str) -> None:
    """Apply one `key.path=value`."""
    path, value = parse_setting(override, "weights.bits=4")
    *parents, leaf = path.split(".")
    section = values
    if parents[:1] == ["algorithms"]:
        section, parents = _steps_of(values, parents[1:], override), []
    for key in parents:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {override}: {key} is a single value, it has no keys of its own")
    section[leaf] = value


def _steps_of(values: dict[str, Any], path: list[str], override: str) -> dict[str, Any]:
    """Options of the one step that `algorithms.NAME` means, ready to be changed in place."""
    steps = values.get("algorithms")
    try:
        values["algorithms"] = steps = [_long_form(step) for step in steps] if isinstance(steps, list) else []
    except ValueError as error:
        raise RecipeError(f"--set {override}: {error}") from error
    chosen = [step for step in steps if isinstance(step, dict) and path == [step.get("name")]]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        several = f"the recipe has {len(chosen)} steps {path[0]}"
        raise RecipeError(f"--set {override}: {several}: save it with `yoloquant recipes NAME`, and change the file")
    names = ", ".join(str(step.get("name")) for step in steps if isinstance(step, dict)) or "none"
    raise RecipeError(f"--set {override}: name one of the recipe's steps, as in algorithms.train.epochs=4; it has {names}")


def _validated(values: dict[str, Any], name: str) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"recipe {name}: unknown key {where!r}{_nearest(first['loc'])}") from error
        if first["type"] == "union_tag_invalid":
            known = ", ".join(ALGORITHM_NAMES)
            raise RecipeError(f"recipe {name}: {where} is no known algorithm: choose from {known}") from error
        raise RecipeError(": ".join((f"recipe {name}", *([where] if first["loc"] else []), reason_of(first)))) from error


def _nearest(location: tuple[int | str, ...]) -> str:
    """`, did you mean 'bits'?` for the key at a location."""
    sections: tuple[type[BaseModel], ...] = (
        Recipe,
        TensorSettings,
        Override,
        CalibrationSettings,
        EvaluationOptions,
        *ALGORITHMS,
    )
    known = sorted({field for section in sections for field in section.model_fields})
    near = difflib.get_close_matches(str(location[-1]), known, 1, 0.4)
    return f", did you mean {near[0]!r}?" if near else f": known keys are {', '.join(Recipe.model_fields)}"
