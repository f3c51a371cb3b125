"""What quantization-aware training minimises: the distance to the float network, or the family's loss on labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.algorithms.reconstruction.regions import find_regions
from yoloquant.analysis.detection_error import detection_error
from yoloquant.distributed import process_count, sum_over_processes
from yoloquant.graph.interpret import Observed
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.training.amp import in_float32
from yoloquant.training.float.protocols import Loss


class Objective(Protocol):
    """Loss of the quantized network on a batch.

    In several processes, each holds its share: as many images as the others, and a loss such that the sum over processes is that
    of the whole batch.
    """

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            images: `(N, 3, H, W)`, 0..1.
            targets: `(n, 6)` image, class, centre x, centre y, width, height in 0..1; what needs no labels ignores them.
        """
        ...


class DetectionTeacher:
    """Boxes and scores of the float network, each box weighted by its score (see `detection_error`)."""

    def __init__(self, detector: QuantizedDetector, reference: GraphModule) -> None:
        """The student, and the float network."""
        self._detector, self._reference = detector, reference

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002  (the signature of `Objective`)
        """Error of boxes and scores."""
        head = self._detector.head
        with torch.no_grad():
            expected = head.candidates(in_float32(self._reference(images)))
        boxes, scores = detection_error(expected, head.candidates(in_float32(self._detector.network(images))), share=True)
        return boxes + scores


class FeatureTeacher:
    """Squared error of the outputs of blocks of the network, as NVIDIA's yolov7_qat trains, each over its mean square.

    Without the division the blocks with large values would be all that counts.

    Attributes:
        blocks: Names of the nodes that are compared.
    """

    def __init__(self, detector: QuantizedDetector, reference: GraphModule, stride: int = 1) -> None:
        """Compare every `stride`-th top-level block and the last before the head."""
        self.blocks = block_outputs(reference, stride)
        self._student = _recording(detector.network, self.blocks)
        self._teacher = _recording(reference, self.blocks)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002  (the signature of `Objective`)
        """Mean of the blocks' errors, each as a share of the block's mean square."""
        return self.compare(*self.values(images))

    def values(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs of the student and of the float network at the blocks, and then as raw maps."""
        with torch.no_grad():
            expected = self._teacher(images)
        return self._student(images), expected

    def compare(self, found: list[Tensor], expected: list[Tensor]) -> Tensor:
        """Mean of the blocks' errors."""
        count = len(self.blocks)
        pairs = zip(found[:count], expected[:count], strict=True)
        errors = torch.stack([(found - wanted).square().sum() for found, wanted in pairs])
        return (errors / sum_over_processes(torch.stack([wanted.square().sum() for wanted in expected[:count]]))).mean()


class BothTeachers(FeatureTeacher):
    """Features, whose gradients are dense, and boxes and scores, which are what counts; one pass for both."""

    def __init__(self, detector: QuantizedDetector, reference: GraphModule, stride: int, share: float) -> None:
        """As the base; `share` weighs boxes and scores."""
        super().__init__(detector, reference, stride)
        self._head, self._share = detector.head, share

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG002  (the signature of `Objective`)
        """Error of features, and that of boxes and scores by its share."""
        found, expected = self.values(images)
        count = len(self.blocks)
        wanted, answered = (self._head.candidates(maps[count:]) for maps in (expected, found))
        boxes, scores = detection_error(wanted, answered, share=True)
        return self.compare(found, expected) + self._share * (boxes + scores)


class LabelObjective:
    """The family's own loss on labels."""

    def __init__(self, detector: QuantizedDetector, loss: Loss) -> None:
        """The network, and the loss of its raw maps."""
        self._detector, self._loss = detector, loss

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, of one image on average."""
        return self._loss(in_float32(self._detector.network(images)), targets).total / (len(images) * process_count())


def block_outputs(reference: GraphModule, stride: int) -> list[str]:
    """Names of the last values of every `stride`-th top-level block, and of the last block before the head."""
    outputs = next(node for node in reference.graph.nodes if node.op == "output").all_input_nodes
    blocks = [region.outputs[-1] for region in find_regions(reference, "block") if not set(region.outputs) & set(outputs)]
    if not blocks:
        # A network without blocks: what it answers.
        return [node.name for node in outputs]
    return [node.name for index, node in enumerate(blocks) if index % stride == 0 or index == len(blocks) - 1]


def _recording(network: GraphModule, names: list[str]) -> Callable[[Tensor], list[Tensor]]:
    """Images -> the values of some nodes, and then the network's outputs."""
    kept: dict[str, Tensor] = {}

    def keep(node: Node, value: Any) -> None:
        if node.name in names:
            kept[node.name] = value

    runner = Observed(network, keep)

    def values(images: Tensor) -> list[Tensor]:
        kept.clear()
        maps = runner.run(images)
        return in_float32([*(kept[name] for name in names), *maps])

    return values
