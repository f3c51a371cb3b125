"""An observer: half of the range that was seen."""

from yoloquant.quant.observers import MinMax, observer


@observer("half")
class Half(MinMax):
    """Half of the smallest and the largest value seen."""

    def range(self):
        """The chosen range, two `(C,)` tensors."""
        return self.low / 2, self.high / 2
