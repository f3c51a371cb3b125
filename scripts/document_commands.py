"""Write docs/command-reference.md from the command line itself: python scripts/document_commands.py."""

import inspect
import types
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo

from yoloquant.cli import COMMANDS, app
from yoloquant.cli.groups import GROUP_OF

PAGE = Path(__file__).parent.parent / "docs" / "command-reference.md"
_HEAD = """# Command reference

Every command with every argument and option, as `yoloquant COMMAND --help` prints them. What each command is for stands in
[commands](commands.md). This page is written by `python scripts/document_commands.py` from the command line itself.
"""
_WORDS = {int: "NUMBER", float: "NUMBER", Path: "PATH", str: "TEXT"}


def reference() -> str:
    """The page."""
    known = {command.callback.__module__.rpartition(".")[2]: command for command in app.registered_commands if not command.hidden}
    parsed = typer.main.get_command(app).commands
    sections = []
    for module in COMMANDS:
        name = module.replace("_", "-")
        names = {each.name: [*each.opts, *each.secondary_opts] for each in parsed[name].params}
        sections.append(_section(name, known[module], names))
    return "\n".join([_HEAD, *sections])


def _section(name: str, command: CommandInfo, names: dict[str, list[str]]) -> str:
    """A command's text and tables; `names` are those that an argument or option is typed by."""
    groups: dict[str, list[str]] = {}
    hints = get_type_hints(command.callback, include_extras=True)
    for key, parameter in inspect.signature(command.callback).parameters.items():
        annotation, info = get_args(hints[key])
        kind = _not_none(annotation)
        group = "Arguments" if isinstance(info, ArgumentInfo) else GROUP_OF.get(key, "Options")
        groups.setdefault(group, []).append(_row(names[key], kind, info, parameter.default))
    parts = [f"## {name}", inspect.cleandoc(command.callback.__doc__), command.epilog or ""]
    for title, rows in groups.items():
        parts.append("\n".join([f"| {title} | value | default | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(names: list[str], kind: Any, info: Any, default: Any) -> str:
    value = "" if kind is bool else f"`{info.metavar or _word(kind)}`"
    cells = (", ".join(f"`{name}`" for name in names), value, _default(names, kind, default), info.help or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _not_none(kind: Any) -> Any:
    """The type of a value that is given, where none may be."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(each for each in get_args(kind) if each is not type(None))
    return kind


def _word(kind: Any) -> str:
    """What stands for a value: its choices, or a word for its type."""
    if get_origin(kind) is list:
        return f"{_word(get_args(kind)[0])} ..."
    return "|".join(each.value for each in kind) if issubclass(kind, Enum) else _WORDS[kind]


def _default(names: list[str], kind: Any, default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if kind is bool:
        off = [name for name in names if name.startswith("--no-")]
        return f"`{names[0]}`" if default else f"`{off[0]}`" if off and default is False else ""
    return "" if default is None else f"`{default.value if isinstance(default, Enum) else default}`"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
