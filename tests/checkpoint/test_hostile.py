"""Hostile and broken files, each a fault that was found: one sentence, in bounded time and memory.

Every format is then damaged at random, by default for a few seconds, and for minutes under the marker `slow`.
"""

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolated import outcome
from mutations import FORMATS, damage, read_all
from small_sets import write_set
from yoloquant.checkpoint.opcodes import DEEPEST
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import read_image
from yoloquant.errors import DataError, RecipeError
from yoloquant.files.reading import parse_yaml
from yoloquant.recipe.recipe import load_recipe


def refused(read, words):
    told = outcome(read)
    assert told.startswith("refused: "), told
    assert words in told, told
    assert "\n" not in told


# Checkpoints


def packed(path: Path, data: bytes, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries.items():
            file.writestr(f"archive/data/{name}", content)
    return path


STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0{name}X\x03\0\0\0cpuK\x10tQ"


def tensor(name: bytes = b"0", size: int = 16, stride: int = 1) -> bytes:
    """Opcodes of a tensor of one axis."""
    numbers = b"J" + struct.pack("<i", size), b"J" + struct.pack("<i", stride)
    storage = STORAGE.replace(b"{name}", name)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + numbers[0] + b"\x85" + numbers[1] + b"\x85\x89}tR"


def nested_key(levels: int) -> bytes:
    return b"\x80\x02}" + b")" + b"\x85" * levels + b"Ns."


# Memo: a tuple of the one before, twice, again and again; as a key it would be hashed without end.
def doubled(levels: int) -> bytes:
    return b"\x80\x02}K\x01\x85" + b"2\x86" * levels + b"Ns."


PICKLES = {
    "nested tuples as a key": (nested_key(100_000), "nests values more than"),
    "fewer of them": (nested_key(DEEPEST - 1), "as a key"),
    "a key that holds itself twice": (doubled(60), "as a key"),
    "a tuple in a set": (b"\x80\x04\x8f(" + b")" + b"\x85" * 5 + b"\x90.", "as a key"),
    "a memo index of 2^31": (b"\x80\x02Nr\xff\xff\xff\x7f.", "holds no model"),
    "a string longer than the file": (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
    "a number of a million bytes": (b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\x7f" * 1_000_000 + b".", "damaged"),
    "strides of zero": (b"\x80\x02" + tensor(size=2**31 - 1, stride=0) + b".", "larger than the file"),
    "one storage 700 times": (b"\x80\x02](" + tensor(size=1 << 22) * 700 + b"e.", "larger than the file"),
    "a state for a tensor": (b"\x80\x02" + tensor() + b"}b.", "gives attributes to a Tensor"),
    "a state for a name": (b"\x80\x02cmodels.common\nConv\n}b.", "gives attributes to a Global"),
    "a state for a list": (b"\x80\x02]}b.", "gives attributes to a list"),
    "a call of a value": (b"\x80\x02](tR.", "damaged"),
    "an empty stack": (b"\x80\x020000.", "damaged"),
    "no end": (b"\x80\x02]", "damaged"),
    "an opcode of protocol 0": (b"ios\nsystem\n.", "opcode INST"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_attack_the_reader(name, tmp_path):
    data, words = PICKLES[name]
    path = packed(tmp_path / "x.pt", data, **{"0": bytes(1 << 24) if "700" in name else bytes(64)})
    refused(lambda: read_detector(path), words)


def test_as_many_opcodes_as_a_file_can_hold_end_in_time(tmp_path):
    path = packed(tmp_path / "x.pt", b"\x80\x02(" + b"}" * (30 << 20) + b"l.")
    refused(lambda: read_detector(path), "opcodes: it is refused")


def network_pickle(layers) -> bytes:
    """Opcodes of a network whose state is given by functions of the pickler's; `layers` builds the value of `_modules`."""
    module = b"cmodels.yolo\nModel\n)\x81}(X\x08\0\0\0_modules}(X\x05\0\0\0model" + layers + b"uub"
    return b"\x80\x02}X\x05\0\0\0model" + module + b"s."


SEQUENTIAL = b"ctorch.nn.modules.container\nSequential\n)\x81"


def nested_modules(levels: int) -> bytes:
    return (SEQUENTIAL + b"}(X\x08\0\0\0_modules}(X\x01\0\0\0" + b"0") * levels + b"N" + b"uub" * levels


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (nested_modules(40), "cannot be read"),
        (nested_modules(900), "nest"),
        # The container is its own child.
        (SEQUENTIAL + b"q\x01}(X\x08\0\0\0_modules}(X\x01\0\0\x000h\x01uub", "hold each other"),
        (SEQUENTIAL + b"}(X\x08\0\0\0_modules}(X\x01\0\0\x000K\x07uub", "last layer"),
        (SEQUENTIAL + b"}(X\x08\0\0\0_modules}(X\x01\0\0\x000]uub", "last layer"),
        (b"N", "without layers"),
    ],
)
def test_networks_that_cannot_be_walked(layers, words, tmp_path):
    path = packed(tmp_path / "x.pt", network_pickle(layers))
    refused(lambda: read_detector(path), words)


def test_modules_that_share_children_level_by_level_are_not_walked_two_to_the_power_of_their_depth(tmp_path):
    level = SEQUENTIAL + b"}(X\x08\0\0\0_modules}(X\x01\0\0\0ah\x01X\x01\0\0\0bh\x01uub" + b"q\x01"
    layers = SEQUENTIAL + b"}X\x08\0\0\0_modules}sbq\x01" + b"0" + (level + b"0") * 40 + b"h\x01"
    path = packed(tmp_path / "x.pt", network_pickle(layers))
    refused(lambda: read_detector(path), "cannot be read")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    for suffix in ("onnx", "pt", "safetensors", "yaml", "json", "txt", "jpg"):
        path = tmp_path / f"x.{suffix}"
        os.mkfifo(path)
        read = {"jpg": read_image, "yaml": load_dataset, "json": load_dataset, "txt": load_dataset}.get(suffix, read_detector)
        refused(lambda read=read, path=path: read(path), "is a pipe or a device")
    (tmp_path / "labels").mkdir()
    os.mkfifo(tmp_path / "labels" / "x.txt")
    from yoloquant.data.labels import read_labels

    assert outcome(lambda: read_labels(tmp_path / "images" / "x.jpg", 2, {})) == "read"


def test_settings_that_ask_for_memory_get_none(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    from mutations import safetensors_seed

    path = safetensors_seed(tmp_path)
    with safe_open(str(path), "pt") as file:
        facts, tensors = json.loads(file.metadata()["detector"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())

    def change(module):
        if module["name"].endswith("Conv2d"):
            module["fields"].update(in_channels=100_000, out_channels=100_000)
            return True
        return any(change(child) for child in module["children"].values())

    assert change(facts["network"])
    save_file(tensors, str(path), {**metadata, "detector": json.dumps(facts)})
    refused(lambda: read_detector(path), "has shape")


# Images


def png(width: int, height: int, rows: int = 1) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(1 + width * 3) * rows, 9)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 30_000, 60_000, 2**31 - 1])
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(side, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(side, side, 0 if side > 60_000 else 1))
    refused(lambda: read_image(path), "million pixels")


# Data sets


def test_classes_that_no_set_has(tmp_path):
    data = write_set(tmp_path)
    data.write_text("path: .\nval: images/val\n")
    label = tmp_path / "labels" / "val" / "000000.txt"
    label.write_text("1000000000 0.5 0.5 0.4 0.2\n")
    dataset = load_dataset(data)
    assert outcome(lambda: dataset.ground_truth) == "read"
    _ = dataset.ground_truth
    assert dataset.problem_counts()["class out of range"] == 1
    data.write_text("path: .\nval: images/val\nnc: 1000000000\n")
    refused(lambda: load_dataset(data), "nc is 1000000000")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        BOMB + "names: *i\n",
        "names: !!timestamp x",
        "names: !!bool x",
        "names: 2023-02-31",
        "[" * 100_000,
        "a: " + "9" * 5000,
        "&a [*a]",
        "- " * 100_000,
    ],
)
def test_yaml_that_stands_for_more_than_it_is(text, tmp_path):
    for name, read in (("data.yaml", load_dataset), ("recipe.yaml", load_recipe)):
        path = tmp_path / name
        path.write_text(text)
        told = outcome(lambda read=read, path=path: read(path))
        assert told.startswith("refused: "), told
    with pytest.raises((DataError, RecipeError)):
        parse_yaml("names: !!timestamp x", "x", DataError)


