"""File formats of pictures; no matplotlib here, so that options are checked before anything heavy is imported."""

from __future__ import annotations

from yoloquant.errors import YoloquantError

FORMATS = ("png", "pdf")


def check_format(name: str | None) -> None:
    """Refuse a format that pictures cannot be written in; none is fine.

    Raises:
        YoloquantError: it is not one of `FORMATS`.
    """
    if name is not None and name not in FORMATS:
        raise YoloquantError(f"plots are written as {' or '.join(FORMATS)}, not {name!r}")
