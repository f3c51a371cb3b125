"""The steps of recipes as a page, from the classes themselves."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic.fields import FieldInfo

from yoloquant.algorithms.step import Step
from yoloquant.recipe.recipe import ALGORITHMS

_HEAD = """# Steps of recipes

A recipe's `algorithms` are steps in order: first those that prepare the float network, then `calibrate`, then those that choose
layers, then all others. This page is written by `python scripts/document_steps.py` from the classes of the steps.
"""


def step_table() -> str:
    """The page `docs/steps.md`."""
    return "\n".join([_HEAD, *(_section(name, step) for name, step in ALGORITHMS.items())])


def _section(name: str, step: type[Step]) -> str:
    text = inspect.cleandoc(step.__doc__ or "")
    summary, _, rest = text.partition("\nAttributes:\n")
    described = _attributes(rest)
    rows = [
        f"| `{key}` | {_default(field)} | {described.get(key, '')} |" for key, field in step.model_fields.items() if key != "name"
    ]
    table = ["| option | default | |", "|---|---|---|", *rows, ""] if rows else []
    stage = f"Stage: {step.stage.name.lower()}."
    return "\n".join([f"## {name}", "", summary.strip(), "", stage, "", *table])


def _attributes(text: str) -> dict[str, str]:
    """Name -> description of a docstring's attributes."""
    entries = re.split(r"^ {4}(?=\w+: )", text, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, _, words in (entry.partition(": ") for entry in entries if entry.strip())}


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{value}`"
