"""What to type to do again what a flow did, and to go on: named in reports and metrics."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yoloquant.data.source import Source
from yoloquant.exporting.folder import RECIPE
from yoloquant.files.writing import named_path
from yoloquant.models.detector import Origin
from yoloquant.recipe.recipe import Recipe


def commands_of_quantize(
    origin: Origin | None, recipe: Recipe, output: str | Path | None, source: Source, limit: int | None = None
) -> tuple[str, ...]:
    """What to type to quantize again, to evaluate the folder, and to see what each layer costs; none for objects in memory.

    Args:
        origin: File that the detector was read from.
        recipe: Recipe that was followed.
        output: Folder that was written.
        source: Images and annotations.
        limit: Images that were evaluated.
    """
    if origin is None or output is None or source.data is None:
        return ()
    files = {name: None if file is None else Path(file) for name, file in asdict(source).items()}
    labelled = {name: files[name] for name in ("data", "annotations")}
    written = {"recipe": Path(output) / RECIPE, "output": f"{named_path(output)}-again"}
    branch = {"branch": origin.options.get("branch")}
    return (
        _command("quantize", origin.file, **files, **written, limit=limit, **origin.options),
        _command("evaluate", output, **labelled, limit=limit),
        _command("analyze", origin.file, **files, target=recipe.target, **branch),
    )


def commands_of_finetune(model: str | Path, data: str | Path, output: str | Path, teacher: Any) -> tuple[str, ...]:
    """What to type to evaluate the new folder, and to make it again but for settings, which its recipe names."""
    taught = {"teacher": Path(teacher)} if isinstance(teacher, str | Path) else {}
    again = _command("finetune", model, data=Path(data), **taught, output=f"{named_path(output)}-again")
    return again, _command("evaluate", output, data=Path(data))


def _command(name: str, subject: str | Path, **options: Any) -> str:
    shown = {option: named_path(value) if isinstance(value, Path) else value for option, value in options.items()}
    given = [(f"--{option}", str(value)) for option, value in shown.items() if value is not None]
    return shlex.join(["yoloquant", name, named_path(subject), *(word for pair in given for word in pair)])
