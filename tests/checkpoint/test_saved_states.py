"""Checkpoints in the states that training scripts and users save them in: fused, wrapped for several devices, pruned."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

from yoloquant.checkpoint.read import read_detector
from yoloquant.cli import app
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import CheckpointError
from yoloquant.models.reparameterize import fused


class Conv(nn.Module):
    """Convolution, BatchNorm, activation, with the two forwards that the original has."""

    def __init__(self, inputs=3, outputs=8, stride=2):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class Detect(nn.Module):
    def __init__(self):
        super().__init__()
        self.nc, self.reg_max, self.stride = 2, 16, torch.tensor([4.0])
        self.cv2 = nn.ModuleList([nn.Sequential(Conv(8, 8, 1), nn.Conv2d(8, 64, 1))])
        self.cv3 = nn.ModuleList([nn.Sequential(Conv(8, 8, 1), nn.Conv2d(8, 2, 1))])
        self.f, self.i = [1], 2


class DetectionModel(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.model = nn.Sequential(Conv(channels, 8), Conv(8, 8), Detect())
        self.names, self.args = {0: "cat", 1: "dog"}, {"imgsz": 64}


@pytest.fixture
def repository(monkeypatch):
    """The classes under the names of the repository, so that torch.save writes what its users save; 8 channels, 2 classes."""
    places = {"conv": Conv, "head": Detect}
    modules = {f"ultralytics.nn.modules.{name}": cls for name, cls in places.items()}
    modules["ultralytics.nn.tasks"] = DetectionModel
    for name, cls in modules.items():
        parents = [name.rsplit(".", level)[0] for level in range(1, name.count(".") + 1)]
        for parent in parents:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        module = types.ModuleType(name)
        setattr(module, cls.__name__, cls)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(cls, "__module__", name)


def network(channels=3):
    torch.manual_seed(0)
    made = DetectionModel(channels)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return made.eval()


def saved(path, model):
    torch.save({"epoch": -1, "model": model, "train_args": {"imgsz": 64}}, path)
    return path


def fuse(model):
    """As the repository fuses: convolution and BatchNorm become one, and the module's own forward gives way to the other."""
    for module in [module for module in model.modules() if isinstance(module, Conv)]:
        weight, bias = fused(module.conv, module.bn)
        module.conv.weight, module.conv.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())
        del module.bn
        module.forward = module.forward_fuse
    return model


def distributed(model):
    return nn.parallel.DistributedDataParallel(model.train())


STATES = {"fused": fuse, "DataParallel": nn.DataParallel, "DistributedDataParallel": distributed}


@pytest.mark.parametrize("state", STATES)
def test_the_same_network_is_read_in_every_state(state, repository, tmp_path):
    expected = read_detector(saved(tmp_path / "plain.pt", network()))
    if state == "DistributedDataParallel":
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        path = saved(tmp_path / "other.pt", STATES[state](network()))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    found = read_detector(path)
    assert (found.names, found.strides, found.family) == (expected.names, expected.strides, expected.family)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found(images), expected(images), rtol=1e-4, atol=1e-4)


def test_masks_of_pruning_are_multiplied_in(repository, tmp_path):
    model = network()
    for module in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        prune.l1_unstructured(module, "weight", 0.5)
    found = read_detector(saved(tmp_path / "pruned.pt", model))
    for module in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        prune.remove(module, "weight")
    expected = read_detector(saved(tmp_path / "removed.pt", model))
    assert sum(int((parameter == 0).sum()) for parameter in found.network.parameters()) > 500
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found(images), expected(images), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_are_named_by_every_command(channels, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "model.pt", network(channels))
    write_generated_dataset(tmp_path / "set", train=1, val=1)
    before = set(tmp_path.rglob("*"))
    for command in (
        "quantize model.pt --data set/data.yaml --output new",
        "eval model.pt --data set/data.yaml",
        "predict model.pt set/images/val --output new",
        "bench model.pt --runtime torch",
        "inspect model.pt",
        "export model.pt --output new.onnx",
        "analyze model.pt --data set/data.yaml --output new",
        "search model.pt --data set/data.yaml --max-drop 1 --output new.yaml",
        "train model.pt --data set/data.yaml --output new",
    ):
        answer = CliRunner().invoke(app, command.split())
        assert isinstance(answer.exception, CheckpointError), answer.exception
        assert f"model.pt cannot be read: its images have {channels} channel" in str(answer.exception)
    assert set(tmp_path.rglob("*")) == before
