"""Detect objects with TensorRT: `python python_tensorrt.py model.engine picture.jpg`; torch holds the GPU's memory."""

import sys
from pathlib import Path

import numpy as np
import tensorrt
import torch
from picture import print_detections, read_picture

TYPES = {tensorrt.float32: torch.float32, tensorrt.float16: torch.float16, tensorrt.int32: torch.int32}


def main(engine_file: str, picture: str) -> None:
    """Run an engine that `trtexec` built of a file that `yoloquant quantize --target tensorrt --nms` wrote."""
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    tensorrt.init_libnvinfer_plugins(logger, "")
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(Path(engine_file).read_bytes())
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    source = next(name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT)
    height, width = list(engine.get_tensor_shape(source))[2:]
    images, scale, left, top = read_picture(Path(picture), height, width)
    tensors = {source: torch.from_numpy(images).cuda()}
    context.set_input_shape(source, images.shape)
    for name in names:
        if name != source:
            shape = tuple(context.get_tensor_shape(name))
            tensors[name] = torch.empty(shape, dtype=TYPES[engine.get_tensor_dtype(name)], device="cuda")
        context.set_tensor_address(name, tensors[name].data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    count, boxes, scores, classes = (
        tensors[name][0].cpu().numpy() for name in ("num_dets", "det_boxes", "det_scores", "det_classes")
    )
    rows = np.concatenate([boxes, scores[:, None], classes[:, None]], 1)[: int(count[0])]
    print_detections(rows, scale, left, top, {})


if __name__ == "__main__":
    main(*sys.argv[1:3])
