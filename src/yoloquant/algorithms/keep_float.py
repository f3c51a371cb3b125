"""Keep the layers in float whose quantization costs most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.analysis.sensitive_layers import MORE_LAYERS, SensitiveLayer, most_sensitive_layers
from yoloquant.distributed import from_first
from yoloquant.spec import Count
from yoloquant.targets.placement import FloatLayer

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


@step
class KeepFloat(Step):
    """Keep in float the few layers whose quantization changes boxes and scores most, found on calibration images.

    Attributes:
        layers: Maximum number of layers; by default the target's own number, and a few more where the network would lose points
            of mAP without them.
        min_gain: Minimum share of the whole error that each of them must make, 0..1.
        images: Number of calibration images that the error is measured on.
    """

    name: Literal["keep_float"] = "keep_float"
    layers: Annotated[int, Field(ge=0)] | None = None
    min_gain: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    images: Count = 8
    stage: ClassVar[Stage] = Stage.PLACE

    def compares_boxes(self) -> bool:
        """Always."""
        return True

    def apply(self, job: Job) -> None:
        """Find the layers, and place quantizers once more without them."""
        # Of several processes the first one chooses for all.
        layers = from_first(self._find, job) if self.layers != 0 else []
        if layers:
            because = "keep_float chose it: it makes {:.0%} of the error"
            job.place_again(keep_float={layer.name: FloatLayer(because.format(layer.gain), layer.gain) for layer in layers})

    def _find(self, job: Job) -> list[SensitiveLayer]:
        images = job.spread_images(self.images)
        count, more = (job.target.costly_layers, MORE_LAYERS) if self.layers is None else (self.layers, 0)
        with job.reporter.step("Find the layers that cost most") as update:
            layers = most_sensitive_layers(job.quantized, images, count, self.min_gain, update, more=more)
        if layers:
            named = ", ".join(f"{layer.name} ({layer.gain:.0%} of the error)" for layer in layers)
            job.reporter.note(f"kept in float: {named}")
        return layers
