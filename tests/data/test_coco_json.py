"""COCO annotation files: which image is which file, what is left out, and under which ids predictions are written."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import write_set
from yoloquant.data.coco_json import match_images, read_coco
from yoloquant.data.dataset import load_dataset
from yoloquant.errors import DataError
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.matching import match_objects
from yoloquant.evaluation.precision_recall import class_curves, precision_recall


def test_coco_categories_map_to_classes_by_name(tmp_path):
    path = write_set(tmp_path, 1)
    coco = {
        "images": [{"id": 7, "file_name": "000000.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 44, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1}],
        "categories": [{"id": 44, "name": "b"}, {"id": 90, "name": "a"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    truth = load_dataset(path, annotations=tmp_path / "truth.json").ground_truth
    (annotation,) = truth["annotations"]
    assert annotation["category_id"] == 1
    assert annotation["iscrowd"] == 1
    assert annotation["image_id"] == 0


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("images", {"id": "a"}, "entry 0 of images needs 'id', a whole number"),
        ("images", {"file_name": None}, "entry 0 of images needs 'file_name', a text"),
        ("categories", {"name": None}, "entry 0 of categories needs 'name', a text"),
        ("annotations", {"bbox": None}, "entry 0 of annotations needs 'bbox', a list of four numbers"),
        ("annotations", {"bbox": [1, 2, "x"]}, "is not a list of four numbers"),
    ],
)
def test_wrong_annotations_are_told(kind, changes, message, tmp_path):
    path = write_set(tmp_path, 1)
    content = load_dataset(path).ground_truth
    content[kind][0] |= changes
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        _ = load_dataset(path, annotations=tmp_path / "truth.json").ground_truth


def match(files, names):
    """Files of a data set -> the ids of the entries that match them; `names` are id -> file_name."""
    paths = [Path("/set/images") / file for file in files]
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    found = match_images(paths, images, Path("truth.json"))
    return {file: found[path]["id"] for file, path in zip(files, paths, strict=True) if path in found}


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        # The path below the images folder, however much of it the JSON writes.
        (["cam1/1.jpg", "cam2/1.jpg"], {7: "cam2/1.jpg", 8: "cam1/1.jpg"}, {"cam1/1.jpg": 8, "cam2/1.jpg": 7}),
        (["cam1/1.jpg", "1.jpg"], {7: "1.jpg", 8: "cam1/1.jpg"}, {"cam1/1.jpg": 8, "1.jpg": 7}),
        (["cam1/1.jpg"], {7: "images/cam1/1.jpg"}, {"cam1/1.jpg": 7}),
        (["cam1/1.jpg"], {7: "cam1\\1.jpg"}, {"cam1/1.jpg": 7}),
        (["1.jpg"], {7: "./1.jpg", 8: "../cam1/1.jpg"}, {"1.jpg": 7}),
        # A base name that occurs once.
        (["a.jpg", "b.jpg"], {1: "train/b.jpg", 2: "other/a.jpg"}, {"a.jpg": 2, "b.jpg": 1}),
        # The number in the name.
        (["000000000139.png"], {139: "000000000139.jpg"}, {"000000000139.png": 139}),
        (["000000000139.jpg"], {139: "COCO_val2014_000000000139.jpg"}, {"000000000139.jpg": 139}),
        (["3.jpg"], {3: "x.jpg"}, {"3.jpg": 3}),
        # Never the position: neither of the file nor of the entry.
        (["a.jpg", "b.jpg"], {0: "x.jpg", 1: "y.jpg"}, {}),
        (["b.jpg"], {0: "a.jpg", 1: "b.jpg"}, {"b.jpg": 1}),
        # Not the entry that has another file's number, or that another file has taken.
        (["17.jpg"], {17: "frame_0005.jpg"}, {}),
        (["a.jpg", "1.jpg"], {1: "a.jpg"}, {"a.jpg": 1}),
        # A further folder of cameras that the JSON tells apart is not in it.
        (["cam1/1.jpg", "cam3/1.jpg"], {1: "cam1/1.jpg", 2: "cam2/1.jpg"}, {"cam1/1.jpg": 1}),
    ],
)
def test_images_are_matched_by_path_then_name_then_number(files, names, expected):
    assert match(files, names) == expected
    # The order of either side is no matter.
    assert match(files[::-1], dict(reversed(names.items()))) == expected


@pytest.mark.parametrize(
    ("files", "names", "message"),
    [
        (
            ["cam1/1.jpg", "cam2/1.jpg"],
            {7: "1.jpg"},
            r"cam1/1\.jpg and .*cam2/1\.jpg can both be '1\.jpg' in truth",
        ),
        (["1.jpg"], {7: "cam1/1.jpg", 8: "cam2/1.jpg"}, r"1\.jpg can be 'cam1/1\.jpg' \(id 7\) or 'cam2/1\.jpg' \(id 8\)"),
        (["1.jpg"], {7: "1.jpg", 8: "1.jpg"}, r"can be '1\.jpg' \(id 7\) or '1\.jpg' \(id 8\)"),
        (["001.png", "1.png"], {1: "1.jpg"}, r"001\.png and .*/1\.png can both be '1\.jpg'"),
    ],
)
def test_ambiguous_images_are_refused(files, names, message):
    with pytest.raises(DataError, match=message):
        match(files, names)


part = st.sampled_from(["a", "b", "1", "2"])
name = st.lists(part, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".jpg")


@settings(max_examples=300, deadline=None)
@given(files=st.lists(name, max_size=5, unique=True), names=st.lists(name, max_size=5, unique=True))
def test_any_match_is_of_one_file_and_one_image_of_like_names(files, names):
    listed = dict(enumerate(names))
    try:
        found = match(files, listed)
    except DataError:
        return
    assert len(set(found.values())) == len(found)
    for file, number in found.items():
        same_name = Path(file).name == Path(listed[number]).name
        assert same_name or Path(file).stem == str(number)
    # What is written alike is never mistaken for something else.
    for number, listed_name in listed.items():
        if listed_name in files:
            assert found[listed_name] == number or len(Path(listed[found[listed_name]]).parts) > len(Path(listed_name).parts)


@settings(max_examples=200, deadline=None)
@given(files=st.lists(name, max_size=6, unique=True), data=st.data())
def test_paths_below_the_images_folder_always_match(files, data):
    names = data.draw(st.permutations(files))
    found = match(files, dict(enumerate(names)))
    assert {file: names[number] for file, number in found.items()} == {file: file for file in files}


def two_cameras(folder):
    """A set with one base name in two folders, and the annotations of both: one box here, two there."""
    for camera in ("cam1", "cam2"):
        write_set(folder, 1, split=camera)
        (folder / "images" / camera / "000000.png").rename(folder / "images" / camera / "0001.png")
    path = folder / "data.yaml"
    path.write_text("path: .\nval: [images/cam1, images/cam2]\nnames: [a, b]\nannotations: truth.json\n")
    content = {
        "images": [{"id": 70 + number, "file_name": f"cam{number}/0001.png", "width": 60, "height": 40} for number in (1, 2)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": [10, 10, size, size]}
            for number, (image, category, size) in enumerate([(71, 3, 10), (72, 3, 20), (72, 5, 15)])
        ],
        "categories": [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return path, content


def evaluation_of(dataset, rows):
    truth = dataset.ground_truth
    ids = [image["id"] for image in truth["images"]]
    figures, _ = coco_figures(truth, table_from_rows(rows), ids)
    files = {image["id"]: image["file_name"] for image in truth["images"]}
    table = table_from_rows(rows)
    return Evaluation(
        figures=figures,
        classification=precision_recall(class_curves(match_objects(truth, table, ids))),
        per_class={},
        image_count=len(ids),
        seconds={},
        skipped=(),
        detections=table,
        file_names=files,
        coco_ids=dataset.coco_ids,
    )


def test_predictions_are_written_with_the_ids_of_the_annotations(tmp_path):
    path, _ = two_cameras(tmp_path)
    dataset = load_dataset(path)
    truth = dataset.ground_truth
    by_file = {entry.image_id: entry.path.parent.name for entry in dataset.images}
    sizes = sorted((by_file[a["image_id"]], a["category_id"], a["bbox"][2]) for a in truth["annotations"])
    assert sizes == [("cam1", 0, 10.0), ("cam2", 0, 20.0), ("cam2", 1, 15.0)]
    rows = [{key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
    evaluation = evaluation_of(dataset, rows)
    assert evaluation.map50_95 == pytest.approx(100)
    evaluation.write_coco_json(tmp_path / "boxes.json")
    written = json.loads((tmp_path / "boxes.json").read_text())
    # COCO's own tools score the file against the JSON as it is.
    own = read_coco(tmp_path / "truth.json")
    own["annotations"] = [a | {"area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0, "id": a["id"] + 1} for a in own["annotations"]]
    figures, _ = coco_figures(own | {"info": {}}, table_from_rows(written), [71, 72])
    assert figures["mAP50-95"] == pytest.approx(100)
    assert {(row["image_id"], row["file_name"]) for row in written} == {(71, "cam1/0001.png"), (72, "cam2/0001.png")}
    assert "coco_ids" not in evaluation.to_dict()


def test_predictions_without_annotations_have_class_indices_and_numbers_of_files(tmp_path):
    dataset = load_dataset(write_set(tmp_path, 3))
    rows = [{"image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
    evaluation_of(dataset, rows).write_coco_json(tmp_path / "boxes.json")
    assert json.loads((tmp_path / "boxes.json").read_text()) == [rows[0] | {"file_name": "000002.png"}]


def test_annotations_that_cannot_be_used_are_counted(tmp_path):
    path, content = two_cameras(tmp_path)
    good = load_dataset(path).ground_truth
    bad = [(71, 3, [1, 1, -5, 5]), (71, 3, [1, 1, 5, 0]), (71, 99, [1, 1, 5, 5]), (99, 3, [1, 1, 5, 5])]
    content["annotations"] += [{"id": 10 + n, "image_id": i, "category_id": c, "bbox": b} for n, (i, c, b) in enumerate(bad)]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    dataset = load_dataset(path)
    assert dataset.ground_truth["annotations"] == good["annotations"]
    assert dataset.problem_counts() == {"box without area": 2, "unknown category": 1, "unknown image": 1}
    assert "annotation 10: box without area [1, 1, -5, 5]" in dataset.problem_sentences()[0]
    content["annotations"] = content["annotations"][-4:]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no annotation of .*truth\.json can be used, 4 cannot; the first: "):
        _ = load_dataset(path).ground_truth


@pytest.mark.parametrize("kind", ["images", "categories"])
def test_ids_that_occur_twice_are_refused(kind, tmp_path):
    path, content = two_cameras(tmp_path)
    content[kind][1]["id"] = content[kind][0]["id"]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"2 {kind} have the id {content[kind][0]['id']}: give each its own"):
        _ = load_dataset(path).ground_truth


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 80) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "image_id"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_change_to_a_json_is_read_or_told(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "changed"
    if not folder.exists():
        two_cameras(folder)
        (folder / "good.json").write_bytes((folder / "truth.json").read_bytes())
    content = json.loads((folder / "good.json").read_text())
    kind = data.draw(st.sampled_from(sorted(content)))
    entry = data.draw(st.sampled_from(content[kind]))
    entry[data.draw(st.sampled_from([*entry, "area", "iscrowd"]))] = data.draw(json_values)
    (folder / "truth.json").write_text(json.dumps(content))
    dataset = load_dataset(folder / "data.yaml")
    try:
        truth = dataset.ground_truth
    except DataError:
        return
    assert all(a["bbox"][2] > 0 and a["bbox"][3] > 0 and a["category_id"] in (0, 1) for a in truth["annotations"])
    coco_figures(truth, table_from_rows([]), [image["id"] for image in truth["images"]])
