"""Latency of runners, measured in turns so that a machine's drift meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from yoloquant.progress import Update
from yoloquant.runtime.runner import Runner


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one call.

    Attributes:
        median: Median time of all counted calls.
        p90: 90th percentile.
        minimum: Time of the fastest call.
        batch_size: Number of images in a call.
        p99: 99th percentile.
    """

    median: float
    p90: float
    minimum: float
    batch_size: int
    p99: float = 0.0

    @property
    def images_per_second(self) -> float:
        """Throughput of one call after the other."""
        return 1000.0 * self.batch_size / self.median


def measure_latency(
    runners: Mapping[str, Runner],
    *,
    batch_size: int = 1,
    runs: int = 20,
    warmup: int = 3,
    progress: Update | None = None,
) -> dict[str, Latency]:
    """Time runners on one random image batch, A B C A B C ...

    Args:
        runners: Mapping label -> runner.
        batch_size: Number of images in a call; a runner with a fixed batch size gets its own.
        runs: Number of counted calls of each.
        warmup: Number of calls before, not counted.
        progress: Callback, called with (rounds done, rounds).

    Returns:
        Label -> latency.
    """
    generator = np.random.default_rng(0)
    inputs = {
        label: generator.random((runner.batch_size or batch_size, 3, *runner.input_size), dtype=np.float32)
        for label, runner in runners.items()
    }
    times: dict[str, list[float]] = {label: [] for label in runners}
    for round_number in range(warmup + runs):
        for label, runner in runners.items():
            start = time.perf_counter()
            runner(inputs[label])
            if round_number >= warmup:
                times[label].append((time.perf_counter() - start) * 1000.0)
        if progress:
            progress(round_number + 1, warmup + runs)
    return {
        label: Latency(
            float(np.median(values)),
            float(np.percentile(values, 90)),
            min(values),
            runners[label].batch_size or batch_size,
            float(np.percentile(values, 99)),
        )
        for label, values in times.items()
    }
