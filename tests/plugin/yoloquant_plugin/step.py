"""A step: every activation range a little smaller."""

from typing import Literal

from yoloquant.algorithms.step import Step, step


@step
class Shrink(Step):
    """Multiply every activation scale by a factor."""

    name: Literal["shrink"] = "shrink"
    factor: float = 0.5

    def apply(self, job):
        """Change every scale in place."""
        for _, quantizer in job.quantized.quantizers():
            if not quantizer.of_weight:
                quantizer.set_parameters(quantizer.scale * self.factor, quantizer.zero_point)
        job.reporter.note(f"activation scales times {self.factor}")
