"""Label files: what is read, what is left out and told, and where they are found."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import write_set
from yoloquant.data.dataset import load_dataset
from yoloquant.data.ground_truth import has_label_files
from yoloquant.data.labels import label_path, read_labels
from yoloquant.errors import DataError
from yoloquant.training.loader import load_samples


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Path of an image whose label file tests write."""
    path = tmp_path_factory.mktemp("labels") / "images" / "x.png"
    label_path(path).parent.mkdir()
    return path


def read(image, text, classes=3, **options):
    label_path(image).write_text(text, encoding="utf-8", errors="replace")
    problems = {}
    rows = read_labels(image, classes, problems, **options)
    return rows, {kind: len(sentences) for kind, sentences in problems.items()}


def test_bad_labels_are_left_out_and_told(tmp_path):
    path = write_set(tmp_path, 2)
    labels = tmp_path / "labels" / "val"
    (labels / "000000.txt").write_text(
        "0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.1 0.1\nnonsense\n0 0.5 0.5\n1 1.5 0.5 0.1 0.1\n1 0.1 0.1 0.3 0.1 0.3 0.5 0.1 0.5\n"
    )
    (labels / "000001.txt").unlink()
    dataset = load_dataset(path)
    boxes = dataset.ground_truth["annotations"]
    assert len(boxes) == 2
    assert boxes[1]["bbox"] == pytest.approx([6, 4, 12, 16])
    assert dataset.problem_counts() == {
        "class out of range": 1,
        "malformed label": 2,
        "box outside the image": 1,
        "image without labels": 1,
    }
    assert "000000.txt, line 2" in dataset.problems["class out of range"][0]


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=80))
def test_any_label_text_is_read_or_told(image, text):
    check_rows(*read(image, text))


# Numbers near the ends of 0..1, and some that no box has.
value = st.one_of(st.floats(-0.02, 1.02), st.sampled_from([0.0, 1.0, -0.01, 1.01, 1e308, float("nan"), float("inf"), -1.0]))
line = st.tuples(st.integers(-1, 4), st.lists(value, min_size=3, max_size=14))


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(line, max_size=6), keypoints=st.sampled_from([0, 8]))
def test_every_row_lies_in_the_image_or_is_counted(image, lines, keypoints):
    text = "\n".join(f"{category} {' '.join(map(repr, values))}" for category, values in lines)
    rows, problems = read(image, text, keypoint_columns=keypoints)
    check_rows(rows, problems)
    assert len(rows) + sum(problems.values()) == len(lines)


def check_rows(rows, problems):
    assert rows.shape[1] == 5
    corners = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], axis=1)
    assert (corners >= -1e-9).all()
    assert (corners <= 1 + 1e-9).all()
    assert (rows[:, 3:] > 0).all()
    assert set(problems) <= {"malformed label", "class out of range", "box outside the image", "duplicate label"}


inside = st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.01, 0.4), st.floats(0.01, 0.4))


