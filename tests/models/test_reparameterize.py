"""Deploy forms against the training forms they replace, and the decoding of anchor-free maps against its formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import yoloquant.models.registry  # noqa: F401  (registers the blocks)
from yoloquant.models.architecture import Description, build
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.reparameterize import deploy


def random_tensors(module):
    """A torch module as a description, BatchNorm statistics far from their defaults."""
    generator = torch.Generator().manual_seed(sum(map(ord, str(module))))
    tensors = {}
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=generator) + 0.5 if "var" in name else None
            tensor = torch.randn(tensor.shape, generator=generator) if values is None else values
        tensors[name] = tensor
    return tensors


def described(module):
    fields = {
        name: getattr(module, name)
        for name in (
            "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "num_features", "eps",
            "count_include_pad", "ceil_mode",
        )
        if hasattr(module, name)
    }  # fmt: skip
    cls = type(module)
    tensors = random_tensors(module)
    return Description(f"{cls.__module__}.{cls.__name__}", fields, {}, tensors, frozenset(dict(module.named_parameters())))


def pair(name, first, second, kind="torch.nn.modules.container.Sequential"):
    names = ("0", "1") if name is None else name
    return Description(kind, {}, {names[0]: described(first), names[1]: described(second)})


def conv(inputs, outputs, kernel, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def described_conv_bn(inputs, outputs, kernel, stride=1, groups=1):
    return pair(None, conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs))


def as_module(description, kind):
    """The same two layers under the names `conv` and `bn` of a repository's own block."""
    children = {"conv": description.children["0"], "bn": description.children["1"]}
    return Description(kind, {}, children)


RELU = Description("torch.nn.modules.activation.ReLU")
IDENTITY = Description("torch.nn.modules.linear.Identity")
MODULE = "yolov6.layers.common.ConvModule"


def repconv(channels, stride, groups):
    children = {
        "act": RELU,
        "rbr_dense": described_conv_bn(channels, channels, 3, stride, groups),
        "rbr_1x1": described_conv_bn(channels, channels, 1, stride, groups),
    }
    if stride == 1:
        children["rbr_identity"] = described(nn.BatchNorm2d(channels))
    return Description("models.common.RepConv", {"groups": groups}, children)


def repvgg(channels, stride, groups):
    children = {
        "nonlinearity": RELU,
        "se": IDENTITY,
        "rbr_dense": as_module(described_conv_bn(channels, channels, 3, stride, groups), MODULE),
        "rbr_1x1": as_module(described_conv_bn(channels, channels, 1, stride, groups), MODULE),
    }
    if stride == 1:
        children["rbr_identity"] = described(nn.BatchNorm2d(channels))
    return Description("yolov6.layers.common.RepVGGBlock", {"groups": groups}, children)


def qarepvgg(channels, stride, groups):
    """The second version: plain 1x1 and identity, an average, BatchNorm behind the sum."""
    block = repvgg(channels, stride, groups)
    children = {**block.children, "rbr_1x1": described(conv(channels, channels, 1, stride, groups))}
    children["bn"] = described(nn.BatchNorm2d(channels))
    if stride == 1:
        children["rbr_identity"] = IDENTITY
        children["rbr_avg"] = described(nn.AvgPool2d(3, 1, 1))
    return Description("yolov6.layers.common.QARepVGGBlockV2", {"groups": groups}, children)


def linear_add(channels, stride, _groups):
    def scale(seed):
        values = torch.randn(channels, generator=torch.Generator().manual_seed(seed))
        return Description("yolov6.layers.common.ScaleLayer", {}, {}, {"weight": values}, frozenset({"weight"}))

    children = {
        "conv": described(conv(channels, channels, 3, stride)),
        "conv_1x1": described(conv(channels, channels, 1, stride)),
        "scale_conv": scale(1),
        "scale_1x1": scale(2),
        "bn": described(nn.BatchNorm2d(channels)),
        "relu": RELU,
        "se": IDENTITY,
    }
    if stride == 1:
        children["scale_identity"] = scale(3)
    return Description("yolov6.layers.common.LinearAddBlock", {}, children)


def ultralytics_conv(inputs, outputs, kernel, stride, groups):
    block = as_module(described_conv_bn(inputs, outputs, kernel, stride, groups), "ultralytics.nn.modules.Conv")
    return Description(block.name, {}, {**block.children, "act": IDENTITY})


def ultralytics_repconv(channels, stride, groups):
    children = {
        "act": RELU,
        "conv1": ultralytics_conv(channels, channels, 3, stride, groups),
        "conv2": ultralytics_conv(channels, channels, 1, stride, groups),
    }
    if stride == 1:
        children["bn"] = described(nn.BatchNorm2d(channels))
    return Description("ultralytics.nn.modules.RepConv", {}, children)


