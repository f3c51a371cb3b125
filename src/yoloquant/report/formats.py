"""File formats of pictures; no matplotlib here, so that options are checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util

from yoloquant.errors import YoloquantError

FORMATS = ("png", "pdf")


def check_format(name: str | None) -> None:
    """Refuse a format of plots that is unknown, or that no installed package can draw; None is accepted.

    Raises:
        YoloquantError: The format is not one of `FORMATS`, or matplotlib is not installed.
    """
    if name is not None and name not in FORMATS:
        raise YoloquantError(f"plots are written as {' or '.join(FORMATS)}, not {name!r}")
    if name is not None and importlib.util.find_spec("matplotlib") is None:
        raise YoloquantError('plots need matplotlib, which is not installed: run `pip install "yoloquant[plots]"`')
