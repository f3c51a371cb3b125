"""Non-maximum suppression inside of a file, behind the decoded output: on request, since it fixes thresholds at export.

The file then outputs final detections: `(N, K, 6)` rows of corners, score and class number, best first, zeros where there
are fewer (layout `rows_final`); or, for TensorRT, with the four outputs of its EfficientNMS plugin.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import onnx
from onnx import parser
from pydantic import Field
from pydantic.dataclasses import dataclass

from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.checkpoint.read_onnx import opset_of
from yoloquant.errors import ExportError
from yoloquant.exporting.onnx_head import attach_head
from yoloquant.files.writing import replaced_whole
from yoloquant.models.onnx.metadata import ModelMetadata, properties_of
from yoloquant.models.output_formats import LAYOUTS

FINAL_LAYOUT = "rows_final"
PLUGIN_OUTPUTS = ("num_dets", "det_boxes", "det_scores", "det_classes")


@dataclass(frozen=True)
class NmsOptions:
    """What is written into the file.

    Attributes:
        confidence: Minimum score, 0..1.
        iou: Intersection over union with a better box above which a box is suppressed, 0..1.
        max_detections: Number of rows of the output, and maximum number of boxes of each class.
        class_agnostic: Whether boxes of different classes suppress each other; each box then counts for its best class only.
    """

    confidence: float = Field(default=0.25, ge=0.0, le=1.0)
    iou: float = Field(default=0.45, ge=0.0, le=1.0)
    max_detections: int = Field(default=300, ge=1)
    class_agnostic: bool = False


# Boxes (N, A, 4) as corners and scores (N, C, A) of each layout, as ONNX text; C stands for the number of classes.
_CANDIDATES = {
    "rows_objectness": """
        parts = Constant <value_ints = [2, 2, 1, C]> ()
        centers, sizes, objectness, classes = Split <axis = 2> (decoded, parts)
        weighted = Mul (classes, objectness)
        scores = Transpose <perm = [0, 2, 1]> (weighted)
    """,
    "columns_classes": """
        parts = Constant <value_ints = [4, C]> ()
        box_columns, scores = Split <axis = 1> (decoded, parts)
        box_rows = Transpose <perm = [0, 2, 1]> (box_columns)
        pairs = Constant <value_ints = [2, 2]> ()
        centers, sizes = Split <axis = 2> (box_rows, pairs)
    """,
}
_CORNERS = """
        one_half = Constant <value_float = 0.5> ()
        half = Mul (sizes, one_half)
        low = Sub (centers, half)
        high = Add (centers, half)
        boxes = Concat <axis = 2> (low, high)
"""
# What competes (N, C or 1, A), and the class number (N, K, 1) of what was picked.
_RANKED = {
    False: "ranked = Identity (scores)",
    True: """
        class_axis = Constant <value_ints = [1]> ()
        ranked = ReduceMax <keepdims = 1> (scores, class_axis)
        best_classes = ArgMax <axis = 1, keepdims = 0> (scores)
    """,
}
_CLASS_NUMBERS = {
    False: "class_numbers = Gather <axis = 2> (picked, one)",
    True: """
        best_numbers = GatherND (best_classes, places)
        class_numbers = Unsqueeze (best_numbers, last_axis)
    """,
}
# NonMaxSuppression outputs one list for all images; a mask (N, M) says whose they are, and TopK takes the best of each.
# Rows of zeros at the list's end make sure that there are enough.
_ROWS = """
        rows = Constant <value_int = MOST> ()
        rows_list = Constant <value_ints = [MOST]> ()
        iou = Constant <value_float = IOU> ()
        confidence = Constant <value_float = CONFIDENCE> ()
        RANKED
        selected = NonMaxSuppression (boxes, ranked, rows, iou, confidence)
        selected_scores = GatherND (ranked, selected)
        no_scores = ConstantOfShape (rows_list)
        no_places_shape = Constant <value_ints = [MOST, 3]> ()
        no_places = ConstantOfShape <value = int64[1] {0}> (no_places_shape)
        all_scores = Concat <axis = 0> (selected_scores, no_scores)
        all_places = Concat <axis = 0> (selected, no_places)
        zero = Constant <value_int = 0> ()
        one = Constant <value_ints = [1]> ()
        last_axis = Constant <value_ints = [-1]> ()
        image_of = Gather <axis = 1> (all_places, zero)
        shape = Shape (boxes)
        count = Gather <axis = 0> (shape, zero)
        step = Constant <value_int = 1> ()
        numbers = Range (zero, count, step)
        image_numbers = Unsqueeze (numbers, last_axis)
        is_own = Equal (image_numbers, image_of)
        nothing = Constant <value_float = 0.0> ()
        own_scores = Where (is_own, all_scores, nothing)
        best, order = TopK <axis = 1, largest = 1, sorted = 1> (own_scores, rows_list)
        picked = Gather <axis = 0> (all_places, order)
        place_columns = Constant <value_ints = [0, 2]> ()
        places = Gather <axis = 2> (picked, place_columns)
        found_boxes = GatherND (boxes, places)
        CLASSES
        found_classes = Cast <to = 1> (class_numbers)
        found_scores = Unsqueeze (best, last_axis)
        found = Concat <axis = 2> (found_boxes, found_scores, found_classes)
        is_found = Greater (found_scores, nothing)
        detections = Where (is_found, found, nothing)
