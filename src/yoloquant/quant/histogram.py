"""One streaming histogram for all observers: many channels at once, growing without bias, of bounded size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Histogram:
    """Counts of values in equal bins, one row a channel.

    Bin edges are whole multiples of the bin width. When values fall outside, the width doubles until they fit, and each new
    bin is exactly the sum of two old ones: no count is ever spread by guessing, so streaming gives the counts that a
    histogram of all values at once with the same edges gives. Unused bins cost at most half of the resolution.

    Attributes:
        counts: `(C, bins)` float64.
        width: `(C,)` float64, width of a bin; 0 before the first non-zero value.
        first: `(C,)` int64, index of the first bin: bin k of channel c covers
            `[(first[c] + k) * width[c], (first[c] + k + 1) * width[c])`.
        low: `(C,)` exact minimum so far; `high`: exact maximum.
    """

    def __init__(self, channels: int, bins: int = 2048) -> None:
        """Make an empty histogram of `channels` rows and an even number of `bins`."""
        self.bins = bins
        self.counts = torch.zeros(channels, bins, dtype=torch.float64)
        self.width = torch.zeros(channels, dtype=torch.float64)
        self.first = torch.zeros(channels, dtype=torch.int64)
        self.low = torch.full((channels,), torch.inf)
        self.high = torch.full((channels,), -torch.inf)

    @property
    def centers(self) -> Tensor:
        """Centres of the bins, `(C, bins)` float64."""
        index = self.first[:, None] + torch.arange(self.bins)
        return (index.double() + 0.5) * self.width[:, None]

    def update(self, values: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> None:
        """Count values.

        Args:
            values: `(C, n)`, finite.
            low: `(C,)` exact minima where `values` is only a sample; their own minima otherwise.
            high: `(C,)` exact maxima, likewise.
        """
        low = values.amin(dim=1) if low is None else low
        high = values.amax(dim=1) if high is None else high
        self.low, self.high = torch.minimum(self.low, low.float()), torch.maximum(self.high, high.float())
        self._fit()
        # numpy, in place: so little work that torch's threads would cost more than they save.
        position = values.numpy().astype(np.float64)
        position /= self._safe_width().numpy()[:, None]
        np.floor(position, out=position)
        position -= self.first.numpy()[:, None]
        # Division can land on the edge past the last bin by one rounding.
        np.clip(position, 0, self.bins - 1, out=position)
        self._add(position.astype(np.int64))

    def _add(self, index: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count bins `(C, n)` of each row."""
        index += np.arange(len(self.counts))[:, None] * self.bins
        counted = np.bincount(index.ravel(), weights, minlength=self.counts.numel())
        self.counts += torch.from_numpy(counted).view_as(self.counts)

    def _safe_width(self) -> Tensor:
        return torch.where(self.width > 0, self.width, 1.0)

    def _fit(self) -> None:
        """Give channels a first width, and double the width of those whose values no longer fit."""
        low, high = self.low.double().clamp(max=0.0), self.high.double().clamp(min=0.0)
        fresh = (self.width == 0) & (high > low)
        if fresh.any():
            # One bin is kept free on each side for edges that are not multiples of the width.
            width = ((high - low) / (self.bins - 2)).clamp(min=torch.finfo(torch.float32).tiny)
            self.width = torch.where(fresh, width, self.width)
            # Zeros counted before are in bin 0, wherever that comes to lie now.
            zeros = self.counts.sum(dim=1)
            self.first = torch.where(fresh, torch.floor(low / self._safe_width()).long(), self.first)
            for channel in torch.nonzero(fresh & (zeros > 0)).flatten().tolist():
                self.counts[channel] = 0
                self.counts[channel, int(-self.first[channel])] = zeros[channel]
        while True:
            width = self._safe_width()
            # In float64: against a very small width an index overflows integers.
            lowest, highest = torch.floor(low / width), torch.floor(high / width)
            outside = (self.width > 0) & ((lowest < self.first) | (highest >= self.first + self.bins))
            if not outside.any():
                return
            # Moving the window is enough where the values still span few enough bins.
            movable = outside & (highest - lowest < self.bins)
            for channel in torch.nonzero(movable).flatten().tolist():
                self._move(channel, int(lowest[channel]))
            for channel in torch.nonzero(outside & ~movable).flatten().tolist():
                self._double(channel)

    def _move(self, channel: int, first: int) -> None:
        shift = int(self.first[channel]) - first
        self.counts[channel] = torch.roll(self.counts[channel], shift)
        self.first[channel] = first

    def _double(self, channel: int) -> None:
        """Merge pairs of bins; pairs start at even indices, so that edges stay multiples of the width."""
        first = int(self.first[channel])
        padded = torch.zeros(self.bins + 2, dtype=torch.float64)
        start = first % 2
        padded[start : start + self.bins] = self.counts[channel]
        merged = padded.view(-1, 2).sum(dim=1)
        self.counts[channel] = 0
        self.counts[channel, : len(merged)] = merged[: self.bins]
        self.first[channel] = first // 2
        self.width[channel] *= 2

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram of the same shape, as if its values had been counted here.

        Bins are brought to a common width first, so the result is exact where both began with the same width, and off by
        at most one bin otherwise. This is how statistics of several processes reduce.
        """
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self._fit()
        index = torch.floor(other.centers / self._safe_width()[:, None]).long() - self.first[:, None]
        self._add(index.clamp_(0, self.bins - 1).numpy(), other.counts.flatten().numpy())


class SortedValues:
    """All values themselves, for tensors seen once that are so small that a histogram would be larger: weights.

    It behaves like a `Histogram` whose bins each hold one value.

    Attributes:
        centers: `(C, n)` float64, sorted.
        counts: `(C, n)`, ones, or how much each value counts.
        width: `(C,)`, zeros.
        bins: Number of bins n.
        low: `(C,)` minimum; `high`: maximum.
    """

    def __init__(self, values: Tensor, counts: Tensor | None = None) -> None:
        """Sort the values `(C, n)`, with counts of the same shape."""
        self.centers, order = values.double().sort(dim=1)
        self.counts = torch.ones_like(self.centers) if counts is None else counts.double().gather(1, order)
        self.width = torch.zeros(len(values), dtype=torch.float64)
        self.bins = values.shape[1]
        self.low, self.high = self.centers[:, 0].float(), self.centers[:, -1].float()


Distribution = Histogram | SortedValues
