"""Export a detector to ONNX."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxscript
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from yoloquant.checkpoint.onnx_metadata import extra_facts
from yoloquant.checkpoint.read_onnx import opset_of
from yoloquant.errors import ExportError, first_line
from yoloquant.exporting.fused_silu import fuse_silu
from yoloquant.exporting.half_precision import LOWEST_OPSET, to_half
from yoloquant.exporting.integer_hardswish import write_hardswish_in_integers
from yoloquant.exporting.lowering import (
    DOMAIN,
    OP_TYPE,
    OPSET_OF_SMALL_TYPES,
    lower_fake_quantize,
    needs_small_types,
    operator_schema,
    remove_repeated_pairs,
)
from yoloquant.exporting.onnx_head import attach_head
from yoloquant.files.writing import checked_file, replaced_whole
from yoloquant.graph.capture import copy_graph
from yoloquant.graph.operators import kind
from yoloquant.models.detector import Detector, check_size
from yoloquant.models.onnx.head import OnnxHead
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.models.onnx.network import CONVERSION
from yoloquant.models.reparameterize import deploy
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.targets.registry import TARGETS
from yoloquant.targets.target import Target

# The lowest opset that the torch exporter writes; runtimes that lag behind read it.
DEFAULT_OPSET = 18

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INPUT_NAME = "images"
OUTPUT_NAME = "output"


class _Decoded(nn.Module):
    """Network and head as one module, images in, decoded output out; raw maps without a head."""

    def __init__(self, network: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        # The network's own name must not be the start of a path: exported scales are named by paths inside of it.
        self.network = network
        self.head = head

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        maps = list(self.network(images))
        return maps if self.head is None else self.head(maps)


def export_onnx(
    detector: Detector | QuantizedDetector,
    path: Path,
    *,
    target: str = "float",
    input_size: tuple[int, int] | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    half: bool = False,
) -> None:
    """Write a detector as an ONNX file: input `images` `(N, 3, H, W)` RGB 0..1, output `output` in the family's layout.

    Args:
        detector: Float detector, or quantized with all quantizers frozen.
        path: Path of the file; written whole or not at all.
        target: Name for the file's metadata.
        input_size: `(height, width)`; the detector's own by default.
        dynamic_batch: Whether N is left free; 1 otherwise.
        opset: Opset, at least 18; by default the lowest that can hold the file's integer types.
        half: Whether what is not in integers is in half precision, but the input and what decodes the outputs; needs opset 19.

    Raises:
        ExportError: Torch cannot export the network, or half precision cannot hold a weight of it.
        YoloquantError: The file cannot be written, or the size does not fit the strides.
    """
    checked_file(path)
    size = input_size or detector.input_size
    check_size(detector, size)
    network, head = _exportable(detector), detector.head
    kept = head if isinstance(head, OnnxHead) else None
    # The kept head cannot go back to an older operator set than its file has.
    lowest = max(_lowest_opset(detector), opset_of(onnx.load_model_from_string(kept.model_bytes())) if kept else 0)
    lowest = max(lowest, LOWEST_OPSET if half else 0)
    if opset is not None and opset < lowest:
        raise ExportError(f"opset {opset} cannot hold this model: choose {lowest} or later")
    module = _Decoded(network, None if kept else head)
    outputs = [f"map_{index}" for index in range(len(kept.map_names))] if kept else [OUTPUT_NAME]
    dynamic_batch = dynamic_batch and not (kept and kept.batch_size)
    program = _torch_export(module, size, dynamic_batch=dynamic_batch, opset=opset or lowest, outputs=outputs)
    model = program.model
    lower_fake_quantize(model)
    if target in TARGETS:
        _write_for(model, TARGETS[target])
    _name_nodes(model.graph)
    proto = ir.to_proto(model)
    if kept:
        proto = attach_head(proto, onnx.load_model_from_string(kept.model_bytes()), kept.input_name)
    extra = extra_facts(getattr(head, "decoder", None) if kept else None, detector.preprocessing)
    if head.branch is not None:
        extra["branch"] = head.branch
    metadata = ModelMetadata(detector.names, detector.strides, size, detector.family, head.layout, target, extra)
    strip_origins(proto)
    if half:
        to_half(proto)
    onnx.helper.set_model_props(proto, metadata.to_properties())
    proto.producer_name = "yoloquant"
    onnx.checker.check_model(proto)
    with replaced_whole(path) as partial:
        onnx.save(proto, str(partial))


def strip_origins(model: onnx.ModelProto) -> None:
    """Take out what exporters note about where a node comes from: stack traces with folders of this machine, in place."""
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        values = [] if isinstance(graph, onnx.FunctionProto) else [*graph.initializer, *graph.input, *graph.output]
        for part in (graph, *graph.node, *graph.value_info, *values):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]


def _write_for(model: ir.Model, target: Target) -> None:
    """What a target's runtime wants to be written differently, without changing any value."""
    if target.carries_integers:
        remove_repeated_pairs(model)
    if target.fused_silu:
        fuse_silu(model)
    if target.integer_hardswish:
        write_hardswish_in_integers(model)


