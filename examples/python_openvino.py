"""Detect objects with OpenVINO: `python python_openvino.py model.onnx picture.jpg`."""

import ast
import sys
from pathlib import Path

import onnx
import openvino
from picture import print_detections, read_picture


def main(model: str, picture: str) -> None:
    """Run a file that `yoloquant quantize --target openvino --nms` wrote."""
    core = openvino.Core()
    network = core.read_model(model)
    shape = network.inputs[0].get_partial_shape()
    # One image in a call; with a fixed shape the plugin plans its memory once.
    shape[0] = 1
    network.reshape(shape)
    compiled = core.compile_model(network, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    height, width = (dimension.get_length() for dimension in list(shape)[2:])
    images, scale, left, top = read_picture(Path(picture), height, width)
    detections = compiled(images)[0]
    properties = {entry.key: entry.value for entry in onnx.load(model, load_external_data=False).metadata_props}
    print_detections(detections[0], scale, left, top, ast.literal_eval(properties["names"]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