def large_kernel(channels, _stride, _groups):
    children = {
        "act": RELU,
        "conv": ultralytics_conv(channels, channels, 7, 1, channels),
        "conv1": ultralytics_conv(channels, channels, 3, 1, channels),
    }
    return Description("ultralytics.nn.modules.RepVGGDW", {}, children)


@pytest.mark.parametrize("make", [repconv, repvgg, qarepvgg, linear_add, ultralytics_repconv, large_kernel])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_one_convolution_answers_as_the_branches_did(make, stride, groups):
    block = build(make(4, stride, groups)).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = block(x)
        deployed = deploy(block)
        torch.testing.assert_close(deployed(x), expected, rtol=1e-6, atol=1e-6)
        # Asked again, it is left as it is.
        torch.testing.assert_close(deploy(deployed)(x), expected, rtol=1e-6, atol=1e-6)
    convolutions = [module for module in deployed.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 1


def test_implicit_values_fold_into_the_convolution():
    def implicit(name, channels, seed):
        values = torch.randn(1, channels, 1, 1, generator=torch.Generator().manual_seed(seed))
        return Description(f"models.common.{name}", {}, {}, {"implicit": values}, frozenset({"implicit"}))

    def several(*descriptions):
        numbered = {str(index): child for index, child in enumerate(descriptions)}
        return Description("torch.nn.modules.container.ModuleList", {}, numbered)

    children = {
        "m": several(described(nn.Conv2d(4, 21, 1))),
        "ia": several(implicit("ImplicitA", 4, 1)),
        "im": several(implicit("ImplicitM", 21, 2)),
    }
    head = build(Description("models.yolo.IDetect", {"nc": 2, "na": 3}, children)).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = head([x])
        (found,) = deploy(head)([x])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert [name for name, _ in head.named_parameters()] == ["m.0.weight", "m.0.bias"]


def decoded_by_hand(boxes, scores, stride, bins):
    """One level, cell by cell: `(A, 4)` corners and `(A, C)` scores."""
    height, width = boxes.shape[1:]
    corners, probabilities = [], []
    for row in range(height):
        for column in range(width):
            sides = boxes[:, row, column].reshape(4, bins).astype(np.float64)
            shares = np.exp(sides) / np.exp(sides).sum(1, keepdims=True)
            left, top, right, bottom = (shares * np.arange(bins)).sum(1) if bins > 1 else sides[:, 0]
            x, y = column + 0.5, row + 0.5
            corners.append([(x - left) * stride, (y - top) * stride, (x + right) * stride, (y + bottom) * stride])
            probabilities.append(1 / (1 + np.exp(-scores[:, row, column].astype(np.float64))))
    return np.array(corners), np.array(probabilities)


@settings(max_examples=20, deadline=None)
@given(bins=st.sampled_from([1, 5, 17]), height=st.integers(1, 3), width=st.integers(1, 3), seed=st.integers(0, 99))
def test_distances_are_decoded_by_their_formula(bins, height, width, seed):
    generator = np.random.default_rng(seed)
    maps = [generator.normal(size=(1, channels, height, width)).astype(np.float32) for channels in (4 * bins, 3)]
    corners, scores = decoded_by_hand(maps[0][0], maps[1][0], 8, bins)
    tensors = [torch.from_numpy(values) for values in maps]
    columns = DistanceHead("columns_classes", 3, [8], bins)(tensors)[0].numpy()
    np.testing.assert_allclose(columns[:2].T, (corners[:, :2] + corners[:, 2:]) / 2, atol=1e-3)
    np.testing.assert_allclose(columns[2:4].T, corners[:, 2:] - corners[:, :2], atol=1e-3)
    np.testing.assert_allclose(columns[4:].T, scores, atol=1e-5)
    rows = DistanceHead("rows_objectness", 3, [8], bins)(tensors)[0].numpy()
    np.testing.assert_allclose(rows[:, :4], columns[:4].T)
    assert (rows[:, 4] == 1).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), kept=st.integers(1, 12))
def test_final_rows_are_the_best_pairs_among_the_best_boxes(seed, kept):
    generator = np.random.default_rng(seed)
    maps = [generator.normal(size=(1, channels, 3, 3)).astype(np.float32) for channels in (4, 3)]
    corners, scores = decoded_by_hand(maps[0][0], maps[1][0], 8, 1)
    best = np.argsort(-scores.max(1))[:kept]
    pairs = sorted(((scores[box, c], box, c) for box in best for c in range(3)), reverse=True)[:kept]
    rows = DistanceHead("rows_final", 3, [8], 1, kept)([torch.from_numpy(values) for values in maps])[0].numpy()
    assert rows.shape == (min(kept, 9), 6)
    for row, (score, box, number) in zip(rows, pairs, strict=False):
        np.testing.assert_allclose(row, [*corners[box], score, number], rtol=1e-4, atol=1e-4)
