"""Capturing and folding against the network itself."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from small_networks import SIZE, SmallNetwork
from yoloquant.errors import YoloquantError
from yoloquant.graph.capture import capture, copy_graph
from yoloquant.graph.operators import kind
from yoloquant.models.reparameterize import folded


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), transposed=st.booleans(), with_bias=st.booleans())
def test_folded_convolution_answers_as_the_pair(seed, transposed, with_bias):
    torch.manual_seed(seed)
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(4, 6, 3, bias=with_bias)
    norm = nn.BatchNorm2d(6, eps=1e-3).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 3)
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    weight, bias = folded(
        conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps, int(transposed)
    )
    x = torch.randn(2, 4, 8, 8)
    function = nn.functional.conv_transpose2d if transposed else nn.functional.conv2d
    torch.testing.assert_close(function(x, weight, bias), norm(conv(x)), rtol=1e-4, atol=1e-4)


def test_capture_keeps_the_answers_at_any_batch_and_size():
    network = SmallNetwork()
    captured = capture(network, SIZE, 8)
    assert not any(kind(node) == "batch_norm" for node in captured.graph.nodes)
    for shape in [(1, 3, *SIZE), (3, 3, 32, 48)]:
        x = torch.rand(shape)
        for ours, theirs in zip(captured(x), network(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_copies_are_made_without_warnings():
    captured = capture(SmallNetwork(), SIZE, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = copy_graph(captured)
    copied.get_parameter("stem.conv.weight").data.zero_()
    assert captured.get_parameter("stem.conv.weight").any()


def test_layers_have_the_names_users_know():
    captured = capture(SmallNetwork(), SIZE, 8)
    names = [node.meta["layer"] for node in captured.graph.nodes]
    assert len(names) == len(set(names))
    assert {"stem.conv", "stem.act", "add", "concat", "pool", "up", "head.0", "head.1"} <= set(names)


def test_in_place_operators_become_functional():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)
            self.act = nn.SiLU(inplace=True)

        def forward(self, x):
            return [self.act(self.conv(x))]

    network = InPlace().eval()
    captured = capture(network, (32, 32), 2)
    assert not any(str(node.target).endswith("_.default") for node in captured.graph.nodes)
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(captured(x)[0], network(x)[0])


def test_what_cannot_be_captured_is_told():
    class Branching(nn.Module):
        def forward(self, x):
            return [x if x.sum() > 0 else -x]

    with pytest.raises(YoloquantError, match="cannot be captured"):
        capture(Branching(), (32, 32), 32)
    with pytest.raises(YoloquantError, match=r"multiple of the network's stride .* choose multiples, as"):
        capture(SmallNetwork(), (33, 32), 32)
