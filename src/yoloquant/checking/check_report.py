"""`CheckReport`: what a runtime will not do of a file as it seems, and what was mended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yoloquant.checking.finding import LEVELS, Finding, Level
from yoloquant.errors import YoloquantError
from yoloquant.files.reading import parse_json, parsed, read_text
from yoloquant.table import TextTable

# Bytes of a report: some sentences on each of many thousand nodes.
LARGEST_REPORT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """A file's findings.

    Attributes:
        findings: Findings, errors first, then warnings and notes, each in the order of checks and nodes.
        layers: Number of layers with weights; integer_layers: Number of those that run in integers.
        integer_work: Share of all multiplications that run in integers, 0..1.
        conversions: QuantizeLinear and DequantizeLinear nodes on activations.
        mended: Findings that are not in the mended file any more; None where no file was mended.
    """

    findings: tuple[Finding, ...]
    layers: int
    integer_layers: int
    integer_work: float
    conversions: int
    mended: tuple[Finding, ...] = ()

    def at_least(self, level: Level) -> tuple[Finding, ...]:
        """Findings of a level, and of those above."""
        return tuple(finding for finding in self.findings if LEVELS.index(finding.level) >= LEVELS.index(level))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "layers": self.layers,
            "integer_layers": self.integer_layers,
            "integer_work": self.integer_work,
            "conversions": self.conversions,
            "findings": [_described(finding) for finding in self.findings],
            "mended": [_described(finding) for finding in self.mended],
        }

    @classmethod
    def load(cls, path: str | Path) -> CheckReport:
        """Read what `yoloquant check --report` wrote.

        Raises:
            YoloquantError: The file is missing or damaged, or holds no such report.
        """
        with parsed(Path(path), YoloquantError, "name a file that `yoloquant check --report` wrote"):
            values = parse_json(read_text(Path(path), largest=LARGEST_REPORT), str(path))
            return cls(
                findings=tuple(map(_finding, values["findings"])),
                layers=int(values["layers"]),
                integer_layers=int(values["integer_layers"]),
                integer_work=float(values["integer_work"]),
                conversions=int(values["conversions"]),
                mended=tuple(map(_finding, values["mended"])),
            )

    def table(self) -> TextTable:
        """Findings by kind, with their estimated cost for one image."""
        headers = ("level", "finding", "times", "multiplications in float", "values converted")
        rows = []
        for kind in dict.fromkeys(finding.kind for finding in self.findings):
            own = [finding for finding in self.findings if finding.kind == kind]
            work, values = sum(finding.work for finding in own), sum(finding.values for finding in own)
            costs = (f"{work:.1%}" if work else "", f"{values / 1e6:.2f} M" if values else "")
            rows.append((own[0].level, kind, str(len(own)), *costs))
        return TextTable(headers, tuple(rows), self.summary)

    @property
    def summary(self) -> str:
        """How much of the file runs in integers, in a sentence."""
        work = f"{self.integer_work:.0%} of the multiplications"
        counts = f"{self.integer_layers} of {self.layers} layers in integers"
        return f"{counts}, {work}; {self.conversions} Q/DQ nodes on activations"

    def __str__(self) -> str:
        return str(self.table())


def _described(finding: Finding) -> dict[str, Any]:
    return {"level": finding.level, **asdict(finding)}


def _finding(values: dict[str, Any]) -> Finding:
    """The inverse of `_described`."""
    return Finding(**{name: value for name, value in values.items() if name != "level"})
