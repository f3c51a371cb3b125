"""Coordinates for drawing a directed graph from top to bottom, edges without crossing more than needed.

The layered method of Sugiyama, Tagawa and Toda (1981): ranks by the longest path, invisible nodes where an edge passes a rank,
an order in each rank by the mean of the neighbours, and x as near to the neighbours as the distance between nodes allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 12
# Space between neighbours: of two nodes, and beside an edge that passes by, in widths of a node.
_NODE, _EDGE = 1.12, 0.22


@dataclass(frozen=True)
class Layout:
    """Where nodes lie and edges run.

    Attributes:
        places: Mapping node -> (x, rank); x in widths of a node, from 0; ranks from 0 at the top.
        routes: (from, to) -> (x, rank) of each corner, both ends included.
        width: Maximum x.
        ranks: Number of ranks.
    """

    places: dict[str, tuple[float, int]]
    routes: dict[tuple[str, str], list[tuple[float, int]]]
    width: float
    ranks: int


def layered_layout(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out an acyclic graph.

    Args:
        nodes: Nodes in topological order.
        edges: Pairs of nodes, from and to.
    """
    distinct = list(dict.fromkeys(edges))
    rank = _ranks(nodes, distinct)
    chains, rank = _with_passing(distinct, rank)
    links = [pair for chain in chains.values() for pair in pairwise(chain)]
    above: dict[str, list[str]] = {name: [] for name in rank}
    below: dict[str, list[str]] = {name: [] for name in rank}
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    rows: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for name, number in rank.items():
        rows[number].append(name)
    _order(rows, above, below)
    x = _place(rows, above, below, set(nodes))
    least = min(x.values(), default=0.0)
    at = {name: (value - least, rank[name]) for name, value in x.items()}
    routes = {edge: [at[name] for name in chain] for edge, chain in chains.items()}
    return Layout({name: at[name] for name in nodes}, routes, max((place[0] for place in at.values()), default=0.0), len(rows))


def _ranks(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Length of the longest path from a node without inputs."""
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for start, end in edges:
        sources[end].append(start)
    rank: dict[str, int] = {}
    for name in nodes:
        rank[name] = 1 + max((rank[source] for source in sources[name]), default=-1)
    return rank


def _with_passing(
    edges: Iterable[tuple[str, str]], rank: Mapping[str, int]
) -> tuple[dict[tuple[str, str], list[str]], dict[str, int]]:
    """Each edge as a chain of neighbouring ranks, and the ranks with the invisible nodes that this takes."""
    extended = dict(rank)
    chains = {}
    for start, end in edges:
        passed = [f"{start}\n{end}\n{number}" for number in range(rank[start] + 1, rank[end])]
        extended.update({name: rank[start] + 1 + index for index, name in enumerate(passed)})
        chains[start, end] = [start, *passed, end]
    return chains, extended


def _order(rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]]) -> None:
    """Sort each rank by the mean place of its neighbours, down and up again, in place."""
    for sweep in range(_SWEEPS):
        neighbours, ordered = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        place: dict[str, float] = {}
        for row in ordered:
            present = {name: index / max(len(row) - 1, 1) for index, name in enumerate(row)}

            def mean(name: str, present: dict[str, float] = present) -> float:
                known = [place[other] for other in neighbours[name] if other in place]  # noqa: B023
                return sum(known) / len(known) if known else present[name]

            row.sort(key=mean)
            place.update({name: index / max(len(row) - 1, 1) for index, name in enumerate(row)})


def _place(
    rows: list[list[str]], above: Mapping[str, list[str]], below: Mapping[str, list[str]], real: set[str]
) -> dict[str, float]:
    """x of every node: the mean of its neighbours' as far as the order and the distances in its rank allow."""
    x: dict[str, float] = {}
    gaps = {id(row): [_NODE if {left, right} <= real else _EDGE if not {left, right} & real else (_NODE + _EDGE) / 2.0
                      for left, right in pairwise(row)] for row in rows}  # fmt: skip
    for row in rows:
        position = 0.0
        for name, gap in zip(row, [*gaps[id(row)], 0.0], strict=True):
            x[name] = position
            position += gap
    for sweep in range(2 * _SWEEPS):
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            # The last sweeps look both ways; the earlier ones let one end settle first.
            both = sweep >= _SWEEPS
            wanted = []
            for name in row:
                near = [*above[name], *below[name]] if both else (above if sweep % 2 == 0 else below)[name]
                wanted.append(sum(x[other] for other in near) / len(near) if near else x[name])
            # A bent edge is uglier than a node off its neighbours' middle.
            weights = [1.0 if name in real else 4.0 for name in row]
            x.update(zip(row, spread(wanted, gaps[id(row)], weights), strict=True))
    return x


def spread(wanted: Sequence[float], gaps: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Positions in the given order, at least `gaps` apart, of minimum weighted squared distance to those wanted.

    Without the gaps' own lengths this is isotonic regression, which pooling adjacent violators solves exactly.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, float, int]] = []
    for value, offset, weight in zip(wanted, offsets, weights, strict=False):
        mean, total, count = value - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, heavy, size = pools.pop()
            mean, total, count = (mean * total + other * heavy) / (total + heavy), total + heavy, count + size
        pools.append((mean, total, count))
    levels = [mean for mean, _, count in pools for _ in range(count)]
    return [level + offset for level, offset in zip(levels, offsets, strict=False)]
