"""Placement rules: small functions on a draft, each with the source of what it claims about a runtime."""

from __future__ import annotations

from yoloquant.graph.operators import kind, multiplied, splitter
from yoloquant.graph.sizes import tensor_inputs
from yoloquant.targets.placement import Draft


def weighted_inputs(draft: Draft) -> None:
    """Quantize activation and weight of every convolution and linear layer that the runtime has an integer kernel for.

    Source: ONNX Runtime documentation, "Quantize ONNX models"; TensorRT developer guide, "Explicit quantization".
    """
    for node in draft.integer_layers():
        draft.quantize_inputs(node, (0,))
        draft.quantize_weight(node)


def matmul_inputs(draft: Draft) -> None:
    """Quantize both inputs of activation-by-activation products (attention)."""
    for node in draft.nodes("matmul"):
        draft.quantize_inputs(node)


def convolution_outputs(draft: Draft) -> None:
    """Quantize the output of a convolution, or of the activation that the runtime computes within it, for all readers.

    ONNX Runtime makes a QLinearConv only of DequantizeLinear -> Conv -> QuantizeLinear: where anything reads the output
    otherwise the convolution runs in float (`onnxruntime/core/optimizer/qdq_transformer/selectors_actions`,
    ConvNodeGroupSelector). It drops ReLU and Clip into that QuantizeLinear where they change none of its integers
    (`qdq_transformer/relu_quantizelinear.cc`, `clip_quantizelinear.cc`); each other activation stands between two pairs.
    TensorFlow Lite's layers have the fused activation functions of its schema, and int8 tensors on both sides of all others.
    """
    for node in draft.integer_layers():
        draft.quantize_for_all(draft.merged_activation(node) or node)


def add_inputs(draft: Draft) -> None:
    """Quantize both inputs of residual additions, so that they run in integers and fuse with the convolution before.

    Source: NVIDIA's yolov7_qat notes on Bottleneck additions; TensorRT developer guide, "Q/DQ layer-placement
    recommendations".
    """
    for node in draft.nodes("add"):
        draft.quantize_inputs(node)


def activation_outputs(draft: Draft) -> None:
    """Quantize the output of every activation and addition, for runtimes that keep whole chains in integers."""
    for node in draft.nodes("activation", "add"):
        draft.quantize_output(multiplied(node) or node)


def share_through_same_values(draft: Draft) -> None:
    """Let concat, pooling, nearest upsampling, splits and views have one scale on both sides, wherever their output is quantized.

    Their output holds only values of their inputs, so a second scale would only add rounding, and make the runtime convert:
    180 against 207 frames a second for YOLOv7 on Orin-X (NVIDIA yolov7_qat notes); TensorRT commutes Q with max pooling.
    """
    for node in reversed(list(draft.nodes("concat", "max_pool", "upsample", "view"))):
        if draft.is_output_quantized(node):
            taken_from = splitter(node) or node
            draft.quantize_inputs(taken_from)
            producers = [producer for producer in tensor_inputs(taken_from) if kind(producer) != "parameter"]
            # ONNX Runtime and OpenVINO rescale at the concat where its inputs cannot have one scale.
            if kind(node) != "concat" or draft.may_share(producers):
                for producer in producers:
                    draft.share(node, producer)


def share_addends(draft: Draft) -> None:
    """Let both inputs of an addition have one scale, so that hardware adds integers without rescaling either.

    Source: the hardware-aligned flow of yolov5_qat, which binds the inputs of additions and concats.
    """
    for node in draft.nodes("add"):
        producers = [producer for producer in tensor_inputs(node) if kind(producer) != "parameter"]
        for other in producers[1:]:
            draft.share(producers[0], other)


def network_outputs(draft: Draft) -> None:
    """Quantize the network's own outputs, for hardware that hands integers to the decoding."""
    for node in draft.integer_layers():
        draft.quantize_for_output(node)
