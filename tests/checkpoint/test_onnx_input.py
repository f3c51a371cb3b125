"""Detectors that come as ONNX files: the cut, the head that stays, foreign conventions, refusals."""

import warnings
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from small_families import small_detector, small_images
from small_networks import ConvBlock
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.from_module import detector_from_live, from_module
from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.checkpoint.onnx_metadata import foreign_facts
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.images import to_input
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import calibration_images
from yoloquant.errors import CheckpointError, RecipeError
from yoloquant.evaluation.parity import check_parity
from yoloquant.exporting.folder import load_quantized, save_quantized
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture, captured
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.preprocessing import Preprocessing, parse_preprocessing
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.quant.quantized_detector import quantized_from
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.registry import open_onnx
from yoloquant.targets.registry import get_target

SIZE = (64, 96)
ANCHORS = [[[4.0, 8.0], [8.0, 4.0], [6.0, 6.0]], [[16.0, 32.0], [32.0, 16.0], [24.0, 24.0]], [[64.0, 64.0]] * 3]


class Pyramid(nn.Module):
    """Three levels at strides 8, 16 and 32, whose last convolutions have the given channels."""

    def __init__(self, *channels, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(ConvBlock(3, 8, stride=2), ConvBlock(8, 8, stride=2), ConvBlock(8, 16, stride=2))
        self.down = nn.ModuleList([ConvBlock(16, 16, stride=2), ConvBlock(16, 16, stride=2)])
        self.last = nn.ModuleList(nn.ModuleList(nn.Conv2d(16, c, 1) for c in channels) for _ in range(3))
        self.eval()

    def forward(self, x):
        maps = [self.stem(x)]
        for block in self.down:
            maps.append(block(maps[-1]))
        return [conv(x) for x, convs in zip(maps, self.last, strict=True) for conv in convs]


class WithHead(nn.Module):
    """Network and head in one, as exporters see them."""

    def __init__(self, network, head):
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x):
        return self.head(self.network(x))


class YoloxHead(nn.Module):
    """Rows of distances, objectness and classes, undecoded."""

    def forward(self, maps):
        rows = []
        for box, score, classes in zip(maps[::3], maps[1::3], maps[2::3], strict=True):
            rows.append(torch.cat([box, score.sigmoid(), classes.sigmoid()], 1).flatten(2))
        return torch.cat(rows, 2).permute(0, 2, 1)


class FiveAxes(nn.Module):
    """Raw maps as YOLOv5's training form answers them."""

    def forward(self, maps):
        return [raw.view(raw.shape[0], 3, -1, *raw.shape[2:]).permute(0, 1, 3, 4, 2) for raw in maps]


class AsList(nn.Module):
    def forward(self, maps):
        return maps


def write(path, network, head, opset=13, dynamic=False, batch=1, names=None):
    """A file as torch's older exporter writes it, which the families' own exporters used for years."""
    module = WithHead(network, head).eval()
    example = torch.zeros(batch, 3, *SIZE)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        answer = module(example)
        outputs = ["output"] if isinstance(answer, torch.Tensor) else [f"output{index}" for index in range(len(answer))]
        axes = {"images": {0: "batch"}, **{name: {0: "batch"} for name in outputs}} if dynamic else None
        torch.onnx.export(
            module, (example,), str(path), opset_version=opset, dynamo=False, input_names=["images"], output_names=outputs,
            dynamic_axes=axes,
        )  # fmt: skip
    if names:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, {"names": str(dict(enumerate(names)))})
        onnx.save(model, str(path))
    return path


def images(count=2, seed=0):
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


