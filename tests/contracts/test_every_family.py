"""Every step of the toolkit on every family: what each step does is tested elsewhere; here none may stumble over a block."""

import onnx
import pytest

from small_families import SIDE, SMALL_FAMILIES, small_detector
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.exporting.folder import load_quantized
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.flows.analyze import AnalysisOptions, analyze
from yoloquant.flows.finetune import finetune
from yoloquant.flows.job import quantized_in_memory
from yoloquant.flows.options import Measure, Report
from yoloquant.flows.quantize import quantize
from yoloquant.flows.search import search
from yoloquant.flows.train import TrainingOptions, train
from yoloquant.progress import Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.recipe.recipe import load_recipe
from yoloquant.runtime.open import load

# All that learns or chooses, each for a moment.
STEPS = """[
    {equalize: {rounds: 1}},
    {smooth: {images: 2, min_gain: 1.0}},
    calibrate,
    {keep_float: {layers: 1, images: 2, min_gain: 0.0}},
    {mixed_precision: {bits: [7, 8], average_bits: 7.9, images: 2}},
    {weight_ranges: {images: 2}},
    {detection_ranges: {images: 2, factors: [0.85]}},
    {bias_correction: {method: fast, images: 2}},
    {gptq: {images: 2, samples: 64}},
    {bias_correction: {images: 2}},
    {batch_norm_reestimation: {images: 2}},
    {reconstruct: {unit: block, images: 4, iterations: 1}},
    {reconstruct: {unit: region, loss: fisher, qdrop: 0.5, images: 2, iterations: 1, cache: disk}},
    {reconstruct: {unit: layer, rounding: soft, images: 2, iterations: 1}},
    {reconstruct: {unit: network, loss: detection, images: 2, iterations: 1}},
    {train: {epochs: 1, images: 6, batch_size: 2, val_images: 2}},
]"""
FEW = ("calibration.images=6",)
# In the default run, since a family takes more than a minute: the one whose attention reads sizes.
QUICK = ("yolo11n",)


def families(quick=QUICK):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SMALL_FAMILIES]


class Strict(Silent):
    """Takes a note on what could not be made as a failure."""

    def note(self, message):
        assert "could not be made" not in message


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=8, val=4, size=SIDE)


@pytest.mark.parametrize("name", families())
def test_every_algorithm_runs(name, data):
    recipe = load_recipe("int8-mse", [f"algorithms={STEPS}", *FEW, "target=reference", "output_layers=quantized"])
    images = images_to_calibrate(recipe.calibration, data, None)
    quantized = quantized_in_memory(small_detector(name), recipe, images, Strict())
    assert {7, 8} == {layer.quantizer.spec.bits for layer in quantized.quantized_weights()}


@pytest.mark.parametrize("name", families(()))
def test_a_folder_is_made_with_its_report_and_taught_on_and_exported(name, data, tmp_path):
    detector, runtimes = small_detector(name), ("onnxruntime",)
    options = {"measure": Measure(runtimes=runtimes, limit=2), "reporter": Strict()}
    recipe = load_recipe("int8-mse", [*FEW, "target=onnxruntime"])
    result = quantize(detector, data, recipe=recipe, output=tmp_path / "out", report=Report(plots="png"), **options)
    assert all(parity.agrees for parity in result.parity)
    assert {"report.html", "layers.csv", "plots"} <= {path.name for path in (tmp_path / "out").iterdir()}
    step = {"epochs": 1, "batch_size": 4, "val_images": 4}
    taught = finetune(tmp_path / "out", data, tmp_path / "taught", teacher=small_detector(name), settings=step, **options)
    assert all(parity.agrees for parity in taught.parity)
    export_onnx(load_quantized(tmp_path / "taught"), tmp_path / "again.onnx", target="onnxruntime", dynamic_batch=name != "yolox")
    for path in (tmp_path / "out" / "model.onnx", tmp_path / "again.onnx"):
        assert not any(node.op_type == "BatchNormalization" for node in onnx.load(str(path)).graph.node)


@pytest.mark.parametrize("name", families(()))
def test_analysis_and_search_run(name, data, tmp_path):
    found = analyze(
        small_detector(name),
        data,
        AnalysisOptions(mode="block", images=1),
        output=tmp_path / "analysis",
        recipe=load_recipe("int8-mse", FEW),
    )
    assert found.sensitivities
    assert (tmp_path / "analysis" / "analysis.html").is_file()
    # A random network's mAP is nothing to keep.
    assert search(small_detector(name), data, max_drop=100.0, recipe=load_recipe("int8-mse", FEW)).layers == ()


@pytest.mark.parametrize("name", families())
def test_float_networks_teach_themselves(name, data, tmp_path):
    if name == "yolox":
        pytest.skip("the training of YOLOX is not built")
    options = TrainingOptions(epochs=1, batch_size=4, distill=True, workers=1, overrides=("mosaic=0",))
    path = tmp_path / "float.safetensors"
    save_detector(small_detector(name), path)
    assert train(path, data, tmp_path / "run", options).path is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n", "yolov8n"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_real_weights_go_through_the_default_command_and_learn(name, target, shared, tmp_path):
    path, data = shared / "weights" / f"{name}.pt", shared / "coco" / "data.yaml"
    measure = Measure(runtimes=("onnxruntime", "openvino"), limit=8)
    learning = "{reconstruct: {images: 4, iterations: 2}}, {train: {epochs: 1, images: 8, crop_size: 160, val_images: 4}}"
    overrides = ("calibration.images=8", f"algorithms=[calibrate, {{keep_float: {{images: 2}}}}, {learning}]")
    options = {"recipe": load_recipe("int8", overrides), "output": tmp_path / "out", "measure": measure, "reporter": Strict()}
    result = quantize(load(path, input_size=320), data, target=target, **options)
    assert all(parity.agrees for parity in result.parity if parity.runtime == target)
