"""How long steps report their progress: a small protocol, and the silent form that the Python API uses by default."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Update(Protocol):
    """Moves the bar of a step."""

    def __call__(self, done: int, total: int, detail: str = "") -> None:
        """Steps done, steps in all, and a few words on where it stands."""
        ...


class Reporter(Protocol):
    """Receives what a long command is doing."""

    def step(self, title: str) -> AbstractContextManager[Update]:
        """Begin a step; the context gives the callable that moves its bar."""
        ...

    def note(self, message: str) -> None:
        """Report one fact worth knowing."""
        ...


class Silent:
    """Reports nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Update]:  # noqa: ARG002  (the signature of `Reporter`)
        """Ignore the step."""
        yield lambda done, total, detail="": None  # noqa: ARG005  (the names of `Update`)

    def note(self, message: str) -> None:
        """Ignore the fact."""


Progress = Callable[[int, int], None]


class Clock:
    """Wall time of named steps.

    Attributes:
        seconds: Mapping step -> seconds so far.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        """Start, with the time that earlier steps took."""
        self.seconds = dict(seconds or {})
        self._start = time.perf_counter()

    def stop(self, name: str) -> None:
        """Count the time since the last stop as that step's."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._start
        self._start = now
