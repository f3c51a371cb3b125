"""How the help of a command is laid out: its options in groups, and an example at its end."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperOption

# Group -> the parameters that stand in it, whatever command has them.
_GROUPS = {
    "Model": ("image_size", "pixels", "branch", "activation", "teacher", "compare"),
    "Data": ("data", "split", "calibration", "annotations", "limit", "images", "fast", "count", "rectangular", "max_frames"),
    "Recipe and settings": ("target", "recipe", "overrides", "measure", "mode", "max_drop", "target_map", "raise_bits", "seed"),
    "Detections": ("confidence", "iou", "max_detections", "classes"),
    "Training": (
        "epochs", "batch", "cosine", "patience", "evaluate_every", "clip", "amp", "distill", "resume",
    ),
    "Output": (
        "output", "report", "analysis", "plots", "formats", "format_name", "evaluate", "per_class", "figures", "predictions",
        "draw", "save_json", "save_txt", "save_conf", "model_folder", "fix", "top", "everything", "calibration_cache", "as_json",
        "tensorboard",
    ),
    "Suppression in the file": ("nms", "nms_confidence", "nms_iou", "nms_max", "nms_agnostic"),
    "Machine": ("device", "runtime", "threads", "workers", "batch_size", "runs", "warmup", "optimize_latency"),
}  # fmt: skip
GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


class GroupedCommand(TyperCommand):
    """A command whose options are shown in groups."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if isinstance(parameter, TyperOption):
                parameter.rich_help_panel = GROUP_OF.get(parameter.name or "")