def coco(tmp_path, **changes):
    write_set(tmp_path)
    annotation = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200.0, "iscrowd": 0, **changes}
    images = [{"id": 0, "file_name": "images/val/000000.png"}]
    text = json.dumps({"images": images, "annotations": [annotation], "categories": [{"id": 1, "name": "a"}]})
    path = tmp_path / "x.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("area", [None, "large", float("inf"), float("nan"), -5, 10**400, [1]])
@pytest.mark.parametrize("crowd", [None, "no", [], 10**400])
def test_areas_and_crowds_of_real_files(area, crowd, tmp_path):
    dataset = load_dataset(coco(tmp_path, area=area, iscrowd=crowd))
    (annotation,) = dataset.ground_truth["annotations"]
    assert (annotation["area"], annotation["iscrowd"]) == (200.0, 0)


@pytest.mark.parametrize(
    "box", [[10**400, 1, 2, 3], [1, 2, 3], [1e308, 1, 2, 3], ["1", 2, None, 3], [float("inf")] * 4, [[1]] * 4]
)
def test_boxes_that_are_none(box, tmp_path):
    path = coco(tmp_path, bbox=box)
    refused(lambda: load_dataset(path).ground_truth, "is not a list of four numbers")


def test_json_that_nests_deeply_and_names_that_no_system_takes(tmp_path):
    path = coco(tmp_path)
    whole = path.read_text()
    path.write_text("[" * 100_000)
    refused(lambda: load_dataset(path), "is not valid JSON")
    path.write_text(whole.replace("200.0", "9" * 5000))
    refused(lambda: load_dataset(path), "is not valid JSON")
    path.write_text(whole.replace("images/val/000000.png", "x" * 300 + ".png"))
    refused(lambda: load_dataset(path), "none of the images")
    (tmp_path / "list.txt").write_text("x" * 5000 + ".png\nimages/val/000000.png\n")
    assert outcome(lambda: load_dataset(tmp_path / "list.txt")) == "read"


# Every format, at random


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Format -> its valid file, made once."""
    made = {}

    def seed(name):
        if name not in made:
            made[name] = FORMATS[name].seed(tmp_path_factory.mktemp("seed"))
        return made[name]

    return seed


# A folder takes a quantization to make.
QUICK = [name for name in FORMATS if name != "folder"]


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_damaged_files_are_read_or_refused(name, seed, seeds, tmp_path_factory):
    kind = FORMATS[name]
    place = tmp_path_factory.getbasetemp() / "damaged" / name.replace(" ", "-")
    path = damage(kind, seeds(name), place, seed)
    read_all(kind, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_damaged_files_are_read_or_refused_in_bounded_time_and_memory(name, seeds, tmp_path):
    kind = FORMATS[name]
    for seed in range(400):
        path = damage(kind, seeds(name), tmp_path / "place", seed)
        told = outcome(lambda path=path: read_all(kind, path))
        assert told == "read", (name, seed, told)
