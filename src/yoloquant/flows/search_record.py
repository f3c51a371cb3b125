"""`SearchRecord`: what a search has measured, in a file, so that an interrupted one goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from yoloquant.errors import YoloquantError
from yoloquant.files.reading import parse_json, read_text
from yoloquant.files.writing import write_text
from yoloquant.progress import Reporter
from yoloquant.results.search import LARGEST_RECORD, Search

RECORD_FORMAT = "yoloquant.search.1"


class Measured(NamedTuple):
    """mAP50-95, percent, with some layers changed."""

    layers: tuple[str, ...]
    map50_95: float


class SearchRecord:
    """What was measured, kept in a file for a search of the same model, data, recipe and runtime."""

    def __init__(self, path: Path | None, key: str, tell: Reporter) -> None:
        self.path, self.key = path, key
        self.values: dict[str, Measured] = {}
        if path is not None and path.is_file():
            self._read(path, tell)

    def _read(self, path: Path, tell: Reporter) -> None:
        try:
            content = parse_json(read_text(path, largest=LARGEST_RECORD), str(path))
        except YoloquantError:
            tell.note(f"{path} is no whole record of a search: everything is measured anew")
            return
        if not isinstance(content, dict) or content.get("format") != RECORD_FORMAT:
            raise YoloquantError(f"{path} would be replaced, and no search wrote it: move it away, or name another output")
        try:
            values = {str(name): Measured(tuple(map(str, layers)), float(value)) for name, layers, value in content["values"]}
        except (ValueError, KeyError, TypeError, OverflowError):
            tell.note(f"{path} is damaged: everything is measured anew")
            return
        if content.get("key") == self.key:
            self.values = values
        else:
            tell.note(f"{path} is of another model, data, recipe or version: everything is measured anew")

    def get(self, name: str, layers: Sequence[str]) -> float | None:
        """What was measured with these layers changed."""
        found = self.values.get(name)
        return found.map50_95 if found is not None and found.layers == tuple(layers) else None

    def add(self, name: str, layers: Sequence[str], value: float) -> None:
        """Keep a measurement."""
        self.values[name] = Measured(tuple(layers), value)
        self._write({})

    def end(self, found: Search) -> None:
        """Keep what the search found."""
        self._write({"found": found.to_dict()})

    def _write(self, more: dict[str, Any]) -> None:
        if self.path is not None:
            rows = [(kept, *measured) for kept, measured in self.values.items()]
            content = {"format": RECORD_FORMAT, "key": self.key, "values": rows, **more}
            write_text(self.path, json.dumps(content, indent=2))
