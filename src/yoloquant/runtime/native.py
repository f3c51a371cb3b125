"""Open the files that are a runtime's own: `.xml` of OpenVINO and others, by their ending."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.exporting.metadata_file import METADATA
from yoloquant.runtime.executed_layers import Executed

if TYPE_CHECKING:
    from yoloquant.runtime.file_runner import FileRunner


@dataclass(frozen=True)
class NativeFile:
    """A kind of file that one runtime runs, and no other.

    Attributes:
        runtime: Its name.
        package: Package that must be importable.
        open: Path and number of threads -> runner.
        executed: Mapping path -> layers that the runtime computes in integers.
    """

    runtime: str
    package: str
    open: Callable[[Path, int], FileRunner]
    executed: Callable[[Path], Executed]

    def is_installed(self) -> bool:
        """The package is there."""
        return importlib.util.find_spec(self.package) is not None

    def require(self) -> None:
        """Make sure that the runtime is there.

        Raises:
            YoloquantError: It is not; the message says what to install.
        """
        if not self.is_installed():
            raise YoloquantError(f'{self.runtime} is not installed: run `pip install "yoloquant[{self.runtime}]"`')


def _openvino(path: Path, threads: int) -> FileRunner:
    from yoloquant.runtime.openvino_runner import OpenVinoRunner

    return OpenVinoRunner(path, threads=threads)


def _openvino_layers(path: Path) -> Executed:
    from yoloquant.runtime.openvino_layers import executed_in_openvino

    return executed_in_openvino(path)


def _litert(path: Path, threads: int) -> FileRunner:
    from yoloquant.runtime.litert_runner import LiteRtRunner

    return LiteRtRunner(path, threads)


def _litert_layers(path: Path) -> Executed:
    from yoloquant.runtime.litert_runner import executed_in_litert

    return executed_in_litert(path)


def _ncnn(path: Path, threads: int) -> FileRunner:
    from yoloquant.runtime.ncnn_runner import NcnnRunner

    return NcnnRunner(path, threads)


def _ncnn_layers(path: Path) -> Executed:
    from yoloquant.runtime.ncnn_runner import executed_in_ncnn

    return executed_in_ncnn(path)


# Ending -> who runs it.
NATIVE: dict[str, NativeFile] = {
    ".xml": NativeFile("openvino", "openvino", _openvino, _openvino_layers),
    ".tflite": NativeFile("litert", "ai_edge_litert", _litert, _litert_layers),
    ".param": NativeFile("ncnn", "ncnn", _ncnn, _ncnn_layers),
}


def native_file(path: Path) -> Path | None:
    """The runtime's own file that a path names, or that lies beside `metadata.yaml` in a folder that it names; none otherwise."""
    if path.suffix in NATIVE:
        return path
    found = [entry for entry in path.iterdir() if entry.suffix in NATIVE] if (path / METADATA).is_file() else []
    return found[0] if found else None


def open_native(path: Path, runtime: str | None = None, threads: int = 0) -> FileRunner:
    """Load a runtime's own file.

    Args:
        path: Path with one of the endings of `NATIVE`.
        runtime: Runtime that is asked for; by default the one that runs the file.
        threads: 0 lets the runtime choose.

    Raises:
        YoloquantError: There is no such file, another runtime is asked for, or it is not installed or cannot load the file.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    kind = NATIVE[path.suffix]
    if runtime not in (None, kind.runtime):
        raise YoloquantError(f"{path} is a file for {kind.runtime}, which {runtime} cannot run: leave --runtime out")
    kind.require()
    return kind.open(path, threads)


def executed_native(path: Path) -> Executed:
    """Layers that a file's own runtime computes in integers.

    Raises:
        YoloquantError: The runtime is not installed or cannot load the file.
    """
    kind = NATIVE[path.suffix]
    kind.require()
    return kind.executed(path)
