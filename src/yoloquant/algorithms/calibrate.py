"""Calibration: run images through the network and take every scale from its observer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.data.images import to_input
from yoloquant.errors import YoloquantError
from yoloquant.graph.operators import sole_activation
from yoloquant.progress import Progress
from yoloquant.quant.fake_quantize import FakeQuantize, State
from yoloquant.quant.int32_bias import fit_biases
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.targets.placement import QuantizationPlacement

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


def calibrate(detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None) -> None:
    """Observe batches with all quantizers passing values on, then freeze every scale, in place.

    Weights are observed once: their values do not depend on images. Where every activation has its range already (see
    `take_ranges`), no image is read.

    Args:
        detector: Detector with fresh quantizers, or some that took their ranges from another detector.
        batches: Images, uint8 `(N, 3, H, W)`, RGB. They are read once and not kept.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).

    Raises:
        YoloquantError: There was no batch, or a layer output NaN or infinity.
    """
    taken = any(quantizer.observer is None for _, quantizer in detector.quantizers())
    _observe_weights(detector)
    _note_readers(detector)
    observing = [quantizer for _, quantizer in detector.quantizers() if quantizer.observer is not None]
    if observing or not taken:
        _observe_activations(detector, batches, total, progress)
    for quantizer in observing:
        quantizer.freeze_observer()
    fit_biases(detector)
    detector.set_state(State.QUANTIZE)


def take_ranges(detector: QuantizedDetector, calibrated: QuantizedDetector) -> int:
    """Take each quantizer's scale from that of another detector which observed the same values by the same spec, in place.

    Observers see the float network, whatever is quantized, so observing the same values once more would find the same range.

    Args:
        detector: Detector with fresh quantizers.
        calibrated: Calibrated detector of the same float network, placed otherwise.

    Returns:
        How many activations are still to be observed.
    """
    known = {_observed(calibrated.placement, name): quantizer for name, quantizer in calibrated.quantizers()}
    for name, quantizer in detector.quantizers():
        same = known.get(_observed(detector.placement, name))
        if same is not None and same.spec == quantizer.spec:
            quantizer.set_parameters(same.scale.clone(), same.zero_point.clone())
            quantizer.observer = None
            quantizer.state = State.PASS
    return sum(quantizer.observer is not None and not quantizer.of_weight for _, quantizer in detector.quantizers())


def _observed(placement: QuantizationPlacement, name: str) -> frozenset[str]:
    """Names of the values that a quantizer stands on."""
    return frozenset(edge.producer for edge, quantizer in placement.edges.items() if quantizer == name)


def _observe_activations(detector: QuantizedDetector, batches: Iterable[Tensor], total: int, progress: Progress | None) -> None:
    count = 0
    with torch.inference_mode():
        for count, images in enumerate(batches, start=1):
            _check_finite(detector.network(to_input(images)))
            if progress:
                progress(count, max(total, count))
    if count == 0:
        raise YoloquantError("there are no calibration images: name a list, a folder or a data.yaml with a train split")


def _note_readers(detector: QuantizedDetector) -> None:
    """Inform each observer whose values an activation alone reads of that activation."""
    for quantizer, nodes in detector.quantizer_calls().items():
        if quantizer.observer is not None:
            quantizer.observer.reader = sole_activation(user for node in nodes for user in node.users)


def _observe_weights(detector: QuantizedDetector) -> None:
    """Freeze the quantizers of weights."""
    for node in detector.network.graph.nodes:
        if node.op == "call_module" and node.args[0].op == "get_attr":
            quantizer = detector.network.get_submodule(node.target)
            assert isinstance(quantizer, FakeQuantize)
            if quantizer.observer is None:
                continue
            owner, _, leaf = node.args[0].target.rpartition(".")
            with torch.no_grad():
                quantizer.observe(getattr(detector.network.get_submodule(owner), leaf))
            quantizer.freeze_observer()
            # The float weight passes until calibration ends, so that activations are observed as the float network has them.
            quantizer.state = State.PASS


def _check_finite(maps: Iterable[Tensor]) -> None:
    for level, raw_map in enumerate(maps):
        if not torch.isfinite(raw_map).all():
            raise YoloquantError(
                f"the float network outputs NaN or infinity at detection level {level}: check the checkpoint, "
                "for example with `yoloquant evaluate`"
            )


@step
class Calibrate(Step):
    """Run the calibration images and take every range from its observer."""

    name: Literal["calibrate"] = "calibrate"
    stage: ClassVar[Stage] = Stage.CALIBRATE

    def apply(self, job: Job) -> None:
        """Place quantizers and calibrate them."""
        job.place()
        job.clock.stop("capture")
        job.calibrate()
