"""`yoloquant check`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT
from yoloquant.cli.options import Json, command
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


class FailOn(Enum):
    """The lowest level of a finding that makes the command fail."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


@command(example="yoloquant check model.onnx --target openvino --fix mended.onnx")
def check(
    file: Annotated[Path, typer.Argument(help="ONNX file with Q/DQ, of any tool, or what `yoloquant deliver` wrote.")],
    target: Annotated[str, typer.Option(help="Deployment target; see `yoloquant targets`.")] = "onnxruntime",
    fix: Annotated[Path | None, typer.Option(help="Write the file with everything mended that needs no calibration.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON file to write the findings to.")] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit with code 1 where a finding of this level, or of one above, is there.")
    ] = FailOn.WARNING,
    everything: Annotated[bool, typer.Option("--all", help="Show every finding, not the first three of a kind.")] = False,
    as_json: Json = False,
) -> None:
    """Say what a target's runtime will not run as it seems: float layers, needless conversions, scales that do not match.

    A note is what the file's maker may want, as a layer left in float; a warning costs speed or accuracy; an error is refused or
    computed wrongly by the runtime. Exit code 1 where there is a warning or an error; `--fail-on` moves that.
    """
    from yoloquant.flows.check import check as run
    from yoloquant.runtime.native import native_file

    native = native_file(file)
    if native is not None:
        _check_native(native, fix, report, fail_on, as_json)
        return
    result = run(file, target, fix=fix, report=report)
    OUT.print(result.summary)
    kinds: dict[str, int] = {}
    for finding in result.findings:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
        if everything or kinds[finding.kind] <= 3:
            OUT.print(f"{finding.level} {finding.kind}: {finding.sentence}", markup=False)
    if kinds:
        OUT.print(on_screen(result.table()))
    if not everything and max(kinds.values(), default=0) > 3:
        OUT.print("three of each kind are shown; --all shows all")
    if fix is not None:
        OUT.print(f"{len(result.mended)} of {len(result.findings)} findings mended, written to {fix}", markup=False)
    tell_figures(result.to_dict(), as_json)
    _tell_next(file, target, fix, can_mend=bool(result.findings))
    if fail_on is not FailOn.NEVER and result.at_least(fail_on.value):
        raise typer.Exit(1)


def _tell_next(file: Path, target: str, fix: Path | None, *, can_mend: bool) -> None:
    """The mended file is checked as this one was; without one, it is written or the file is timed."""
    if fix is not None:
        tell_next("benchmark", file, fix)
    elif can_mend:
        tell_next("check", file, "--target", target, "--fix", file.with_name(f"{file.stem}-mended.onnx"))
    else:
        tell_next("benchmark", file)


def _check_native(file: Path, fix: Path | None, report: Path | None, fail_on: FailOn, as_json: bool) -> None:
    """The same for a runtime's own file: what it runs in integers, and what in float although the weights are integers."""
    from yoloquant.errors import YoloquantError
    from yoloquant.runtime.native import executed_native

    if fix is not None or report is not None:
        raise YoloquantError(f"{file} is not ONNX: --fix and --report are for ONNX files; check one, and deliver it again")
    found = executed_native(file)
    layers = len(found.integer) + len(found.floating)
    OUT.print(f"{found.runtime} runs {len(found.integer)} of {layers} layers in integers")
    for name in found.floating:
        reason = "although its weights are integers" if name in found.in_vain else "as its weights are"
        OUT.print(f"{'warning' if name in found.in_vain else 'note'} float-layer: {name} runs in float, {reason}", markup=False)
    tell_figures(found.to_dict(), as_json)
    tell_next("benchmark", file)
    levels = {FailOn.NOTE: found.floating, FailOn.WARNING: found.in_vain, FailOn.ERROR: (), FailOn.NEVER: ()}
    if levels[fail_on]:
        raise typer.Exit(1)