@settings(max_examples=100, deadline=None)
@given(boxes=st.lists(inside, min_size=1, max_size=5, unique=True), repeats=st.integers(1, 3))
def test_boxes_come_as_written_and_once(image, boxes, repeats):
    text = "\n".join(f"1 {' '.join(map(repr, box))}" for box in boxes * repeats)
    rows, problems = read(image, text)
    assert rows.tolist() == [[1.0, *box] for box in boxes]
    assert problems.get("duplicate label", 0) == len(boxes) * (repeats - 1)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0 0.5 0.5 1.000001 0.5", [0, 0.5, 0.5, 1.0, 0.5]),
        ("0 -0.000001 0.5 0.2 0.5", [0, 0.0499998, 0.5, 0.0999995, 0.5]),
        ("0 0.95 0.5 0.2 0.5", [0, 0.925, 0.5, 0.15, 0.5]),
        ("0 0.1 0.1 1.000001 0.1 0.5 0.6", [0, 0.55, 0.35, 0.9, 0.5]),
    ],
)
def test_boxes_a_little_outside_are_clipped(image, row, expected):
    rows, problems = read(image, row)
    assert not problems
    assert rows[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("row", ["0 1.02 0.5 0.1 0.1", "0 0.5 0.5 0 0.1", "0 1.005 0.5 0.005 0.1", "0 0.5 0.5 0.1 -0.005"])
def test_boxes_of_which_nothing_is_inside_are_left_out(image, row):
    rows, problems = read(image, row)
    assert not len(rows)
    assert problems == {"box outside the image": 1}


def test_two_polygons_with_one_box_are_two_objects(image):
    text = "0 0.1 0.1 0.3 0.1 0.3 0.5\n0 0.1 0.1 0.1 0.5 0.3 0.5\n0 0.1 0.1 0.3 0.1 0.3 0.5"
    rows, problems = read(image, text)
    assert len(rows) == 2
    assert problems == {"duplicate label": 1}


def test_a_byte_order_mark_is_no_part_of_the_first_row(image):
    rows, problems = read(image, "\ufeff1 0.5 0.5 0.2 0.2")
    assert rows.tolist() == [[1, 0.5, 0.5, 0.2, 0.2]]
    assert not problems


def test_keypoints_are_cut_off_where_the_yaml_names_them(tmp_path):
    path = write_set(tmp_path, 1)
    (tmp_path / "labels" / "val" / "000000.txt").write_text("0 0.5 0.5 0.2 0.2 0.1 0.1 0.9 0.9\n1 0.5 0.5 0.4 0.2")
    # Nine columns are a polygon of four points, unless two keypoints are announced.
    assert load_dataset(path).ground_truth["annotations"][0]["bbox"] != pytest.approx([24, 16, 12, 8])
    path.write_text(path.read_text() + "kpt_shape: [2, 2]\n")
    dataset = load_dataset(path)
    boxes = [annotation["bbox"] for annotation in dataset.ground_truth["annotations"]]
    assert boxes == [pytest.approx([24, 16, 12, 8]), pytest.approx([18, 16, 24, 8])]
    ((_, labels),) = load_samples(dataset, 60)
    assert labels.tolist() == [pytest.approx([0, 24, 16, 36, 24]), pytest.approx([1, 18, 16, 42, 24])]


@pytest.mark.parametrize("text", ["0,0.5,0.5,0.1,0.1\n", "9 0.5 0.5 0.1 0.1\n", "0 2 2 0.1 0.1\n", "x\n"])
def test_a_set_of_which_no_row_can_be_used_is_refused(text, tmp_path):
    path = write_set(tmp_path, 2)
    for label in (tmp_path / "labels" / "val").iterdir():
        label.write_text(text)
    dataset = load_dataset(path)
    with pytest.raises(DataError, match=r"no label row can be used, 2 cannot; the first: .*000000\.txt, line 1: "):
        _ = dataset.ground_truth
    with pytest.raises(DataError, match="no label row can be used"):
        has_label_files(dataset.images, 2)


def test_a_set_of_background_alone_is_not_refused(tmp_path):
    path = write_set(tmp_path, 2)
    for label in (tmp_path / "labels" / "val").iterdir():
        label.write_text("")
    dataset = load_dataset(path)
    assert dataset.ground_truth["annotations"] == []
    assert has_label_files(dataset.images, 2)


@pytest.mark.parametrize("folder", [".", "images", "images/val"])
def test_labels_are_found_from_any_working_folder(folder, tmp_path, monkeypatch):
    path = write_set(tmp_path)
    expected = load_dataset(path).ground_truth
    monkeypatch.chdir(tmp_path / folder)
    back = os.path.relpath(tmp_path)
    sources = [f"{back}/data.yaml", f"{back}/images/val", f"{back}/val.txt"]
    (tmp_path / "val.txt").write_text("".join(f"images/val/{index:06d}.png\n" for index in range(3)))
    for source in sources:
        assert load_dataset(source).ground_truth["annotations"] == expected["annotations"]


def test_the_last_folder_called_images_holds_the_labels(tmp_path):
    assert label_path(tmp_path / "images" / "a" / "images" / "images.png") == tmp_path / "images" / "a" / "labels" / "images.txt"
    assert label_path(tmp_path / "pictures" / "x.png") == tmp_path / "pictures" / "x.txt"