HEADS = {
    "YOLOv5": (Pyramid(21), AnchorHead(2, [8, 16, 32], ANCHORS), "rows_objectness"),
    "YOLOv6": (Pyramid(4, 2), DistanceHead("rows_objectness", 2, [8, 16, 32], 1), "rows_objectness"),
    "YOLOv8": (Pyramid(64, 2), DistanceHead("columns_classes", 2, [8, 16, 32], 16), "columns_classes"),
    "YOLOv10": (Pyramid(4, 2), DistanceHead("rows_final", 2, [8, 16, 32], 1, 20), "rows_final"),
}


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("name", HEADS)
def test_files_of_every_operator_set_are_read_and_quantized(name, opset, tmp_path):
    network, head, layout = HEADS[name]
    dynamic = opset == 17
    path = write(tmp_path / "float.onnx", network, head, opset, dynamic, names=("a", "b"))
    detector = read_detector(path)
    assert (detector.names, detector.input_size, detector.head.layout) == (("a", "b"), SIZE, layout)
    x = to_input(images())
    captured = capture(detector.network, SIZE)
    with torch.no_grad():
        expected = head(network(x))
        torch.testing.assert_close(detector(x), expected, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(detector.head(list(captured(x))), expected, rtol=1e-4, atol=1e-3)
    quantized = quantized_from(detector, get_target("onnxruntime").place(captured), captured)
    calibrate(quantized, [images(4)])
    out = tmp_path / "int8.onnx"
    export_onnx(quantized, out, target="onnxruntime")
    model = onnx.load(str(out))
    original = onnx.load(str(path))
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == [value.name for value in original.graph.output]
    assert (model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 0) == dynamic
    (parity,) = check_parity(quantized, out, x.contiguous().numpy(), ["onnxruntime"])
    assert parity.agrees, parity


def test_layers_bear_the_names_of_nodes_and_activations_are_whole(tmp_path):
    path = write(tmp_path / "float.onnx", *HEADS["YOLOv8"][:2])
    detector = read_detector(path)
    captured = capture(detector.network, SIZE)
    layers = [node.meta["layer"] for node in captured.graph.nodes]
    nodes = {node.name for node in onnx.load(str(path)).graph.node}
    assert "/network/stem/stem.0/conv/Conv" in layers
    assert "/network/stem/stem.0/conv/Conv.weight" in layers
    assert {layer for layer in layers if layer.endswith("/Conv")} <= nodes
    assert sum(node.target is torch.ops.aten.silu.default for node in captured.graph.nodes) == 5
    assert not any(node.target is torch.ops.aten.sigmoid.default for node in captured.graph.nodes)


def test_a_quantized_file_of_onnx_survives_its_folder(tmp_path):
    detector = read_detector(write(tmp_path / "float.onnx", *HEADS["YOLOv5"][:2]))
    captured = capture(detector.network, SIZE)
    quantized = quantized_from(detector, get_target("openvino").place(captured), captured)
    calibrate(quantized, [images(4)])
    save_quantized(quantized, detector, tmp_path / "quantized.safetensors")
    again = load_quantized(tmp_path / "quantized.safetensors")
    x = to_input(images())
    with torch.no_grad():
        torch.testing.assert_close(again(x), quantized(x), rtol=0, atol=0)


RAW = {
    "maps of anchors": (Pyramid(255), AsList(), AnchorHead(80, [8, 16, 32], None), "rows_objectness"),
    "maps of anchors, five axes": (Pyramid(255), FiveAxes(), AnchorHead(80, [8, 16, 32], None), "rows_objectness"),
}


@pytest.mark.parametrize("name", RAW)
def test_undecoded_maps_are_decoded_with_the_official_anchors(name, tmp_path):
    from yoloquant.models.yolov5.build import COCO_ANCHORS

    network, head, decoder, layout = RAW[name]
    decoder.anchors = COCO_ANCHORS
    path = write(tmp_path / "raw.onnx", network, head)
    detector = read_detector(path)
    assert (detector.head.layout, detector.strides, len(detector.names)) == (layout, (8, 16, 32), 80)
    x = to_input(images())
    with torch.no_grad():
        expected = decoder(network(x))
        torch.testing.assert_close(detector(x), expected, rtol=1e-4, atol=1e-3)
    # The runner of the file alone decodes, too.
    runner = open_onnx(path)
    np.testing.assert_allclose(runner(x[:1].contiguous().numpy()), expected[:1].numpy(), rtol=1e-3, atol=1e-2)


def test_undecoded_maps_of_distances(tmp_path):
    class Joined(nn.Module):
        def forward(self, maps):
            return [torch.cat(pair, 1) for pair in zip(maps[::2], maps[1::2], strict=True)]

    network = Pyramid(64, 3)
    path = write(tmp_path / "raw.onnx", network, Joined(), names=("a", "b", "c"))
    detector = read_detector(path)
    x = to_input(images())
    with torch.no_grad():
        expected = DistanceHead("columns_classes", 3, [8, 16, 32], 16)(network(x))
        torch.testing.assert_close(detector(x), expected, rtol=1e-4, atol=1e-3)


def test_yolox_takes_its_images_its_own_way(tmp_path):
    class FromBlueGreenRed(nn.Module):
        """A YOLOX network sees 0..255 in the order blue, green, red; this one is trained to."""

        def __init__(self):
            super().__init__()
            self.inner = Pyramid(4, 1, 2)

        def forward(self, x):
            return self.inner(x / 255)

    network = FromBlueGreenRed()
    path = write(tmp_path / "yolox.onnx", network, YoloxHead(), names=("a", "b"))
    facts = foreign_facts(load_onnx(path))
    assert (facts.family, facts.preprocessing) == ("yolox", Preprocessing(True, 255.0, True))
    detector = read_detector(path)
    rgb = to_input(images()).contiguous()
    own = (rgb.flip(1) * 255).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = np.concatenate([session.run(None, {"images": own[i : i + 1]})[0] for i in range(2)])
    # Decoding by hand, cell by cell.
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(SIZE[0] // s) for x in range(SIZE[1] // s)]
    grid = np.array(cells, np.float32)
    expected = rows.copy()
    expected[..., :2] = (rows[..., :2] + grid[:, :2]) * grid[:, 2:]
    expected[..., 2:4] = np.exp(rows[..., 2:4]) * grid[:, 2:]
    with torch.no_grad():
        np.testing.assert_allclose(detector(rgb).numpy(), expected, rtol=1e-3, atol=1e-3)
    runner = open_onnx(path)
    np.testing.assert_allclose(runner(rgb[:1].numpy()), expected[:1], rtol=1e-3, atol=1e-3)
    captured = capture(detector.network, SIZE)
    quantized = quantized_from(detector, get_target("onnxruntime").place(captured), captured)
    calibrate(quantized, [images(4)])
    out = tmp_path / "int8.onnx"
    export_onnx(quantized, out, target="onnxruntime")
    (parity,) = check_parity(quantized, out, rgb.numpy(), ["onnxruntime"])
    assert parity.agrees, parity
    # The new file takes images as the old one does.
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": own[:1]})[0]
    assert found.shape == rows[:1].shape
    noise = np.square(found - rows[:1]).sum() / np.square(rows[:1] - rows[:1].mean()).sum()
    assert noise < 0.05


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_images_are_as_the_user_says(runtime, tmp_path):
    class TrainedOnBlueGreenRed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Pyramid(21)

        def forward(self, x):
            return self.inner(x / 255)

    head = AnchorHead(2, [8, 16, 32], ANCHORS)
    path = write(tmp_path / "float.onnx", TrainedOnBlueGreenRed(), head, names=("a", "b"))
    rgb = to_input(images()[:1]).contiguous().numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"images": np.ascontiguousarray(rgb[:, ::-1]) * 255})[0]
    told = open_runner(path, runtime, preprocessing=parse_preprocessing("BGR, 0..255"))
    untold = open_runner(path, runtime)
    np.testing.assert_allclose(told(rgb), expected, rtol=1e-3, atol=1e-3)
    assert not np.allclose(untold(rgb), expected, rtol=1e-3, atol=1e-3)


