"""Activations that exporters write as arithmetic are captured as the one operator they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yoloquant.graph.capture import capture

aten = torch.ops.aten


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.function = function
        self.eval()

    def forward(self, x):
        return [self.last(self.function(self.first(x) * 8))]


FORMS = {
    "line clipped to 0..1": (lambda x: (x * 0.166667 + 0.5).clamp(0, 1), aten.hardsigmoid.default),
    "quotient, then clipped": (lambda x: (0.5 + x / 6).clamp(0, 1), aten.hardsigmoid.default),
    "clipped to 0..6, then divided": (lambda x: F.relu6(x + 3) / 6, aten.hardsigmoid.default),
    "clipped to 0..6, then multiplied": (lambda x: F.hardtanh(x + 3, 0.0, 6.0) * (1 / 6), aten.hardsigmoid.default),
    "subtraction": (lambda x: (x - -3).clamp(0, 6) / 6, aten.hardsigmoid.default),
    "product with the clipped line": (lambda x: x * (x * 0.166667 + 0.5).clamp(0, 1), aten.hardswish.default),
    "product, divided last": (lambda x: x * (x + 3).clamp(0, 6) / 6, aten.hardswish.default),
    "quotient inside of the product": (lambda x: F.relu6(x + 3) / 6 * x, aten.hardswish.default),
    "SiLU": (lambda x: torch.sigmoid(x) * x, aten.silu.default),
    "Mish": (lambda x: x * torch.tanh(F.softplus(x)), aten.mish.default),
}


@pytest.mark.parametrize("name", FORMS)
def test_arithmetic_becomes_its_activation(name):
    function, activation = FORMS[name]
    network = Between(function)
    captured = capture(network, (32, 32))
    targets = [node.target for node in captured.graph.nodes if node.op == "call_function"]
    # The factor of 8 stays; nothing else does.
    assert targets == [aten.conv2d.default, aten.mul.Tensor, activation, aten.conv2d.default]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(captured(x), network(x), rtol=1e-4, atol=1e-4)


OTHERS = {
    "another slope": lambda x: (x * 0.2 + 0.5).clamp(0, 1),
    "another cap": lambda x: x * (x + 3).clamp(0, 5) / 6,
    "another factor": lambda x: x * (x + 3).clamp(0, 6) / 5,
    "another offset": lambda x: F.relu6(x + 2) / 6,
    "no cap": lambda x: (x / 6 + 0.5).clamp(min=0),
    "offset behind": lambda x: F.relu6(x + 3) / 6 + 1,
    "line read by another": lambda x: (lambda line: line.clamp(0, 1) + line)(x / 6 + 0.5),
    "clipped line read by another": lambda x: (lambda clipped: clipped / 6 + clipped.exp())((x + 3).clamp(0, 6)),
    "product of two maps": lambda x: x.abs() * (x + 3).clamp(0, 6) / 6,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_resembles_an_activation_keeps_its_values(name):
    network = Between(OTHERS[name])
    captured = capture(network, (32, 32))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(captured(x), network(x), rtol=1e-5, atol=1e-5)
    targets = {node.target for node in captured.graph.nodes if node.op == "call_function"}
    assert not targets & {aten.hardswish.default}
