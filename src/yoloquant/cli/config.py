"""Options from a file: `yoloquant --config FILE COMMAND ...`, for all commands alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from yoloquant.errors import RecipeError, nearest


def take_options(context: typer.Context, file: Path) -> None:
    """Make the values of a YAML file the defaults of the commands' options; what is typed wins.

    Args:
        context: Context of the application, before its command is parsed.
        file: `command: {option: value}`, names as they are typed, without their dashes.

    Raises:
        RecipeError: The file cannot be read, or names a command or an option that there is not.
    """
    from yoloquant.files.reading import parse_yaml, read_text

    given = parse_yaml(read_text(file, RecipeError), str(file), RecipeError)
    commands = context.command.commands  # type: ignore[attr-defined]
    defaults: dict[str, dict[str, Any]] = {}
    for name, options in _mapping(given, str(file)).items():
        if name not in commands:
            raise RecipeError(f"{file}: there is no command {name!r}{_hint(name, commands)}")
        names = {typed.lstrip("-"): each for each in commands[name].params for typed in each.opts if typed.startswith("-")}
        defaults[name] = {}
        for option, value in _mapping(options, f"{file}: {name}").items():
            if option not in names:
                raise RecipeError(f"{file}: {name} has no option {option!r}{_hint(option, names)}")
            defaults[name][names[option].name] = value
    context.default_map = defaults


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise RecipeError(f"{where} is no list of names and values: write options as `quantize: {{target: openvino}}`")
    return value


def _hint(name: str, known: Any) -> str:
    near = nearest(name, known)
    return f": did you mean {near!r}?" if near else f": choose from {', '.join(sorted(known))}"
