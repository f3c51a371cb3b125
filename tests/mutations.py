"""Damaged and hostile variants of every kind of file that is read, from valid ones, and what reads them.

`FORMATS` names a format's valid file, how it is damaged, and the readers that must answer or refuse it in one sentence. A variant
depends on its seed alone, so that a fault that was found is found again.
"""

import json
import pickletools
import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from small_sets import write_set
from yoloquant.analysis.sensitivity import Record
from yoloquant.assets import demo_weights
from yoloquant.checking.findings import check_file
from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.checkpoint.read import detector_from_checkpoint, read_detector
from yoloquant.checkpoint.unpickler import read_pickle
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import read_image
from yoloquant.data.labels import read_labels
from yoloquant.errors import CheckpointError
from yoloquant.evaluation.latency import Latency
from yoloquant.files.reading import parsed
from yoloquant.flows.search_record import SearchRecord
from yoloquant.models.record import Record as PickleRecord
from yoloquant.progress import Silent
from yoloquant.recipe.recipe import load_recipe, recipe_of
from yoloquant.results.comparison import read_entries
from yoloquant.results.quantization import Quantization
from yoloquant.results.search import Search

Mutator = Callable[[random.Random, Path], None]
Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        seed: Folder to write into -> a valid file, or folder.
        mutators: Each damages a copy in place.
        readers: Of the file.
    """

    seed: Callable[[Path], Path]
    mutators: Sequence[Mutator]
    readers: Sequence[Reader]


def deep(levels: int, make: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = make(value)
    return value


# Stands for brackets that are too deep to be made otherwise.
DEEP = "2000 brackets"


def as_json(value: Any) -> str:
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 2000 + "]" * 2000)


def odd_values() -> list[Any]:
    """Values that no reader expects where they stand."""
    return [
        None, True, False, 0, -1, 1, 3, 2**31, 2**63, -(2**70), 10**400, 0.5, -1e308, float("inf"), float("nan"), "", "x",
        "\0", "../..", "é\u202e\U0001f600", "x" * 300, "x" * 100_000, "=1+1", [], {}, [[]], [None], {"": None}, {"a": {}},
        [1] * 1000, [0, 0, 0, 0], [1e9] * 4, deep(40), DEEP, deep(60, lambda inner: {"a": inner}),
    ]  # fmt: skip


def flip_bytes(chance: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        if not data:
            break
        place = chance.randrange(len(data))
        action = chance.randrange(4)
        if action == 0:
            data[place] = chance.randrange(256)
        elif action == 1:
            del data[place : place + chance.choice((1, 2, 16, len(data)))]
        elif action == 2:
            data[place:place] = chance.randbytes(chance.choice((1, 4, 64)))
        else:
            data[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"))
    path.write_bytes(data)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of lists and dictionaries."""
    found, waiting = [], [value]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