def test_words_for_images():
    assert parse_preprocessing("rgb,0..1,centered") == Preprocessing()
    assert parse_preprocessing("bgr,0..255,top-left") == Preprocessing(True, 255.0, True)
    with pytest.raises(RecipeError, match=r"'grey'.*bgr"):
        parse_preprocessing("grey")


def test_rows_with_image_numbers_are_detections_of_one_image(tmp_path):
    class Suppressed(nn.Module):
        """As YOLOv7's export with suppression: image number, corners, class, score; here of the first cells."""

        def forward(self, maps):
            rows = maps[0].flatten(2)[0, :, :5].t()
            zeros = torch.zeros_like(rows[:, :1])
            return torch.cat([zeros, rows[:, :4], zeros + 1, rows[:, 4:5].sigmoid()], 1)

    path = write(tmp_path / "nms.onnx", Pyramid(5), Suppressed())
    detector = read_detector(path)
    x = to_input(images(1))
    with torch.no_grad():
        answer = detector(x)
        rows = Suppressed()(Pyramid(5)(x))
    assert answer.shape == (1, 300, 6)
    torch.testing.assert_close(answer[0, :5], rows[:, [1, 2, 3, 4, 6, 5]], rtol=1e-4, atol=1e-4)
    assert (answer[0, 5:] == 0).all()


