"""ONNX files as ultralytics' exporter writes them, made of small networks; and files that users report trouble with."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


class WithHead(nn.Module):
    """Network and head in one, as exporters see them."""

    def __init__(self, network, head):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, images):
        return self.head(list(self.network(images)))


def write_foreign(path: Path, detector, size, *, dynamic=False, **properties) -> Path:
    """A float detector as torch's older exporter and ultralytics' metadata put it into a file; no trace of this project."""
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}} if dynamic else None
    module = WithHead(detector.network, detector.head).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(1, 3, *size),), str(path), opset_version=17, dynamo=False, input_names=["images"],
            output_names=["output0"], dynamic_axes=axes, do_constant_folding=True,
        )  # fmt: skip
    facts = {
        "task": "detect", "stride": "32", "batch": "1", "imgsz": str(list(size)), "channels": "3",
        "names": str(dict(enumerate(detector.names))), **properties,
    }  # fmt: skip
    model = onnx.load(str(path))
    helper.set_model_props(model, {key: value for key, value in facts.items() if value is not None})
    onnx.save(model, str(path))
    return path


def _with_properties(model, **properties):
    kept = {entry.key: entry.value for entry in model.metadata_props} | properties
    del model.metadata_props[:]
    helper.set_model_props(model, {key: value for key, value in kept.items() if value is not None})


def _task(task):
    return lambda model: _with_properties(model, task=task)


def _masks_without_metadata(model):
    """A second output at a quarter of the image's size, and none of ultralytics' metadata."""
    _with_properties(model, task=None, names=None)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    size = [dimension.dim_value // 4 for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]]
    model.graph.node.append(helper.make_node("MaxPool", [first.output[0]], ["masks"], kernel_shape=[2, 2], strides=[2, 2]))
    model.graph.output.append(helper.make_tensor_value_info("masks", TensorProto.FLOAT, [1, 32, *size]))


def _channels(count):
    def change(model):
        images = model.graph.input[0].type.tensor_type.shape.dim
        images[1].dim_value = count
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == first.input[1])
        values = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(np.repeat(values[:, :1], count, 1), weight.name))
        _with_properties(model, channels=str(count))

    return change


def _read_through(kind, shape, *nodes):
    """Images come in another type or order, and nodes bring them into the network's own."""

    def change(model):
        for node in model.graph.node:
            node.input[:] = ["converted" if name == "images" else name for name in node.input]
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *kept])
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", kind, shape))

    return change


def _second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, [1, 2]))


def _names(count):
    return lambda model: _with_properties(model, names=str({index: str(index) for index in range(count)}))


_CAST = helper.make_node("Cast", ["images"], ["converted"], to=TensorProto.FLOAT)
_TRANSPOSE = helper.make_node("Transpose", ["images"], ["converted"], perm=[0, 3, 1, 2])
# What was done to a detector's file of 64 by 64 pixels -> how, and words of the sentence that refuses it.
ODD_FILES = {
    "segment": (_task("segment"), "the task 'segment'"),
    "pose": (_task("pose"), "the task 'pose'"),
    "obb": (_task("obb"), "the task 'obb'"),
    "classify": (_task("classify"), "the task 'classify'"),
    "masks": (_masks_without_metadata, "the task 'segment'"),
    "one-channel": (_channels(1), "1 channel:"),
    "four-channels": (_channels(4), "4 channels:"),
    "uint8": (_read_through(TensorProto.UINT8, [1, 3, 64, 64], _CAST), "uint8, not 32-bit floats"),
    "half-images": (_read_through(TensorProto.FLOAT16, [1, 3, 64, 64], _CAST), "float16, not 32-bit floats"),
    "channels-last": (_read_through(TensorProto.FLOAT, [1, 64, 64, 3], _TRANSPOSE), "channels last"),
    "vectors": (_read_through(TensorProto.FLOAT, [1, 12288], _CAST), "has 2 axes"),
    "two-inputs": (_second_input, "2 inputs (images, scale_factor)"),
    "other-names": (_names(5), "5 classes that its metadata names"),
}


def write_odd(path: Path, source: Path, name: str) -> Path:
    """A detector's file, changed as `ODD_FILES` says."""
    model = onnx.load(str(source))
    ODD_FILES[name][0](model)
    onnx.save(model, str(path))
    return path


def write_without_weights(path: Path, source: Path) -> Path:
    """A file whose weights lay beside it, and are lost."""
    onnx.save(onnx.load(str(source)), str(path), save_as_external_data=True, location="lost.data", size_threshold=0)
    (path.parent / "lost.data").unlink()
    return path


def write_half(path: Path, source: Path) -> Path:
    """Weights and arithmetic in 16 bits between ends in 32, as converters leave them."""
    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type in ("Constant", "ConstantOfShape") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    del model.graph.value_info[:]
    kept = list(model.graph.node)
    for node in kept:
        node.input[:] = ["narrow" if name == "images" else name for name in node.input]
        node.output[:] = ["narrow_output" if name == "output0" else name for name in node.output]
        # The factors of Resize stay in 32 bits.
    del model.graph.node[:]
    first = helper.make_node("Cast", ["images"], ["narrow"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["narrow_output"], ["output0"], to=TensorProto.FLOAT)
    widened = _wide_factors(model, kept)
    model.graph.node.extend([first, *widened, last])
    onnx.save(model, str(path))
    return path


def _wide_factors(model, nodes):
    """ONNX has the factors of Resize in 32 bits alone."""
    result = []
    for node in nodes:
        if node.op_type == "Resize":
            for position in (1, 2):
                if len(node.input) > position and node.input[position]:
                    wide = f"{node.output[0]}_{position}_wide"
                    result.append(helper.make_node("Cast", [node.input[position]], [wide], to=TensorProto.FLOAT))
                    node.input[position] = wide
        result.append(node)
    return result
