"""Which channels of which values must have one scale, so that scaling them all leaves a network's output as it is.

Every channel gets a label. Operators that hand channels on keep their labels; an addition makes the labels of both its inputs
one; a weighted layer ends the labels that it reads and begins new ones, because its weights take up both scales. So does an
activation that is not positively homogeneous, but at the cost of a multiplication on that side. Labels of values that nothing may
scale, such as the network's output, are bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from yoloquant.graph.operators import channel_axis, is_capped, is_homogeneous, kind
from yoloquant.graph.sizes import tensor_inputs

aten = torch.ops.aten

# Each output channel is made of one input channel, linearly.
_BY_CHANNEL = frozenset({"max_pool", "avg_pool", "upsample"})


class Channels(NamedTuple):
    """A node, and the labels of the channels that it reads or makes, `(C,)`."""

    node: Node
    labels: Tensor


class Stretch(NamedTuple):
    """Values that hang together by their channels, and all that reads or makes them.

    Attributes:
        makers: Layers, whose weights take up a scale of each output channel.
        readers: Layers, whose weights take up a scale of each input channel.
        activations_before: Make values of the stretch; a scale needs a multiplication behind each.
        activations_behind: Read values of the stretch; a scale needs a multiplication before each.
        caps: ReLU6 within the stretch, or the minima that stand for them.
        values: Nodes whose values belong to the stretch.
    """

    makers: list[Channels]
    readers: list[Channels]
    activations_before: list[Channels]
    activations_behind: list[Channels]
    caps: list[Channels]
    values: list[Channels]


def free_stretches(graph_module: GraphModule, images: Tensor) -> list[Stretch]:
    """All stretches of which every channel may be scaled, in the graph's order.

    Args:
        graph_module: Captured graph, BatchNorm folded, without quantizers.
        images: Images, float32 `(N, 3, H, W)`, 0..1; the network runs on them once, for the shapes of its values.
    """
    labeller = _Labeller(graph_module)
    with torch.no_grad():
        labeller.run(images)
    return list(labeller.stretches())


class _Labels:
    """Labels, which of them are one, and which must not be scaled."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._bound: set[int] = set()

    def fresh(self, count: int) -> Tensor:
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return torch.arange(start, start + count)

    @property
    def count(self) -> int:
        return len(self._parents)

    def root(self, label: int) -> int:
        while self._parents[label] != label:
            self._parents[label] = label = self._parents[self._parents[label]]
        return label

    def roots(self, labels: Tensor) -> Tensor:
        return torch.tensor([self.root(label) for label in labels.tolist()], dtype=torch.long)

    def join(self, first: Tensor, second: Tensor) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            self._parents[self.root(other)] = self.root(one)

    def bind(self, labels: Tensor) -> None:
        self._bound.update(labels.unique().tolist())

    def bound(self) -> set[int]:
        return {self.root(label) for label in self._bound}


