"""The flow behind `yoloquant check`: find what a runtime will not do of a file as it seems, and mend what can be mended."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx

from yoloquant.checking.check_report import CheckReport
from yoloquant.checking.finding import Finding
from yoloquant.checking.findings import check_file
from yoloquant.checking.repair import repair
from yoloquant.checkpoint.onnx_checks import onnx_parsed, open_detector_file
from yoloquant.files.outputs import refuse_inputs
from yoloquant.files.writing import checked_file, replaced_whole, write_text
from yoloquant.targets.registry import get_target


def check(
    file: str | Path, target: str = "onnxruntime", *, fix: str | Path | None = None, report: str | Path | None = None
) -> CheckReport:
    """Say what a target's runtime will not run as it seems: float layers, needless conversions, scales that do not match.

    Args:
        file: ONNX file with Q/DQ, of any tool.
        target: Deployment target.
        fix: File to write with everything mended that needs no calibration.
        report: JSON file to write the findings to, which `CheckReport.load` reads.

    Raises:
        YoloquantError: The file is no ONNX file, there is no such target, or an output cannot be written or is the file.
    """
    for output in (fix, report):
        if output is not None:
            checked_file(output)
    refuse_inputs([fix, report], [file])
    found = check_file(file, target)
    if fix is not None:
        found = replace(found, mended=_mend(Path(file), target, Path(fix)))
    if report is not None:
        write_text(Path(report), json.dumps(found.to_dict(), indent=2))
    return found


def _mend(file: Path, target: str, fix: Path) -> tuple[Finding, ...]:
    with onnx_parsed(file):
        mended, done = repair(open_detector_file(file), get_target(target))
        onnx.checker.check_model(mended)
    with replaced_whole(fix) as partial:
        onnx.save(mended, str(partial))
    return tuple(done)
