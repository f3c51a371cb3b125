"""`Format`: a kind of file that a runtime takes, and how it is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from yoloquant.errors import ExportError
from yoloquant.models.output_formats import LAYOUTS
from yoloquant.quant.quantized_detector import QuantizedDetector

# Writes a calibrated detector, that a target's rules placed quantizers in, to a path.
Writer = Callable[[QuantizedDetector, str, Path], None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        name: Name on the command line.
        summary: One line for lists.
        ending: Ending of the file's name, or of the folder's where `files` names what lies in it.
        files: Files; names in the folder; None where the format is a single file.
        targets: Targets whose quantized folders it can hold; None for all.
        packages: Modules that writing needs.
        extra: Extra of this project, that installs these packages.
        selects: Selects it can hold networks that select their detections themselves (one-to-one branches).
        runtime: Runtime that runs the file, a key of `yoloquant.runtime.native.NATIVE` or of `RUNTIMES`.
        write: Function of the detector, the name of its target, and the path of the file or of the folder, which exists and is
            empty.
    """

    name: str
    summary: str
    ending: str
    write: Writer
    runtime: str
    files: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str | None = None
    selects: bool = True

    @property
    def in_folder(self) -> str:
        """Name of the file, or of the folder, in a quantized folder."""
        return f"model{self.ending}"

    def check_target(self, target: str) -> None:
        """Refuse a target whose quantization the format's runtime does not compute.

        Raises:
            ExportError: With the targets to choose from.
        """
        if self.targets and target not in self.targets:
            raise ExportError(
                f"a folder of target {target} cannot be delivered as {self.name}, which needs target "
                f"{' or '.join(self.targets)}: quantize with --target {self.targets[0]}"
            )

    def check_network(self, detector: QuantizedDetector) -> None:
        """Refuse a network that the format has no operators for.

        Raises:
            ExportError: With what to choose.
        """
        if not self.selects and LAYOUTS[detector.head.layout].suppressed:
            raise ExportError(
                f"format {self.name} cannot hold the one-to-one branch, which selects its detections itself: quantize with "
                "--branch one-to-many"
            )

    def check_installed(self) -> None:
        """Refuse to write without the packages that it takes.

        Raises:
            ExportError: With what to install.
        """
        missing = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if missing:
            install = f'"yoloquant[{self.extra}]"' if self.extra else " ".join(missing)
            raise ExportError(f"format {self.name} needs {missing[0]}, which is not installed: run `pip install {install}`")
