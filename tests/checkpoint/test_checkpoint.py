"""Reading checkpoints: official files against the original code's answers, and every refusal."""

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yoloquant.checkpoint.inspect import inspect_file
from yoloquant.checkpoint.read import read_detector
from yoloquant.checkpoint.safetensors_file import load_detector, save_detector
from yoloquant.checkpoint.unpickler import read_pickle
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import Description, build, describe
from yoloquant.models.yolov5.build import build_yolov5, official_config

GOLDEN = ["weights/yolov5n", "checkpoints/yolov5n_v70_custom5", "checkpoints/yolov5n_v60_custom2"]


@pytest.mark.parametrize("name", GOLDEN)
def test_official_yolov5_answers_as_the_original_code(shared, name):
    detector = read_detector(shared / f"{name}.pt")
    golden = np.load(shared / f"{name}.npz")
    with torch.no_grad():
        answer = detector(torch.from_numpy(golden["input"]).float() / 255).numpy()
    np.testing.assert_allclose(answer, golden["decoded"], rtol=1e-3, atol=1e-3)


def test_facts_of_official_files(shared):
    facts = inspect_file(shared / "checkpoints" / "yolov5n_v60_custom2.pt")
    assert facts.family == "yolov5"
    assert facts.names == ("helmet", "vest")
    assert facts.strides == (8, 16, 32)
    assert facts.layers[0].name == "model.0.conv"
    assert facts.layers[-1].shape[0] == 3 * (5 + 2)


class Malicious:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def checkpoint(path, content, **entries):
    """A zip as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        for name, data in entries.items():
            file.writestr(f"archive/{name}", data)
    return path


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch owned",), "system"),
        (eval, ("1+1",), "eval"),
        (getattr, (str, "join"), "unicode"),
        (__import__, ("os",), "__import__"),
    ],
)
def test_code_is_refused_by_name_and_not_run(function, arguments, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint(tmp_path / "evil.pt", {"model": Malicious(function, *arguments)})
    with pytest.raises(CheckpointError, match=rf"\.{name}, which is not on the list"):
        read_detector(path)
    assert not (tmp_path / "owned").exists()


def test_attributes_are_those_of_layers_alone_and_are_not_looked_up(tmp_path):
    path = checkpoint(tmp_path / "evil.pt", {"model": Malicious(getattr, {"a": 1}, "keys")})
    with pytest.raises(CheckpointError, match="an attribute of something that is no layer"):
        read_detector(path)


def test_names_with_dots_cannot_smuggle(tmp_path):
    data = b"\x80\x04\x8c\rmodels.common\x8c\tos.system\x93\x8c\x01x\x85R."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("archive/data.pkl", data)
    with pytest.raises(CheckpointError, match=r"models\.common\.os\.system"):
        read_detector(tmp_path / "evil.pt")


def test_every_other_kind_of_file_has_its_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        read_detector(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_detector(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        read_detector(tmp_path / "text.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="old format"):
        read_detector(tmp_path / "old.pt")
    torch.save(OrderedDict(a=torch.ones(2)), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="only weights"):
        read_detector(tmp_path / "state.pt")
    torch.save({"epoch": 3}, tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="holds no model"):
        read_detector(tmp_path / "nothing.pt")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_detector(tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as file:
        file.writestr("readme.txt", "x")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_detector(tmp_path / "other.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_detector(tmp_path / "bad.safetensors")


def test_truncated_files_and_bombs(tmp_path):
    torch.save({"model": torch.ones(1000)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        read_detector(tmp_path / "half.pt")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * (50 << 20))
    with pytest.raises(CheckpointError, match="zip bomb"):
        read_detector(tmp_path / "bomb.pt")


def test_tensors_larger_than_their_data_are_refused(tmp_path):
    torch.save({"model": torch.ones(10)}, tmp_path / "a.pt")
    data = zipfile.ZipFile(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        for name in data.namelist():
            content = data.read(name)
            file.writestr(name, content[:8] if "/data/" in name else content)
    with pytest.raises(CheckpointError, match="larger than its data"):
        read_pickle(tmp_path / "b.pt")


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "small.pt"
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.Conv2d(1, 2, 3), "epoch": 1}, buffer)
    return path, buffer.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 0.999), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_files_never_raise_anything_else(small_checkpoint, position, value, cut):
    path, data = small_checkpoint
    index = int(position * len(data))
    path.write_bytes(data[:index] if cut else data[:index] + bytes([value]) + data[index + 1 :])
    # Anything but a CheckpointError fails the test.
    with contextlib.suppress(CheckpointError):
        read_pickle(path)


def test_networks_are_built_again_from_json(shared, tmp_path):
    detector = read_detector(shared / "checkpoints" / "yolov5n_v60_custom2.pt")
    rebuilt = build(Description.from_dict(describe(detector.network).to_dict()))
    assert [name for name, _ in rebuilt.named_parameters()] == [name for name, _ in detector.network.named_parameters()]
    save_detector(detector, tmp_path / "a.safetensors")
    again = load_detector(tmp_path / "a.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), detector(x))
    assert (again.names, again.strides, again.input_size) == (detector.names, detector.strides, detector.input_size)


@pytest.mark.parametrize(
    ("size", "parameters"), [("n", 1_872_157), ("s", 7_235_389), ("m", 21_190_557), ("l", 46_563_709), ("x", 86_749_405)]
)
def test_built_networks_have_the_official_sizes(size, parameters):
    """Parameter counts as YOLOv5's own training prints them."""
    detector = build_yolov5(f"yolov5{size}")
    assert sum(parameter.numel() for parameter in detector.network.parameters()) == parameters
    assert detector.strides == (8, 16, 32)


