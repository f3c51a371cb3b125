"""`Benchmark`: latency of models in runtimes, and what each runtime computes in integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from yoloquant.evaluation.latency import Latency
from yoloquant.runtime.executed_layers import Executed
from yoloquant.runtime.profile import LayerTime
from yoloquant.table import TextTable

# A model's file and the runtime that ran it.
Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What was measured, all in turns.

    Attributes:
        latency: (file, runtime) -> latency, in the order given; ratios are against the first file, if it ran there, too.
        executed: (file, runtime) -> layers with weights as the runtime executes them, of ONNX files and runtimes' own.
        layers: (file, runtime) -> operators of the runtime's own profile, the slowest first, where they were asked for.
    """

    latency: Mapping[Key, Latency]
    executed: Mapping[Key, Executed] = field(default_factory=dict)
    layers: Mapping[Key, tuple[LayerTime, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: a list with an entry for each file and runtime."""
        return {
            "models": [
                {
                    "model": key[0],
                    "runtime": key[1],
                    "latency_ms": asdict(latency),
                    "executed": self.executed[key].to_dict() if key in self.executed else None,
                    "layers": [asdict(layer) for layer in self.layers.get(key, ())],
                }
                for key, latency in self.latency.items()
            ]
        }

    def table(self) -> TextTable:
        """A row for each file and runtime."""
        headers = ("model", "runtime", "median ms", "p90", "p99", "minimum", "images/s", "ratio", "layers in integers")
        first = next(iter(self.latency))[0]
        rows = []
        for (model, runtime), latency in self.latency.items():
            base = self.latency.get((first, runtime))
            layers = self.executed.get((model, runtime))
            counted = "" if layers is None else f"{len(layers.integer)} of {len(layers.integer) + len(layers.floating)}"
            figures = (latency.median, latency.p90, latency.p99, latency.minimum, latency.images_per_second)
            cells = (f"{value:.1f}" for value in figures)
            rows.append((model, runtime, *cells, "" if base is None else f"{latency.median / base.median:.2f}", counted))
        return TextTable(headers, tuple(rows))

    def layer_table(self, key: Key, count: int | None = None) -> TextTable:
        """The slowest operators of a file in a runtime, with their share of all of them.

        Args:
            key: File and runtime, a key of `layers`.
            count: Operators to show; all by default.
        """
        layers = self.layers[key]
        whole = sum(layer.milliseconds for layer in layers)
        rows = tuple(
            (layer.name, layer.kind, f"{layer.milliseconds:.3f}", f"{100.0 * layer.milliseconds / whole:.1f}")
            for layer in layers[:count]
        )
        title = f"{key[0]} in {key[1]}: {whole:.1f} ms in {len(layers)} operators"
        return TextTable(("operator", "kernel", "ms", "%"), rows, title)

    def __str__(self) -> str:
        return str(self.table())
