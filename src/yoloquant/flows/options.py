"""Options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yoloquant.exporting.nms import NmsOptions


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is measured of a network that is quantized.

    Attributes:
        evaluate: Evaluate float and quantized models where there are labels, and time them.
        limit: Maximum number of images to evaluate.
        runtimes: Runtimes that verify and measure the file beside torch; all installed ones by default.
    """

    evaluate: bool = True
    limit: int | None = None
    runtimes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What report.html shows beside the figures.

    Attributes:
        plots: "png" or "pdf": every chart of the report as a file, too.
        analysis: Folder of `yoloquant analyze`, whose ranking of layers is shown.
        commands: Commands that repeat it; by default what the arguments are on the command line.
    """

    plots: str | None = None
    analysis: str | Path | None = None
    commands: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Output:
    """A quantized folder that is written.

    Attributes:
        folder: Folder; it must not exist, or be one that was written so.
        nms: Suppression that is put into the ONNX file after it was verified and measured without.
        formats: Names of further files to write into the folder and to verify, "openvino", "tflite" or "ncnn"; see
            `yoloquant.exporting.formats`.
    """

    folder: str | Path | None = None
    nms: NmsOptions | None = None
    formats: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: str | Path | Output | None) -> Output:
        """An output as it is, or the one of a folder alone."""
        return given if isinstance(given, Output) else cls(given)


# What verbs do where nothing is said.
MEASURE, REPORT = Measure(), Report()