def file_of(nodes, path, inputs=(("images", TensorProto.FLOAT, [1, 3, 32, 32]),), weights=True):
    initializers = [onnx.numpy_helper.from_array(np.ones((85, 3, 1, 1), np.float32), "w")] if weights else []
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 85, 1024])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


CONV = helper.make_node("Conv", ["z", "w"], ["c"], name="the_conv")
SHAPE = helper.make_node("Constant", [], ["s"], value=onnx.numpy_helper.from_array(np.array([1, 85, 1024])))
ROWS = helper.make_node("Reshape", ["c", "s"], ["y"], name="rows")


def test_what_cannot_be_read_is_told_by_node(tmp_path):
    path = tmp_path / "model.onnx"
    file_of([helper.make_node("NonZeroish", ["images"], ["z"], name="strange"), CONV, SHAPE, ROWS], path)
    with pytest.raises(CheckpointError, match=r"node 'strange' is a NonZeroish, an operator that is not supported"):
        read_detector(path)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["z"])], "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    )
    condition = helper.make_node("Constant", [], ["q"], value=onnx.numpy_helper.from_array(np.array(True)))
    choice = helper.make_node("If", ["q"], ["z"], name="the_choice", then_branch=branch, else_branch=branch)
    file_of([condition, choice, CONV, SHAPE, ROWS], path)
    with pytest.raises(CheckpointError, match=r"node 'the_choice' is a If, control flow"):
        read_detector(path)
    quantize = helper.make_node("QuantizeLinear", ["images", "k"], ["z"], name="the_quantizer")
    file_of([quantize, CONV, SHAPE, ROWS], path)
    with pytest.raises(CheckpointError, match=r"quantized already \(node 'the_quantizer'\)"):
        read_detector(path)
    file_of([CONV, SHAPE, ROWS], path, (("z", TensorProto.FLOAT16, [1, 3, 32, 32]),))
    with pytest.raises(CheckpointError, match="not 32-bit floats"):
        read_detector(path)
    file_of([CONV, SHAPE, ROWS], path, (("z", TensorProto.FLOAT, [1, 3, 32, 32]), ("more", TensorProto.FLOAT, [1])))
    with pytest.raises(CheckpointError, match="2 inputs"):
        read_detector(path)
    file_of([helper.make_node("Relu", ["z"], ["c"]), SHAPE, ROWS], path, (("z", TensorProto.FLOAT, [1, 3, 32, 32]),))
    with pytest.raises(CheckpointError, match="no convolution"):
        read_detector(path)
    path.write_bytes(b"\x00\x01 not a model")
    with pytest.raises(CheckpointError, match="not an ONNX model"):
        read_detector(path)