class _Labeller(Interpreter):
    """Runs a network; beside every value goes a tensor of its shape that holds the label of each element's channel."""

    def __init__(self, network: GraphModule) -> None:
        super().__init__(network)
        self._labels = _Labels()
        self._marked: dict[Node, Any] = {}
        self._found = Stretch([], [], [], [], [], [])

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "output":
            self._ended(n, value)
        elif kind(n) not in ("parameter", "size"):
            self._marked[n] = self._mark(n, value)
            labels = _by_channel(n, self._marked[n])
            if labels is not None:
                self._found.values.append(Channels(n, labels))
        return value

    def _mark(self, node: Node, value: Any) -> Any:
        """Labels of what a node makes; those of its inputs are joined or bound where the node demands it."""
        what, source = kind(node), node.args[0] if node.args else None
        if not isinstance(source, Node) and what != "concat":
            return self._made(node, value, bound=True)
        if what in ("conv", "linear"):
            return self._through_layer(node, value)
        if what == "activation":
            return self._through_activation(node, value)
        if what in ("view", "concat"):
            return self._repeated(node)
        if what in _BY_CHANNEL or (what == "other" and "upsample" in str(node.target)):
            return self._channelwise(node, value)
        if what == "add":
            return self._through_addition(node, value)
        if what == "mul":
            return self._through_product(node, value)
        return self._ended(node, value)

    def _through_layer(self, node: Node, value: Tensor) -> Any:
        source: Node = node.args[0]  # type: ignore[assignment]
        labels = _by_channel(source, self._marked[source])
        if labels is None or kind(node.args[1]) != "parameter":  # type: ignore[arg-type]
            return self._ended(node, value)
        return self._begun_anew(node, value, labels, self._found.readers, self._found.makers)

    def _through_activation(self, node: Node, value: Tensor) -> Any:
        source: Node = node.args[0]  # type: ignore[assignment]
        labels = _by_channel(source, self._marked[source])
        if is_homogeneous(node) and labels is not None:
            if is_capped(node):
                self._found.caps.append(Channels(node, labels))
            return self._marked[source]
        if labels is None:
            return self._ended(node, value)
        return self._begun_anew(node, value, labels, self._found.activations_behind, self._found.activations_before)

    def _channelwise(self, node: Node, value: Tensor) -> Any:
        source: Node = node.args[0]  # type: ignore[assignment]
        labels = _by_channel(source, self._marked[source])
        if labels is None or value.dim() != 4:
            return self._ended(node, value)
        return _spread(labels, value, 1)

    def _through_addition(self, node: Node, value: Tensor) -> Any:
        sources = tensor_inputs(node)
        known = [_by_channel(source, self._marked.get(source)) for source in sources]
        first, second = known if len(known) == 2 else (None, None)
        # A number, or a constant, that is added has no channel whose scale it could follow.
        if first is None or second is None or len(first) != len(second) or node.kwargs:
            return self._ended(node, value)
        self._labels.join(first, second)
        return _spread(first, value, channel_axis(node))

    def _through_product(self, node: Node, value: Tensor) -> Any:
        """A product's scale is that of its first factor; the other, a gate, a constant or a number, keeps its own."""
        factors = [argument for argument in node.args[:2] if isinstance(argument, Node) and argument in self._marked]
        carriers = [factor for factor in factors if self.env[factor].shape == value.shape]
        squared = len(factors) == 2 and factors[0] is factors[1]
        if squared or not carriers:
            return self._ended(node, value)
        # Of two of one shape the gate is what an activation that ends at 1 makes, which comes last.
        for gate in factors:
            if gate is not carriers[0]:
                self._bind(gate)
        return self._marked[carriers[0]]

    def _repeated(self, node: Node) -> Any:
        """The same operator on labels; it only moves values."""

        def labels_of(argument: Node) -> Any:
            marked = self._marked.get(argument)
            return self.env[argument] if marked is None else marked

        arguments = torch.fx.node.map_arg(node.args, labels_of)
        keywords = torch.fx.node.map_arg(node.kwargs, labels_of)
        function: Any = node.target
        if function is aten.view.default:
            marked: Any = arguments[0]
            arguments = (marked.contiguous(), *arguments[1:])
        return function(*arguments, **keywords)

    def _ended(self, node: Node, value: Any) -> Any:
        """Labels of a node through which no scale passes: nothing that it reads or makes may be scaled."""
        for source in tensor_inputs(node):
            self._bind(source)
        return self._made(node, value, bound=True)

    def _begun_anew(self, node: Node, value: Tensor, labels: Tensor, readers: list[Channels], makers: list[Channels]) -> Any:
        """New labels behind a node that takes up the scale of what it reads and that of what it makes."""
        readers.append(Channels(node, labels))
        marked = self._made(node, value)
        made = _by_channel(node, marked)
        assert made is not None
        makers.append(Channels(node, made))
        return marked

    def _made(self, node: Node, value: Any, *, bound: bool = False) -> Any:
        if not isinstance(value, Tensor):
            return None
        axis = channel_axis(node) if value.dim() > 1 else 0
        labels = self._labels.fresh(value.shape[axis] if value.dim() else 1)
        if bound:
            self._labels.bind(labels)
        return _spread(labels, value, axis) if value.dim() else labels.reshape(())

    def _bind(self, node: Node) -> None:
        marked = self._marked.get(node)
        for labels in marked if isinstance(marked, tuple | list) else (marked,):
            if isinstance(labels, Tensor):
                self._labels.bind(labels)

    def stretches(self) -> Iterator[Stretch]:
        """What was found, taken apart."""
        bound = self._labels.bound()
        rooted = [[Channels(node, self._labels.roots(labels)) for node, labels in found] for found in self._found]
        together = _Labels()
        together.fresh(self._labels.count)
        for _, labels in itertools.chain(*rooted):
            together.join(labels[:1].expand(len(labels)), labels)
        spoilt = {together.root(label) for label in bound}
        parts: dict[int, Stretch] = {}
        for number, found in enumerate(rooted):
            for channels in found:
                home = together.root(int(channels.labels[0]))
                if home not in spoilt:
                    parts.setdefault(home, Stretch([], [], [], [], [], []))[number].append(channels)
        yield from parts.values()


def _spread(labels: Tensor, value: Tensor, axis: int) -> Tensor:
    shape = [1] * value.dim()
    shape[axis] = -1
    return labels.view(shape).expand(value.shape)


def _by_channel(node: Node, marked: Any) -> Tensor | None:
    """Labels by channel, `(C,)`; none where a channel holds several."""
    if not isinstance(marked, Tensor) or marked.dim() < 2:
        return None
    rows = marked.transpose(0, channel_axis(node))
    if not rows.numel():
        return None
    first = rows
    while first.dim() > 1:
        first = first.select(-1, 0)
    same = all(stride == 0 for stride in rows.stride()[1:]) or bool((rows == first.view(-1, *[1] * (rows.dim() - 1))).all())
    return first if same else None