ROWS_OF_ALL_BLOCKS = [
    [-1, 1, "Focus", [16, 3]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "BottleneckCSP", [16]],
    [-1, 1, "GhostConv", [16, 3, 2]],
    [-1, 1, "C3Ghost", [16]],
    [-1, 1, "C3x", [16]],
    [-1, 1, "C3TR", [16]],
    [-1, 1, "GhostBottleneck", [16, 3, 2]],
    [-1, 1, "DWConv", [16, 3, 1]],
    [-1, 1, "MixConv2d", [16, [1, 3]]],
    [-1, 1, "CrossConv", [16, 3, 1]],
    [-1, 1, "Bottleneck", [16]],
    [-1, 1, "SPP", [16, [3, 5]]],
    [-1, 1, "C3SPP", [16, [3, 5]]],
    [-1, 1, "Contract", [2]],
    [-1, 1, "Expand", [2]],
    [[-1, 12], 1, "Sum", []],
    [-1, 1, "DWConvTranspose2d", [16, 4, 2, 1]],
    [-1, 1, "Conv", [16, 3, 2]],
]


def test_every_block_builds_runs_and_survives_json():
    rows = [list(row) for row in ROWS_OF_ALL_BLOCKS]
    rows[16][3] = [2]
    config = {"nc": 3, "anchors": [[4, 4, 8, 8]], "backbone": rows, "head": [[[18], 1, "Detect", ["nc", "anchors"]]]}
    detector = build_yolov5(config, seed=0)
    x = torch.rand(1, 3, 64, 64)
    again = build(Description.from_dict(describe(detector.network).to_dict()))
    again.load_state_dict(detector.network.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x)[0], detector.network(x)[0])
        assert detector(x).shape[2] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": [[-1, 1, "Segment", [1]]]}, "not a detection block"),
        ({"head": [[-1, 1, "Conv", [64]]]}, "must end in Detect"),
        ({"backbone": [[-1, 1, "Conv"]]}, "row 0"),
        ({"anchors": None, "backbone": None}, "cannot be built|lacks"),
        ({"nc": "many"}, "needs nc"),
        ({"head": [[[-1, 50], 1, "Concat", [1]], [[-1], 1, "Detect", ["nc", "anchors"]]]}, "row 10"),
    ],
)
def test_wrong_configurations_are_told(change, message):
    config = {key: value for key, value in {**official_config("n"), **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        build_yolov5(config)
