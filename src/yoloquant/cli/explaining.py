"""Commands that explain: checkpoints, recipes, targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from yoloquant.cli.options import Checkpoint, app
from yoloquant.console import OUT


@app.command()
def inspect(file: Checkpoint, layers: Annotated[bool, typer.Option(help="List the layers that have weights.")] = True) -> None:
    """Show what a checkpoint holds: family, classes, parameters, strides, layers. Nothing in it is executed."""
    from yoloquant.checkpoint.inspect import inspect_file

    facts = inspect_file(file)
    height, width = facts.input_size
    OUT.print(f"family      {facts.family}")
    OUT.print(
        f"classes     {len(facts.names)}: {', '.join(facts.names[:8])}{' ...' if len(facts.names) > 8 else ''}",
        markup=False,
    )
    OUT.print(f"parameters  {facts.parameters:,}")
    OUT.print(f"strides     {', '.join(map(str, facts.strides))}")
    OUT.print(f"input size  {height} x {width}")
    if facts.branches:
        OUT.print(f"branches    {', '.join(facts.branches)}; the first is used, --branch of other commands chooses")
    for key, value in facts.source.items():
        OUT.print(f"{key:11} {value}", markup=False)
    if layers:
        table = Table("layer", "kind", "weight", "parameters")
        for layer in facts.layers:
            table.add_row(layer.name, layer.kind, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}")
        OUT.print(table)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the preset recipes, or show one."""
    from yoloquant.reading import read_text
    from yoloquant.recipe import load_recipe, preset_text, presets

    if name is not None:
        load_recipe(name)
        OUT.print(preset_text(name) if name in presets() else read_text(Path(name)), markup=False)
        return
    table = Table("recipe", "what it is for")
    for key, sentence in presets().items():
        table.add_row(key, sentence)
    OUT.print(table)


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None) -> None:
    """List the deployment targets, or explain one: its rules and where they are from."""
    from yoloquant.targets.registry import TARGETS, get_target

    if name is None:
        table = Table("target", "what it is", "weights", "activations")
        for target in TARGETS.values():
            table.add_row(target.name, target.summary, str(target.weights), str(target.activations))
        OUT.print(table)
        return
    target = get_target(name)
    lines = [target.summary, f"weights: {target.weights}", f"activations: {target.activations}"]
    for place, in_float in (("first", target.float_inputs), ("last", target.float_outputs)):
        lines.append(f"{place} convolutions: {'in float' if in_float else 'quantized'}")
    lines += [f"- {sentence}" for sentence in target.explain()]
    lines += [f"source: {source}" for source in target.sources]
    for line in lines:
        OUT.print(line, markup=False)
