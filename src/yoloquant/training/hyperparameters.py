"""The hyperparameters of a run: a family's own values, and what is changed of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from yoloquant.errors import RecipeError, nearest
from yoloquant.files.reading import parse_setting, reason_of
from yoloquant.models.family import USUAL_VALUES
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.registry import FAMILIES


def hyperparameters_for(family: str, overrides: Iterable[str] = (), **changes: Any) -> Hyperparameters:
    """The values that a family is trained with, changed as asked.

    Args:
        family: Family of the detector.
        overrides: `name=value`, later ones win.
        changes: Values by name; they win over overrides.

    Raises:
        RecipeError: A name is unknown or a value not allowed.
    """
    values: dict[str, Any] = dict(FAMILIES[family].hyperparameters if family in FAMILIES else USUAL_VALUES)
    values.update(parse_setting(override, "lr0=0.01") for override in overrides)
    values.update(changes)
    try:
        return Hyperparameters.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            near = nearest(name, Hyperparameters.model_fields)
            hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(Hyperparameters.model_fields)}"
            raise RecipeError(f"there is no hyperparameter {name!r}: {hint}") from error
        raise RecipeError(f"hyperparameter {name}: {reason_of(first)}") from error
