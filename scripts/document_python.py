"""Write docs/python-reference.md from the names of the Python API: python scripts/document_python.py."""

import inspect
from pathlib import Path

import yoloquant

PAGE = Path(__file__).parent.parent / "docs" / "python-reference.md"
_HEAD = """# Python reference

Every name that `import yoloquant` offers, with its docstring; [Python](python.md) shows how they are used together. This page is
written by `python scripts/document_python.py`, and filled from the source when the site is built.
"""


def python_reference() -> str:
    """The page: an instruction of mkdocstrings for each name."""
    values = {name: getattr(yoloquant, name) for name in yoloquant.__all__}
    groups = {
        "Functions": [value for value in values.values() if inspect.isfunction(value)],
        "Classes": [value for value in values.values() if inspect.isclass(value) and not issubclass(value, Exception)],
        "Errors": [value for value in values.values() if inspect.isclass(value) and issubclass(value, Exception)],
    }
    parts = [_HEAD]
    for title, members in groups.items():
        parts += [f"## {title}\n", *(f"::: {value.__module__}.{value.__name__}\n" for value in members)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(python_reference(), encoding="utf-8")
