"""Detect objects with ONNX Runtime: `python python_onnxruntime.py model.onnx picture.jpg`."""

import ast
import sys
from pathlib import Path

import onnxruntime
from picture import print_detections, read_picture


def main(model: str, picture: str) -> None:
    """Run a file that `yoloquant quantize --nms` wrote."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    height, width = source.shape[2:]
    images, scale, left, top = read_picture(Path(picture), height, width)
    (detections,) = session.run(None, {source.name: images})
    names = ast.literal_eval(session.get_modelmeta().custom_metadata_map["names"])
    print_detections(detections[0], scale, left, top, names)


if __name__ == "__main__":
    main(*sys.argv[1:3])
