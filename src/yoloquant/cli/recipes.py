"""`yoloquant recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from yoloquant.cli.console import OUT
from yoloquant.cli.options import command
from yoloquant.cli.results import tell_next


@command(example="yoloquant recipes int8")
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the preset recipes, or show one."""
    from yoloquant.files.reading import read_text
    from yoloquant.recipe.recipe import load_recipe, preset_text, presets

    if name is not None:
        load_recipe(name)
        OUT.print(preset_text(name) if name in presets() else read_text(Path(name)), markup=False)
        tell_next("quantize", "model.pt", "--data", "data.yaml", "--recipe", name)
        return
    table = Table("recipe", "what it is for")
    for key, sentence in presets().items():
        table.add_row(key, sentence)
    OUT.print(table)
    tell_next("recipes", next(iter(presets())))
