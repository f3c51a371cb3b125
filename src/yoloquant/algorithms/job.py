"""`Job`: a detector on its way through a recipe, and all that its steps need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from torch.fx import GraphModule

from yoloquant.algorithms.calibrate import calibrate, take_ranges
from yoloquant.data.loader import ImageLoader
from yoloquant.graph.capture import copy_graph
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.models.detector import Detector
from yoloquant.progress import Clock, Reporter
from yoloquant.quant.hardswish import fit_hardswish
from yoloquant.quant.images import CalibrationImages, first_images, loader_for, spread_images
from yoloquant.quant.int32_bias import fit_biases
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_from
from yoloquant.targets.layer_rules import LayerRules, TensorSettings
from yoloquant.targets.placement import FloatLayer
from yoloquant.targets.registry import get_target
from yoloquant.targets.target import Target


@dataclass(kw_only=True)
class Job:
    """What the steps of a recipe work on.

    Attributes:
        detector: Float detector; never changed.
        reference: Its captured network; steps before calibration change it.
        rules: How each layer is quantized, or that it is not; changed by steps that choose layers.
        images: Images to calibrate and to learn on.
        reporter: Receives progress and notes.
        clock: Wall time of each step.
        device: Device of the steps that learn.
        partial: Folder in which long steps keep what they have done, and go on from there.
        kept_float: Layers that a step chose to leave in float, and why.
        has_float: Weights of the float detector are known, so that it can be measured, too.
        reference_matches: Weights of the reference are those that were quantized, in the same scaling of their channels.
        quantized: Quantized detector, from the step `calibrate` on.
    """

    detector: Detector
    reference: GraphModule
    rules: LayerRules
    images: CalibrationImages
    reporter: Reporter
    clock: Clock = field(default_factory=Clock)
    device: str = "cpu"
    partial: Path | None = None
    kept_float: dict[str, FloatLayer] = field(default_factory=dict)
    has_float: bool = True
    reference_matches: bool = True
    quantized: QuantizedDetector = field(init=False)

    @property
    def target(self) -> Target:
        """Deployment target."""
        return get_target(self.rules.target)

    @property
    def layer_count(self) -> int:
        """Convolutions and linear layers, quantized or not."""
        return sum(kind(node) in WEIGHTED for node in self.reference.graph.nodes)

    @property
    def float_weights(self) -> Mapping[str, Tensor] | None:
        """Weights by name as they were quantized; none if they are not known."""
        return dict(self.reference.named_parameters()) if self.reference_matches else None

    def batches(self, count: int | None = None) -> ImageLoader:
        """The first `count` calibration images, or all of them, in batches as the detector takes them."""
        return loader_for(self.detector, self.images.calibration[:count], self.images.batch_size)

    def first_images(self, count: int) -> Tensor:
        """The first `count` calibration images, uint8 `(count, 3, H, W)`, RGB."""
        return first_images(self.detector, self.images.calibration, count)

    def spread_images(self, count: int) -> Tensor:
        """Every k-th calibration image, `count` in all, uint8 `(count, 3, H, W)`, RGB."""
        return spread_images(self.detector, self.images.calibration, count)

    def place(self) -> None:
        """Place fresh quantizers."""
        graph_module = copy_graph(self.reference)
        self.quantized = quantized_from(self.detector, self.rules.place(graph_module, self.kept_float), graph_module)

    def calibrate(self) -> None:
        """Take every range from the calibration images."""
        loader = self.batches()
        with self.reporter.step(f"Calibrate on {len(self.images.calibration)} images") as update:
            calibrate(self.quantized, (batch.images for batch in loader), len(loader), update)
        self.fit_scales()
        for sentence in loader.skipped:
            self.reporter.note(f"skipped: {sentence}")

    def fit_scales(self) -> None:
        """Let every scale be one that the target's integer kernels take."""
        fit_biases(self.quantized)
        if self.target.integer_hardswish:
            fit_hardswish(self.quantized)

    def place_again(
        self, *, keep_float: Mapping[str, FloatLayer] | None = None, weights: Mapping[str, TensorSettings] | None = None
    ) -> None:
        """Place quantizers and calibrate once more, after a step decided what layers become.

        Args:
            keep_float: Layers that stay in float, and why.
            weights: Layer -> settings of its weight.
        """
        before = self.quantized
        self.kept_float.update(keep_float or {})
        self.rules = self.rules.with_layers(weights=weights)
        self.place()
        if take_ranges(self.quantized, before):
            self.calibrate()
        else:
            calibrate(self.quantized, ())
            self.fit_scales()
