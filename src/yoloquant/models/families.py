"""Importing this registers the modules of all families."""

import yoloquant.models.distance_head
import yoloquant.models.grid_head
import yoloquant.models.layered
import yoloquant.models.onnx.head
import yoloquant.models.onnx.network
import yoloquant.models.preprocessing
import yoloquant.models.ultralytics.attention
import yoloquant.models.ultralytics.blocks
import yoloquant.models.ultralytics.network
import yoloquant.models.yolov5.blocks
import yoloquant.models.yolov5.network
import yoloquant.models.yolov6.blocks
import yoloquant.models.yolov6.network
import yoloquant.models.yolov6.reparameterized
import yoloquant.models.yolov7.blocks
import yoloquant.models.yolov7.network  # noqa: F401