"""
_PLUGIN = """
        score_rows = Transpose <perm = [0, 2, 1]> (scores)
        num_dets, det_boxes, det_scores, det_classes = TRT.EfficientNMS_TRT <
            plugin_version = "1", background_class = -1, box_coding = 0, score_activation = 0, max_output_boxes = MOST,
            score_threshold = CONFIDENCE, iou_threshold = IOU, class_agnostic = AGNOSTIC
        > (boxes, score_rows)
"""


def add_nms(model: onnx.ModelProto, options: NmsOptions, *, tensorrt: bool = False) -> onnx.ModelProto:
    """Put suppression behind a file's decoded output.

    Args:
        model: Model of this project's export, with one decoded output; it is changed.
        options: Thresholds.
        tensorrt: Whether TensorRT's plugin EfficientNMS_TRT takes the place of ONNX's NonMaxSuppression; only TensorRT runs such
            a file. There a box counts once for each class above the confidence in the class-agnostic form, too.

    Raises:
        ExportError: The file does not say how its output is laid out, or outputs final detections already.
    """
    metadata = ModelMetadata.from_properties(properties_of(model))
    if metadata is None or len(model.graph.output) != 1 or metadata.layout not in _CANDIDATES:
        final = metadata is not None and LAYOUTS[metadata.layout].suppressed
        reason = "its output is final already" if final else "only files that yoloquant exported with decoded boxes can get it"
        raise ExportError(f"suppression cannot be added to this file: {reason}")
    suppression = parser.parse_model(_text(model, metadata, options, tensorrt=tensorrt))
    joined = attach_head(model, suppression, model.graph.input[0].name)
    extra = {**metadata.extra, "nms": asdict(options)}
    onnx.helper.set_model_props(joined, replace(metadata, layout=FINAL_LAYOUT, extra=extra).to_properties())
    return joined


def add_nms_to_file(path: Path, options: NmsOptions, *, tensorrt: bool = False) -> None:
    """`add_nms` for a file, which is replaced whole or not at all."""
    joined = add_nms(load_onnx(path), options, tensorrt=tensorrt)
    onnx.checker.check_model(joined)
    with replaced_whole(path) as partial:
        onnx.save(joined, str(partial))


def _text(model: onnx.ModelProto, metadata: ModelMetadata, options: NmsOptions, *, tensorrt: bool) -> str:
    """The suppression as an ONNX model in text form."""
    rows = str(options.max_detections)
    body = _CANDIDATES[metadata.layout].replace("C]", f"{len(metadata.names)}]") + _CORNERS + (_PLUGIN if tensorrt else _ROWS)
    values = {
        "RANKED": _RANKED[options.class_agnostic],
        "CLASSES": _CLASS_NUMBERS[options.class_agnostic],
        "CONFIDENCE": f"{options.confidence:.8f}",
        "IOU": f"{options.iou:.8f}",
        "AGNOSTIC": str(int(options.class_agnostic)),
        "MOST": rows,
    }
    for key, value in values.items():
        body = body.replace(key, value)
    kinds = {"num_dets": "int32[N, 1]", "det_boxes": f"float[N, {rows}, 4]", "det_scores": f"float[N, {rows}]"}
    kinds |= {"det_classes": f"int32[N, {rows}]", "detections": f"float[N, {rows}, 6]"}
    outputs = ", ".join(f"{kinds[name]} {name}" for name in (PLUGIN_OUTPUTS if tensorrt else ("detections",)))
    domains = f'"" : {opset_of(model)}' + (', "TRT" : 1' if tensorrt else "")
    return f"<ir_version: {model.ir_version}, opset_import: [{domains}]>\nnms (float[N, A, B] decoded) => ({outputs}) {{{body}}}"