def test_the_official_file_is_quantized_as_the_checkpoint_is(shared):
    by_file = {}
    entries = calibration_images(shared / "coco" / "data.yaml", 4)
    (batch,) = ImageLoader(entries, (320, 320), 4)
    for suffix in (".pt", ".onnx"):
        detector = read_detector(shared / "weights" / f"yolov5n{suffix}")
        detector = replace(detector, input_size=(320, 320))
        captured = capture(detector.network, (320, 320))
        quantized = quantized_from(detector, get_target("openvino").place(captured), captured)
        calibrate(quantized, [batch.images])
        # Names differ, and with them the order.
        by_file[suffix] = sorted(quantizer.scale.mean().item() for _, quantizer in quantized.quantizers())
    assert len(by_file[".pt"]) == len(by_file[".onnx"]) > 100
    np.testing.assert_allclose(by_file[".pt"], by_file[".onnx"], rtol=1e-2)


def test_any_network_with_a_decode_function(tmp_path):
    network, head, layout = HEADS["YOLOv8"]
    detector = from_module(network, head, names=("a", "b"), strides=(8, 16, 32), input_size=SIZE, layout=layout)
    captured = capture(detector.network, SIZE)
    quantized = quantized_from(detector, get_target("onnxruntime").place(captured), captured)
    calibrate(quantized, [images(4)])
    export_onnx(quantized, tmp_path / "int8.onnx", target="onnxruntime")
    x = to_input(images()).contiguous()
    (parity,) = check_parity(quantized, tmp_path / "int8.onnx", x.numpy(), ["onnxruntime"])
    assert parity.agrees
    save_quantized(quantized, detector, tmp_path / "quantized.safetensors")
    with pytest.raises(CheckpointError, match="network of your own"):
        load_quantized(tmp_path / "quantized.safetensors")
    again = load_quantized(tmp_path / "quantized.safetensors", detector)
    with torch.no_grad():
        torch.testing.assert_close(again(x), quantized(x), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="no layout 'rows'"):
        from_module(network, head, names=("a",), strides=(8,), layout="rows")


def test_objects_of_the_original_repositories_are_read_alive():
    """Classes with the original names and attributes, in a wrapper as ultralytics has it."""

    def cls(module, name, base=nn.Module):
        return type(name, (base,), {"__module__": module})

    conv_class = cls("ultralytics.nn.modules.conv", "Conv")

    def conv(inputs, outputs, kernel=1, stride=1):
        made = conv_class()
        made.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        made.bn, made.act = nn.BatchNorm2d(outputs), nn.SiLU()
        return made

    detect = cls("ultralytics.nn.modules.head", "Detect")()
    detect.nc, detect.reg_max, detect.stride = 2, 16, torch.tensor([4.0])
    detect.cv2 = nn.ModuleList([nn.Sequential(conv(8, 8), nn.Conv2d(8, 64, 1))])
    detect.cv3 = nn.ModuleList([nn.Sequential(conv(8, 8), nn.Conv2d(8, 2, 1))])
    detect.f, detect.i = [1], 2
    network = cls("ultralytics.nn.tasks", "DetectionModel")()
    network.model = nn.Sequential(conv(3, 8, 3, 2), conv(8, 8, 3, 2), detect)
    network.names, network.args = {0: "cat", 1: "dog"}, {"imgsz": 320}

    class YOLO:
        model = network

    detector = detector_from_live(YOLO())
    assert (detector.names, detector.strides, detector.input_size) == (("cat", "dog"), (4,), (320, 320))
    with torch.no_grad():
        assert detector(torch.zeros(1, 3, 32, 32)).shape == (1, 6, 64)
    with pytest.raises(CheckpointError, match="a int is no detector"):
        detector_from_live(3)


def test_a_quantizer_of_the_converted_image_stays_in_the_file(tmp_path):
    detector = small_detector("yolox")
    graph_module = captured(detector)
    quantized = quantized_from(detector, get_target("openvino").place(graph_module), graph_module)
    calibrate(quantized, [small_images(2)])
    export_onnx(quantized, tmp_path / "int8.onnx", target="openvino", dynamic_batch=False)
    x = small_images(1).numpy().astype(np.float32) / 255
    (parity,) = check_parity(quantized, tmp_path / "int8.onnx", x, ["openvino"])
    assert parity.problem is None
    assert parity.agrees
