"""Write docs/targets.md from the registries of targets and formats: python scripts/document_targets.py."""

from pathlib import Path

from yoloquant.exporting.formats.registry import FORMATS
from yoloquant.targets.registry import TARGETS
from yoloquant.targets.target import Target

PAGE = Path(__file__).parent.parent / "docs" / "targets.md"
_HEAD = """# Targets

What to type for each deployment target, what it does to the network, and why. `yoloquant targets NAME` prints the same rules.
What happens to the file afterwards is in [deployment](deployment.md). This page is written by
`python scripts/document_targets.py` from the registry.
"""


def targets_page() -> str:
    """The page."""
    return "\n".join([_HEAD, *(_section(target) for target in TARGETS.values())])


def _section(target: Target) -> str:
    rows = [
        f"| weights | {target.weights} |",
        f"| activations | {target.activations} |",
        f"| layers that read the image | {_precision(in_float=target.float_inputs)} |",
        f"| layers before the outputs | {_precision(in_float=target.float_outputs)} |",
        f"| the file is checked here in | {', '.join(target.runtimes)} |",
    ]
    parts = [
        f"## {target.name}",
        target.summary,
        "```bash\n" + "\n".join(_commands(target)) + "\n```",
        "\n".join(["| | |", "|---|---|", *rows]),
        "\n".join(f"- {sentence}" for sentence in target.explain()),
    ]
    if target.sources:
        parts.append("Sources:\n\n" + "\n".join(f"- {source}" for source in target.sources))
    return "\n\n".join(part for part in parts if part) + "\n"


def _precision(*, in_float: bool) -> str:
    return "float" if in_float else "integers"


def _commands(target: Target) -> list[str]:
    """From the checkpoint to the file that the runtime takes."""
    lines = [f"yoloquant quantize yolov8n.pt --data data.yaml --target {target.name} --output out"]
    lines += [f"yoloquant deliver out --format {name}" for name, known in FORMATS.items() if target.name in known.targets]
    if target.builds_engine:
        lines.append("# Then the trtexec command that it prints, on the machine with the GPU.")
    lines.append(f"yoloquant check out/model.onnx --target {target.name}")
    return lines


if __name__ == "__main__":
    PAGE.write_text(targets_page(), encoding="utf-8")
