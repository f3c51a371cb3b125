"""What every kind of file that a runtime takes keeps to: it computes what torch does, in integers, and says what it is."""

import importlib.util
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from small_families import SIDE, SMALL_FAMILIES, small_detector, small_images
from yoloquant.cli import app
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import ExportError, YoloquantError
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.folder import load_quantized
from yoloquant.exporting.formats.registry import FORMATS
from yoloquant.flows import deliver as flow
from yoloquant.flows.deliver import deliver
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.quant.quantized_detector import quantized_layer_count
from yoloquant.recipe.recipe import load_recipe
from yoloquant.runtime.native import NATIVE
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.torch_runner import TorchRunner

FEW = ("calibration.images=6",)
# The others run for minutes together.
QUICK = ("yolov8n",)


def target_of(name):
    return FORMATS[name].targets[0] if FORMATS[name].targets else "onnxruntime"


def installed(name):
    """What writes the format, and what runs it."""
    runtimes = [kind for kind in NATIVE.values() if kind.runtime == FORMATS[name].runtime]
    written = all(importlib.util.find_spec(package) for package in FORMATS[name].packages)
    return written and all(kind.is_installed() for kind in runtimes)


def needs(name):
    if not installed(name):
        pytest.skip(f"format {name} needs the extra {FORMATS[name].extra}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=8, val=2, size=SIDE)


@pytest.fixture(scope="module")
def folder_for(data, tmp_path_factory):
    """Quantized folders by family and target, each made once."""
    made = {}

    def make(family, target):
        if (family, target) not in made:
            made[family, target] = tmp_path_factory.mktemp(f"{family}_{target}") / "out"
            quantize(
                small_detector(family),
                data,
                recipe=load_recipe("int8-mse", FEW),
                target=target,
                output=made[family, target],
                measure=Measure(evaluate=False, runtimes=("onnxruntime",)),
                report=None,
            )
        return made[family, target]

    return make


def families_and_formats():
    # YOLOX is read from ONNX and keeps its head, whose inputs are not quantized in the file as target tflite has them in torch;
    # the small one, with random weights, differs in ONNX Runtime from torch by 15 dB, about what its quantization costs.
    left_out = {("yolox", "tflite"), ("yolox", "onnx")}
    known = [pair for pair in itertools.product(SMALL_FAMILIES, FORMATS) if pair not in left_out]
    return [pytest.param(*pair, marks=[] if pair[0] in QUICK else pytest.mark.slow) for pair in known]


@pytest.mark.parametrize(("family", "name"), families_and_formats())
def test_a_family_runs_in_the_runtime_as_in_torch_and_in_integers(family, name, folder_for, data, tmp_path):
    needs(name)
    folder = folder_for(family, target_of(name))
    if not FORMATS[name].selects and load_quantized(folder).head.layout == "rows_final":
        with pytest.raises(ExportError, match="quantize with --branch one-to-many"):
            deliver(folder, name, tmp_path / f"new{FORMATS[name].ending}")
        return
    done = deliver(folder, name, tmp_path / f"new{FORMATS[name].ending}", images=data)
    assert done.parity.agrees
    assert done.executed.in_vain == ()
    assert len(done.executed.integer) >= quantized_layer_count(load_quantized(folder))
    detector, runner = load_quantized(folder), open_runner(done.path)
    facts = (runner.names, runner.input_size, runner.layout, runner.stride, runner.branch)
    assert facts == (detector.names, detector.input_size, detector.head.layout, max(detector.strides), detector.head.branch)
    images = small_images(1, first=9).numpy().astype(np.float32) / 255
    # Another image than those of the check, without its help.
    expected, found = TorchRunner(detector)(images), runner(images)
    assert found.shape == expected.shape
    if detector.head.layout != "rows_final":
        assert signal_to_noise(expected, found) > 20


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_not_what_was_quantized_is_refused_and_nothing_is_left(name, folder_for, tmp_path, monkeypatch):
    needs(name)
    real = FORMATS[name]

    def wrong(detector, target, path):
        layer = next(detector.quantized_weights())
        kept = layer.weight.detach().clone()
        layer.weight.data.neg_()
        real.write(detector, target, path)
        layer.weight.data.copy_(kept)

    monkeypatch.setitem(FORMATS, name, replace(real, write=wrong))
    with pytest.raises(ExportError, match="do not deploy it"):
        deliver(folder_for("yolov8n", target_of(name)), name, tmp_path / f"new{real.ending}")
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.targets])
def test_a_folder_for_another_target_is_refused(name, folder_for, tmp_path):
    needs(name)
    with pytest.raises(ExportError, match=f"quantize with --target {target_of(name)}"):
        deliver(folder_for("yolov8n", "onnxruntime"), name, tmp_path / f"new{FORMATS[name].ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.packages])
def test_a_missing_package_is_one_sentence(name, folder_for, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    absent = FORMATS[name].packages
    monkeypatch.setattr(importlib.util, "find_spec", lambda package, *rest: None if package in absent else find(package, *rest))
    with pytest.raises(ExportError, match=r'is not installed: run `pip install "yoloquant\['):
        deliver(folder_for("yolov8n", "onnxruntime"), name, tmp_path / f"new{FORMATS[name].ending}")


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_an_earlier_file_of_the_format_stays(name, folder_for, tmp_path):
    needs(name)
    place = tmp_path / f"mine{FORMATS[name].ending}"
    other = place / "thesis.txt" if FORMATS[name].files else tmp_path / "mine.txt"
    other.parent.mkdir(exist_ok=True)
    other.write_text("years of work")
    with pytest.raises(YoloquantError):
        deliver(folder_for("yolov8n", target_of(name)), name, place if FORMATS[name].files else other)
    assert other.read_text() == "years of work"


def test_an_unknown_format_is_told_with_the_known_ones(folder_for):
    with pytest.raises(ExportError, match="there is no format 'tensorrt': choose one of onnx, openvino"):
        deliver(folder_for("yolov8n", "onnxruntime"), "tensorrt")


def test_drawn_images_do_where_none_are_named(folder_for, tmp_path):
    assert deliver(folder_for("yolov8n", "onnxruntime"), "onnx", tmp_path / "new.onnx").parity.agrees


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.targets])
def test_quantize_writes_it_into_the_folder_and_all_commands_open_it(name, data, tmp_path):
    needs(name)
    options = ["--target", target_of(name), "--recipe", "int8-mse", "--set", FEW[0], "--no-evaluate", "--no-report"]
    weights = tmp_path / "float.safetensors"
    from yoloquant.checkpoint.safetensors_file import save_detector

    save_detector(small_detector("yolov8n"), weights)
    out = tmp_path / "out"
    arguments = ["quantize", str(weights), "--data", str(data), *options, "--format", name, "--output", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    file = out / FORMATS[name].in_folder
    assert f"{file}: " in done.output
    assert open_runner(out).name == "onnxruntime"
    picture = next((data.parent / "images").rglob("*.jpg"), None) or next((data.parent / "images").rglob("*.png"))
    for command in (
        ["check", str(file)],
        ["benchmark", str(out / "model.onnx"), str(file), "--runs", "1", "--warmup", "0"],
        ["evaluate", str(file), "--data", str(data)],
        ["predict", str(file), str(picture), "--output", str(tmp_path / "drawn")],
    ):
        told = CliRunner().invoke(app, command, catch_exceptions=False)
        assert told.exit_code == 0, told.output
    # It may be replaced by itself.
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0


def test_a_runtime_that_is_not_the_files_own_is_refused(folder_for, tmp_path):
    needs("openvino")
    done = deliver(folder_for("yolov8n", "openvino"), "openvino", tmp_path / "new")
    with pytest.raises(YoloquantError, match="is a file for openvino, which onnxruntime cannot run"):
        open_runner(done.path, "onnxruntime")


def test_openvino_itself_reads_its_folder(folder_for, tmp_path):
    openvino = pytest.importorskip("openvino")
    folder = folder_for("yolov8n", "openvino")
    done = deliver(folder, "openvino", tmp_path / "new")
    images = small_images(1, first=9).numpy().astype(np.float32) / 255
    core = openvino.Core()
    model = core.read_model(str(done.path / "model.xml"))
    (found,) = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images).values()
    detector = load_quantized(folder)
    with torch.inference_mode():
        assert signal_to_noise(detector(torch.from_numpy(images)).numpy(), found) > 20
    assert model.get_rt_info(["model_info", "labels"]).astype(str).split() == list(detector.names)
    weights = [node for node in model.get_ops() if node.get_type_name() == "Constant" and node.get_element_type().is_integral()]
    int8 = sum(int(np.prod(node.shape)) for node in weights if node.get_element_type().to_string() == "i8")
    assert int8 >= sum(layer.weight.numel() for layer in detector.quantized_weights())


def test_drawn_images_have_the_networks_size(folder_for):
    detector = replace(load_quantized(folder_for("yolov8n", "onnxruntime")), input_size=(64, 96))
    assert flow._images(detector, None).shape == (flow.PARITY_IMAGES, 3, 64, 96)
