"""`--set key.path=value`: changes to a recipe's values before they are validated, and the keys that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from yoloquant.errors import RecipeError
from yoloquant.files.reading import parse_setting


def change(values: dict[str, Any], override: str) -> None:
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
        values["algorithms"] = steps = [long_form(step) for step in steps] if isinstance(steps, list) else []
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


def long_form(step: Any) -> Any:
    """`{name: calibrate, options}` for the short forms `calibrate` and `{calibrate: {options}}`."""
    if isinstance(step, str):
        return {"name": step}
    if isinstance(step, dict) and len(step) == 1 and "name" not in step:
        (name, options), *_ = step.items()
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"algorithm {name} takes its options by name, as {{images: 32}}, not {options!r}")
        return {"name": name, **(options or {})}
    return step


def complete(typed: str) -> list[str]:
    """Beginnings `key.path=` that continue what was typed of a `--set`, for completion in a shell."""
    from yoloquant.recipe.recipe import ALGORITHMS, Recipe

    paths = list(_paths("", Recipe.model_fields))
    for name, step in ALGORITHMS.items():
        paths += [f"algorithms.{name}.{key}" for key in step.model_fields if key != "name"]
    return [f"{path}=" for path in paths if path.startswith(typed)]


def _paths(prefix: str, fields: Mapping[str, FieldInfo]) -> Iterator[str]:
    """Paths of values, those of sections instead of the sections themselves."""
    for key, field in fields.items():
        section = field.default
        if isinstance(section, BaseModel):
            yield from _paths(f"{prefix}{key}.", type(section).model_fields)
        else:
            yield f"{prefix}{key}"
