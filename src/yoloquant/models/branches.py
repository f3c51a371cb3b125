"""Which pair of branches is used, in networks that hold two (YOLOv10, YOLO26).

The one-to-one branch gives each object one box and needs no suppression; the one-to-many branch gives it several, which
suppression thins out. ultralytics 8.4 predicts, validates and exports with the one-to-many branch unless it is given `nms=False`
(`end2end=True` in older words), whatever the checkpoint is marked with; so one-to-many is the default here, too.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from yoloquant.errors import CheckpointError
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead

ONE_TO_ONE, ONE_TO_MANY = "one-to-one", "one-to-many"
BRANCHES = (ONE_TO_ONE, ONE_TO_MANY)
LAYOUT_OF = {ONE_TO_ONE: "rows_final", ONE_TO_MANY: "columns_classes"}
_ANSWERS = {ONE_TO_ONE: "final boxes", ONE_TO_MANY: "boxes that suppression thins out"}


class TwoBranches(nn.Module):
    """A detection layer that may hold two pairs of branches.

    Attributes:
        end_to_end: Whether the one-to-one pair is used where both exist.
    """

    end_to_end: bool = False

    def has_both(self) -> bool:
        """Both pairs are there."""
        raise NotImplementedError


def choose_branch(detector: Detector, branch: str | None) -> Detector:
    """The same detector, with a branch as its output.

    Args:
        detector: Float detector; it is not changed.
        branch: `one-to-one` or `one-to-many`; none for the one that it has.

    Raises:
        CheckpointError: There is no such branch, or this detector does not hold it.
    """
    layer = two_pairs(detector.network)
    if layer is None or branch is None or branch not in BRANCHES or detector.head.branch == branch:
        check_branch(detector.head.branch, branch)
        return detector
    network = copy.deepcopy(detector.network)
    chosen, head = two_pairs(network), copy.copy(detector.head)
    assert chosen is not None
    chosen.end_to_end = branch == ONE_TO_ONE
    head.branch, head.layout = branch, LAYOUT_OF[branch]
    return replace(detector, network=network, head=head)


def two_pairs(network: nn.Module) -> TwoBranches | None:
    """The detection layer of a network, if it holds both pairs of branches."""
    found = (module for module in network.modules() if isinstance(module, TwoBranches) and module.has_both())
    return next(found, None)


def head_with_branch(class_count: int, strides: list[int], bins: int, branch: str | None) -> DistanceHead:
    """The head behind a pair of branches; none is a network's only pair, which gives several boxes for an object."""
    head = DistanceHead(LAYOUT_OF[branch or ONE_TO_MANY], class_count, strides, bins)
    head.branch = branch
    return head


def check_branch(found: str | None, asked: str | None) -> None:
    """Make sure that a model outputs the branch that is asked for.

    Args:
        found: Branch that the model outputs; None if its network has one pair of branches, which is of the kind one-to-many.
        asked: Branch that the user asks for; None for any.

    Raises:
        CheckpointError: It does not.
    """
    if asked is None:
        return
    if asked not in BRANCHES:
        raise CheckpointError(f"there is no branch {asked!r}: choose {' or '.join(BRANCHES)}")
    has = found or ONE_TO_MANY
    if has != asked:
        raise CheckpointError(
            f"this model outputs its {has} branch and holds no {asked} one: checkpoints of YOLOv10 and YOLO26 hold both, "
            "files and folders made from them the one that they were made with (ultralytics exports one-to-one with nms=False)"
        )


def branch_sentence(branch: str | None, *, both: bool = False) -> str | None:
    """Sentence about the branch that a model outputs; None where there is no choice.

    Args:
        branch: Branch of the head.
        both: Whether the other branch exists, too.
    """
    if branch is None:
        return None
    other = ONE_TO_ONE if branch == ONE_TO_MANY else ONE_TO_MANY
    choice = f"; --branch {other} takes the other one" if both else ""
    return f"branch {branch}: {_ANSWERS[branch]}{choice}"