def change_tree(chance: random.Random, value: Any) -> Any:
    """A tree with one to three values replaced, deleted, repeated or exchanged."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        known = places(value)
        if not known or chance.random() < 0.03:
            return chance.choice(odd_values())
        container, key = chance.choice(known)
        action = chance.randrange(5)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, list):
            container.append(container[key])
        elif action == 2:
            other, at = chance.choice(known)
            container[key] = json.loads(json.dumps(other.get(at) if isinstance(other, dict) else at, default=str))
        else:
            container[key] = chance.choice(odd_values())
    return value


def change_json(chance: random.Random, path: Path) -> None:
    path.write_text(as_json(change_tree(chance, json.loads(path.read_text()))))


def change_json_line(chance: random.Random, path: Path) -> None:
    lines = path.read_text().splitlines()
    number = chance.randrange(len(lines))
    lines[number] = as_json(change_tree(chance, json.loads(lines[number])))
    path.write_text("\n".join(lines))


def change_yaml(chance: random.Random, path: Path) -> None:
    tree = change_tree(chance, yaml.safe_load(path.read_text()))
    path.write_text(yaml.safe_dump(tree).replace(DEEP, "[" * 2000 + "]" * 2000))


YAML_TEXTS = (
    "!!timestamp x", "!!bool x", "!!int x", "!!float x", "!!binary x", "!!python/object/apply:os.system [touch owned]",
    "&a [*a]", "2023-02-31", "1" * 5000, "0x" + "f" * 5000, "[" * 3000, "{" * 3000, "? [a, b]\n: c", "<<: [1]",
    "!!set {a, b}", "!!omap [a: 1]", "*a", "\0", "\ufffe", "- &a 1\n- *a", "a: b: c", "%YAML 9.9\n---\na: 1",
    "---\na: 1\n---\nb: 2", "!!null x", ".inf", "1:2:3",
)  # fmt: skip


def change_yaml_text(chance: random.Random, path: Path) -> None:
    lines = path.read_text().splitlines()
    number = chance.randrange(len(lines))
    key = lines[number].split(":")[0]
    lines[number] = f"{key}: {chance.choice(YAML_TEXTS)}" if chance.random() < 0.8 else chance.choice(YAML_TEXTS)
    path.write_text("\n".join(lines), encoding="utf-8")


LABEL_WORDS = ("1e9", "-1", "nan", "inf", "1e400", "x", "0x1", "1" * 5000, "1_0", "0.5", "\u0661", "", "1,5", "1e-400")


def change_words(chance: random.Random, path: Path) -> None:
    words = path.read_text().split(" ")
    for _ in range(chance.choice((1, 2, 5))):
        words[chance.randrange(len(words))] = chance.choice(LABEL_WORDS)
    path.write_text(" ".join(words), encoding="utf-8")


# Checkpoints


def repack(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle of a checkpoint."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, change(data) if name.endswith("data.pkl") else data)


def pieces_of(data: bytes) -> list[bytes]:
    """A pickle cut into its opcodes."""
    starts = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    return [data[start:end] for start, end in pairwise(starts)]


ODD_OPCODES = (
    b"N", b"]", b"}", b")", b"(", b"0", b"1", b"2", b"t", b"\x85", b"\x86", b"\x87", b"R", b"b", b"s", b"u", b"a", b"e",
    b"Q", b"o", b"i", b"\x81", b"\x92", b"\x93", b"h\x00", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"J\xff\xff\xff\xff",
    b"K\x00", b"\x8a\x09" + b"\xff" * 9, b"cos\nsystem\n", b"X\x04\x00\x00\x00evil", b"cmodels.common\nConv\n",
    b"G\x7f\xf0\0\0\0\0\0\0",
)  # fmt: skip


def change_opcodes(chance: random.Random, path: Path) -> None:
    def change(data: bytes) -> bytes:
        pieces = pieces_of(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            place = chance.randrange(1, len(pieces) - 1)
            action = chance.randrange(4)
            if action == 0:
                del pieces[place]
            elif action == 1:
                pieces.insert(place, chance.choice(pieces))
            elif action == 2:
                pieces.insert(place, chance.choice(ODD_OPCODES))
            else:
                pieces[place] = chance.choice(ODD_OPCODES)
        return b"".join(pieces)

    repack(path, change)


def flip_pickle(chance: random.Random, path: Path) -> None:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(chance.choice((1, 2, 8))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)

    repack(path, change)


def odd_states(network: PickleRecord) -> list[Any]:
    deepest = network
    for _ in range(900):
        outer = PickleRecord("torch.nn.modules.container.Sequential")
        outer.state = {"_modules": {"0": deepest}}
        deepest = outer
    return [
        *odd_values(), deepest, network, PickleRecord("models.common.Conv"), torch.zeros(2), torch.zeros(3, 3, dtype=torch.int64),
        torch.tensor(1), torch.zeros(0), (), (1, 2, 3), 10**6, 2**40,
    ]  # fmt: skip


def read_changed_records(path: Path) -> Any:
    """A checkpoint whose records are changed after they are read, as a file that says so would be; its name ends in the seed."""
    chance = random.Random(int(path.with_suffix(".seed").read_text()))
    content = read_pickle(path)
    network = content["model"]
    records, waiting = [], [network]
    while waiting:
        record = waiting.pop()
        records.append(record)
        waiting += [child for child in record.state["_modules"].values() if isinstance(child, PickleRecord)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        state = chance.choice(records).state
        inner = chance.choice([state, *(value for value in state.values() if isinstance(value, dict) and value)])
        key = chance.choice(list(inner))
        action = chance.randrange(3)
        if action == 0:
            del inner[key]
        else:
            inner[key] = chance.choice(odd_states(network))
    with parsed(path, CheckpointError):
        return detector_from_checkpoint(content, path)


def keep_seed(chance: random.Random, path: Path) -> None:
    path.with_suffix(".seed").write_text(str(chance.randrange(2**32)))


# safetensors


def change_facts(chance: random.Random, path: Path) -> None:
    """Change what the metadata of a file of ours say, or its tensors."""
    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if chance.random() < 0.7:
        metadata["detector"] = as_json(change_tree(chance, json.loads(metadata["detector"])))
    else:
        name = chance.choice(list(tensors))
        odd = [torch.zeros(0), torch.zeros(1), torch.zeros(3, 3), tensors[name].to(torch.int32), tensors[name].reshape(-1), None]
        found = chance.choice(odd)
        if found is None:
            del tensors[name]
        else:
            tensors[name] = found
    save_file(tensors, str(path), metadata)


# ONNX

OPERATORS = (
    "Conv",
    "Add",
    "Concat",
    "Resize",
    "Reshape",
    "Split",
    "Gather",
    "Shape",
    "If",
    "Sigmoid",
    "Mul",
    "NoSuch",
    "Slice",
    "Loop",
)


def change_graph(chance: random.Random, path: Path) -> None:
    model = onnx.load(str(path))
    graph = model.graph
    for _ in range(chance.choice((1, 1, 2, 3))):
        chance.choice(GRAPH_CHANGES)(chance, model, graph)
    path.write_bytes(model.SerializeToString())


def change_node(chance: random.Random, _model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    if not graph.node:
        return
    number = chance.randrange(len(graph.node))
    node = graph.node[number]
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    action = chance.randrange(8)
    if action == 0:
        del graph.node[number]
    elif action == 1 and node.input:
        del node.input[chance.randrange(len(node.input))]
    elif action == 2 and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice((*names, "", "nothing"))
    elif action == 3 and node.output:
        node.output[0] = chance.choice((*names, "", "nothing"))
    elif action == 4:
        node.op_type = chance.choice(OPERATORS)
    elif action == 5:
        del node.attribute[:]
    elif action == 6:
        del node.output[:]
    else:
        graph.node.add().CopyFrom(node)


def change_attribute(chance: random.Random, _model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return
    attribute = chance.choice(chance.choice(nodes).attribute)
    action = chance.randrange(4)
    if action == 0:
        attribute.type = chance.choice((onnx.AttributeProto.FLOAT, onnx.AttributeProto.INTS, onnx.AttributeProto.TENSOR))
    elif action == 1:
        attribute.i = chance.choice((-1, 0, 7, 2**40))
    elif action == 2:
        attribute.ints[:] = chance.choice(([], [0], [-1, -1], [2**40] * 4))
    else:
        attribute.name = "other"


def change_tensor(chance: random.Random, _model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    if not graph.initializer:
        return
    tensor = chance.choice(graph.initializer)
    action = chance.randrange(5)
    if action == 0:
        tensor.dims[:] = chance.choice(([], [0], [1, 2], [2**40], [-1, 3]))
    elif action == 1:
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]
    elif action == 2:
        tensor.data_type = chance.choice((0, 7, 9, 16, 17, 22, 99))
    elif action == 3:
        tensor.name = "other"
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=chance.choice(("../../etc/passwd", "none", "/dev/zero", "")))


def change_ends(chance: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    ends = graph.output if chance.random() < 0.5 else graph.input
    if not ends:
        return
    action = chance.randrange(6)
    end = chance.choice(ends)
    if action == 0:
        del ends[:]
    elif action == 1:
        end.name = "nothing"
    elif action == 2 and end.type.tensor_type.shape.dim:
        chance.choice(end.type.tensor_type.shape.dim).dim_value = chance.choice((0, 1, -3, 5, 2**40))
    elif action == 3:
        del end.type.tensor_type.shape.dim[:]
    elif action == 4:
        end.type.tensor_type.elem_type = chance.choice((0, 2, 7, 99))
    else:
        del model.opset_import[:]


def change_metadata(chance: random.Random, model: onnx.ModelProto, _graph: onnx.GraphProto) -> None:
    if not model.metadata_props:
        return
    entry = chance.choice(model.metadata_props)
    if entry.key == "yoloquant" and chance.random() < 0.8:
        entry.value = as_json(change_tree(chance, json.loads(entry.value)))
    else:
        entry.value = chance.choice(
            ("", "x", "{", "[" * 5000, "(" * 500, "-1", "9" * 5000, "{0: []}", "None", "{**{}}", "1" + "+1" * 9000)
        )


GRAPH_CHANGES = (change_node, change_node, change_attribute, change_tensor, change_ends, change_metadata)


def change_foreign(chance: random.Random, path: Path) -> None:
    """The same on a file that another exporter might have written."""
    model = onnx.load(str(path))
    for entry in list(model.metadata_props):
        if entry.key == "yoloquant":
            model.metadata_props.remove(entry)
    path.write_bytes(model.SerializeToString())
    change_graph(chance, path)


# Folders


def change_member(name: str, change: Mutator) -> Mutator:
    return lambda chance, folder: change(chance, folder / name)


# Valid files


def checkpoint_seed(folder: Path) -> Path:
    from pickled_networks import write_checkpoint

    return write_checkpoint(folder / "x.pt")


def safetensors_seed(folder: Path) -> Path:
    return Path(shutil.copy(demo_weights(), folder / "x.safetensors"))


def small_detector_file(classes: int = 2) -> Any:
    from yoloquant.models.yolov5.build import build_yolov5

    rows = [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C3", [8]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 1], 1, "Concat", [1]],
    ]
    rows[3] = [-1, 1, "Conv", [8, 3, 2]]
    config = {"nc": classes, "anchors": [[4, 4, 8, 8]], "backbone": rows, "head": [[[3], 1, "Detect", ["nc", "anchors"]]]}
    return build_yolov5(config, seed=0)


def onnx_seed(folder: Path) -> Path:
    from yoloquant.exporting.onnx_export import export_onnx

    export_onnx(small_detector_file(), folder / "x.onnx", input_size=(64, 64))
    return folder / "x.onnx"


def folder_seed(folder: Path) -> Path:
    from yoloquant.data.synthetic import write_generated_dataset
    from yoloquant.flows.options import Measure
    from yoloquant.flows.quantize import quantize
    from yoloquant.runtime.open import load

    data = write_generated_dataset(folder / "set", train=2, val=1)
    measure = Measure(evaluate=False, runtimes=("onnxruntime",))
    detector = load(small_detector_file(), input_size=64)
    quantize(detector, data, recipe="int8-minmax", output=folder / "out", measure=measure, report=None)
    metrics = folder / "out" / "metrics.json"
    content = json.loads(metrics.read_text())
    row = {
        "model": "float",
        "runtime": "torch",
        "evaluation": None,
        "latency_ms": {"median": 1.0, "p90": 1.0, "minimum": 1.0, "batch_size": 1},
        "file_size": 10,
        "drop": None,
    }
    figures = {"mAP50-95": 1.0, "mAP50": 2.0}
    best = dict.fromkeys(("precision", "recall", "f1", "confidence", "map50_95", "map50"), 0.5)
    evaluation = {"figures": figures, "classification": best, "per_class": {"a": [1.0, None]}, "image_count": 2, "classes": []}
    content["rows"] = [
        row,
        {
            **row,
            "model": "int8",
            "drop": {"value": 0.1, "error": None},
            "evaluation": {**evaluation, "seconds": {}, "skipped": []},
        },
    ]
    metrics.write_text(json.dumps(content))
    return folder / "out"


def recipe_seed(folder: Path) -> Path:
    (folder / "x.yaml").write_text(load_recipe("qat-aligned").to_yaml())
    return folder / "x.yaml"


def set_seed(folder: Path) -> Path:
    path = write_set(folder / "set")
    path.write_text(path.read_text() + "nc: 2\nkpt_shape: [1, 3]\nannotations: {}\n")
    return path


def labels_seed(folder: Path) -> Path:
    write_set(folder / "set")
    path = folder / "set" / "labels" / "val" / "000000.txt"
    path.write_text("0 0.5 0.5 0.4 0.2\n1 0.1 0.1 0.2 0.2\n1 0.1 0.1 0.2 0.2 0.3 0.3 \n")
    return path


def coco_seed(folder: Path) -> Path:
    write_set(folder / "set")
    images = [{"id": n, "file_name": f"images/val/{n:06d}.png", "width": 60, "height": 40} for n in range(3)]
    boxes = [{"id": n, "image_id": n, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 200.0, "iscrowd": 0} for n in range(3)]
    path = folder / "set" / "x.json"
    path.write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "a"}, {"id": 8, "name": "b"}]})
    )
    return path


def image_seed(suffix: str) -> Callable[[Path], Path]:
    def seed(folder: Path) -> Path:
        picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"x{suffix}"), picture)
        return folder / f"x{suffix}"

    return seed


def measurements_seed(folder: Path) -> Path:
    line = {"key": "key", "name": "model.0.conv", "mode": "one", "part": "both", "cost": 1.0}
    (folder / "x.jsonl").write_text("\n".join(json.dumps({**line, "name": name}) for name in "abc") + "\n")
    return folder / "x.jsonl"


def search_seed(folder: Path) -> Path:
    known = SearchRecord(folder / "x.json", "key", Silent())
    known.add("float", [], 50.0)
    known.add("1 layers", ["model.0.conv"], 49.0)
    latency = Latency(1.0, 2.0, 0.5, 1)
    known.end(
        Search(
            recipe=load_recipe("int8-mse"),
            layers=("model.0.conv",),
            raise_bits=None,
            goal=48.0,
            float_map=50.0,
            found_map=49.0,
            curve={0: 47.0, 1: 49.0},
            evaluations=3,
            runtime="onnxruntime",
            latency={0: latency, 1: latency},
            float_latency=latency,
        )
    )
    return folder / "x.json"


def read_truth(path: Path) -> Any:
    dataset = load_dataset(path)
    return dataset.ground_truth, dataset.coco_ids


def read_label_file(path: Path) -> Any:
    image = path.parent.parent.parent / "images" / "val" / f"{path.stem}.png"
    return [read_labels(image, classes, {}, columns) for classes in (0, 2) for columns in (0, 3)]


def check_model(path: Path) -> Any:
    return check_file(path, "onnxruntime")


IMAGES = (".png", ".jpg", ".bmp", ".tif", ".webp")
FORMATS = {
    "checkpoint": Format(checkpoint_seed, (change_opcodes, flip_pickle, flip_bytes), (read_detector,)),
    "checkpoint's records": Format(checkpoint_seed, (keep_seed,), (read_changed_records,)),
    "safetensors": Format(safetensors_seed, (change_facts, change_facts, flip_bytes), (read_detector,)),
    "ONNX": Format(onnx_seed, (change_graph, change_foreign, flip_bytes), (read_detector, read_metadata, check_model)),
    "folder": Format(
        folder_seed,
        (
            change_member("quantized.safetensors", change_facts),
            change_member("recipe.yaml", change_yaml),
            change_member("metrics.json", change_json),
            change_member("model.onnx", change_graph),
        ),
        (Quantization.load, recipe_of, lambda path: read_entries([path]), lambda path: check_model(path / "model.onnx")),
    ),
    "recipe": Format(recipe_seed, (change_yaml, change_yaml_text, flip_bytes), (load_recipe,)),
    "data.yaml": Format(set_seed, (change_yaml, change_yaml_text, flip_bytes), (read_truth,)),
    "labels": Format(labels_seed, (change_words, flip_bytes), (read_label_file,)),
    "COCO JSON": Format(coco_seed, (change_json, change_json, flip_bytes), (read_truth,)),
    **{f"image {suffix}": Format(image_seed(suffix), (flip_bytes,), (read_image,)) for suffix in IMAGES},
    "measurements.jsonl": Format(measurements_seed, (change_json_line, flip_bytes), (lambda path: Record(path, "key"),)),
    "search.json": Format(
        search_seed, (change_json, flip_bytes), (lambda path: SearchRecord(path, "key", Silent()), Search.load)
    ),
}  # fmt: skip


def damage(kind: Format, seed_path: Path, place: Path, seed: int) -> Path:
    """A damaged copy of a valid file in the folder `place`, which is emptied first."""
    shutil.rmtree(place, ignore_errors=True)
    # Labels and sets keep their neighbours.
    shutil.copytree(seed_path.parent, place)
    path = place / seed_path.name
    if seed_path.parent.name == "val":
        shutil.rmtree(place)
        shutil.copytree(seed_path.parents[2], place)
        path = place / "labels" / "val" / seed_path.name
    chance = random.Random(seed)
    kind.mutators[seed % len(kind.mutators)](chance, path)
    return path


def read_all(kind: Format, path: Path) -> list[str]:
    """What each reader answers: "read" or the name of the project's error; anything else is raised."""
    from yoloquant.errors import YoloquantError

    answers = []
    for reader in kind.readers:
        try:
            reader(path)
            answers.append("read")
        except YoloquantError as error:
            if "\n" in str(error).strip():
                raise ValueError(f"several lines: {error}") from error
            answers.append(type(error).__name__)
    return answers