def _lowest_opset(detector: Detector | QuantizedDetector) -> int:
    if isinstance(detector, QuantizedDetector):
        specs = [quantizer.spec for _, quantizer in detector.quantizers()]
        if any(needs_small_types(s.quant_min, s.quant_max, s.group_size) for s in specs):
            return OPSET_OF_SMALL_TYPES
    return DEFAULT_OPSET


def _exportable(detector: Detector | QuantizedDetector) -> nn.Module:
    """The network as files hold it: in deploy form, and without the conversion of images, which is the file's user's."""
    if isinstance(detector, QuantizedDetector):
        return detector.network if detector.preprocessing.is_plain else _without_conversion(detector.network)
    network = deploy(copy.deepcopy(detector.network))
    if hasattr(network, CONVERSION):
        delattr(network, CONVERSION)
    return network


def _without_conversion(network: GraphModule) -> GraphModule:
    """A copy whose first layer reads the images themselves."""
    network = copy_graph(network)
    graph = network.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    # Quantizers of what it makes stay: they have the scale of images as the file takes them.
    named = [node for node in graph.nodes if str(node.meta.get("layer", "")).startswith(CONVERSION)]
    conversion = [node for node in named if kind(node) != "quantizer"]
    if conversion:
        conversion[-1].replace_all_uses_with(images)
        for node in reversed(conversion):
            graph.erase_node(node)
        network.recompile()
    return network


def _torch_export(module: nn.Module, size: tuple[int, int], *, dynamic_batch: bool, opset: int, outputs: list[str]) -> Any:
    # Two images, since torch.export takes a batch of one for a constant.
    example = torch.zeros(2 if dynamic_batch else 1, 3, *size)
    dynamic = {INPUT_NAME: {0: torch.export.Dim("batch", min=1)}} if dynamic_batch else None
    try:
        with _evaluation_mode(module), quiet_exporter(), torch.no_grad():
            return torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=outputs,
                dynamic_shapes=dynamic,
                custom_translation_table={torch.ops.yoloquant.fake_quantize.default: _translate},
                optimize=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        # torch's own sentence refers to traces that users do not see; what went wrong is at the bottom of them.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(f"torch cannot export this network to ONNX: {first_line(cause)}") from error


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, each submodule's own mode afterwards.

    The flags are set one by one, since exported graphs, whose operators do not depend on them, refuse `eval()`.
    """
    modes = [(child, child.training) for child in module.modules()]
    try:
        for child, _ in modes:
            child.training = False
        yield
    finally:
        for child, training in modes:
            child.training = training


def _translate(x: Any, scale: Any, zero_point: Any, quant_min: int, quant_max: int, axis: int, group_size: int, name: str) -> Any:
    """Translation of `yoloquant::fake_quantize` for the torch exporter."""
    operator = onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), OP_TYPE, operator_schema())
    attributes = {"quant_min": quant_min, "quant_max": quant_max, "axis": axis, "group_size": group_size, "name": name}
    return operator(x, scale, zero_point, **attributes)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The torch exporter prints its progress and torchvision's absence; users asked for neither."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_nodes(graph: ir.Graph) -> None:
    """Give initializers their layer names, and weighted nodes the name of their layer."""
    for name, value in list(graph.initializers.items()):
        short = name.removeprefix("network.")
        if short != name and short not in graph.initializers:
            del graph.initializers[name]
            value.name = short
            graph.initializers[short] = value
    layers = set()
    for node in graph:
        if node.op_type in _WEIGHTED and len(node.inputs) > 1 and node.inputs[1] is not None:
            weight = str(node.inputs[1].name)
            if weight.endswith(".weight"):
                node.name = weight.removesuffix(".weight")
                layers.add(node.name)
    for node in graph:
        # The exporter numbers what it takes apart, n0, n1, ..., as layers of ONNX files are numbered.
        if node.name in layers and node.op_type not in _WEIGHTED:
            node.name = f"{node.name}.{node.op_type}"
