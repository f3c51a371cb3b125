"""`Delivered`: a file in the format that a runtime takes, and how it agrees with torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoloquant.evaluation.parity import Parity
from yoloquant.runtime.executed_layers import Executed


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A file for a runtime.

    Attributes:
        format: Name of the format, a key of `FORMATS`.
        path: Path of the file, or of the folder that holds it.
        size: Size of everything that was written, bytes.
        parity: Agreement of its runtime with torch; None where the runtime is not installed here.
        executed: Layers as the runtime runs them; None where it is not installed here.
    """

    format: str
    path: Path
    size: int
    parity: Parity | None = None
    executed: Executed | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": self.format,
            "path": str(self.path),
            "size": self.size,
            "parity": self.parity.to_dict() if self.parity else None,
            "executed": self.executed.to_dict() if self.executed else None,
        }

    def __str__(self) -> str:
        return "\n".join(self.sentences())

    def sentences(self, folder: Path | None = None) -> list[str]:
        """What was written and proven, a line each; `folder` is where the file ends up, if it is written elsewhere first."""
        shown = self.path if folder is None else folder / self.path.name
        lines = [f"{shown}: {self.size / 1e6:.2f} MB"]
        if self.parity is None:
            return [*lines, f"not run here: the runtime of format {self.format} is not installed"]
        lines.append(f"the file agrees with torch in {self.parity.runtime}: {self.parity.signal_to_noise:.1f} dB")
        if self.executed is not None:
            count = len(self.executed.integer)
            lines.append(f"{self.executed.runtime} runs {count} of {count + len(self.executed.floating)} layers in integers")
            if self.executed.in_vain:
                lines.append(f"in float although quantized: {', '.join(self.executed.in_vain)}")
        return lines
