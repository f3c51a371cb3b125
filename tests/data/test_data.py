"""Data sets, labels, letterboxing and loading, on small sets written by the tests."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import write_set
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import letterbox, read_image, rectangular_size
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import calibration_images, sample_images, write_image_list
from yoloquant.errors import DataError


def test_channel_order_is_rgb(tmp_path):
    write_set(tmp_path, 1)
    image = read_image(tmp_path / "images" / "val" / "000000.png")
    assert image[0, 0].tolist() == [0, 0, 200]


SIDE = st.integers(1, 300)


@settings(max_examples=150, deadline=None)
@given(height=SIDE, width=SIDE, size=st.sampled_from([(64, 64), (64, 96), (128, 32)]), data=st.data())
def test_letterbox_fits_and_boxes_come_back(height, width, size, data):
    image = np.full((height, width, 3), 200, np.uint8)
    padded, box = letterbox(image, size)
    assert padded.shape == (*size, 3)
    ends = [data.draw(st.floats(0, 1)) for _ in range(4)]
    original = np.array([[min(ends[0], ends[1]) * width, min(ends[2], ends[3]) * height,
                          max(ends[0], ends[1]) * width, max(ends[2], ends[3]) * height]])  # fmt: skip
    inside = original * (box.scale * 2) + [box.left, box.top, box.left, box.top]
    assert inside.min() >= -1e-6
    assert inside[0, 2] <= size[1] + 1
    assert inside[0, 3] <= size[0] + 1
    np.testing.assert_allclose(box.to_original(inside), original, atol=1e-2)
    # The longer side fills the input; the shorter is padded evenly.
    filled = padded[..., 0] == 200
    rows, columns = filled.any(axis=1).sum(), filled.any(axis=0).sum()
    assert rows == size[0] or columns == size[1]
    assert abs((size[0] - rows) - 2 * box.top) <= 1
    assert abs((size[1] - columns) - 2 * box.left) <= 1


@settings(max_examples=150, deadline=None)
@given(height=SIDE, width=SIDE, stride=st.sampled_from([32, 64]), long_side=st.sampled_from([320, 640]))
def test_rectangular_images_keep_their_scale_and_have_half_a_stride_more(height, width, stride, long_side):
    size = rectangular_size((height, width), long_side, stride)
    image = np.full((height, width, 3), 200, np.uint8)
    padded, _ = letterbox(image, size, long_side=long_side)
    filled = padded[..., 0] == 200
    rows, columns = filled.any(axis=1).sum(), filled.any(axis=0).sum()
    assert max(rows, columns) == long_side
    for side, content in zip(size, (rows, columns), strict=True):
        assert side % stride == 0
        # A side that is rounded up to whole pixels has up to one pixel less around it.
        assert stride / 2 - 1 <= side - content < 1.5 * stride


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (512, 672)), ((427, 640), (448, 672)), ((1000, 500), (672, 352)), ((333, 500), (448, 672))],
)
def test_rectangular_sizes_are_those_of_yolov5(size, expected):
    assert rectangular_size(size, 640, 32) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [((333, 500), (427, 640)), ((375, 500), (480, 640)), ((640, 427), (640, 427)), ((1, 2000), (1, 640))]
)
def test_the_scaled_side_is_rounded_up(size, expected):
    padded, box = letterbox(np.full((*size, 3), 200, np.uint8), (640, 640))
    filled = padded[..., 0] == 200
    assert (filled.any(axis=1).sum(), filled.any(axis=0).sum()) == expected
    # The far corner comes back exactly, although the two sides were scaled differently.
    corner = np.array([[box.left, box.top, box.left + expected[1], box.top + expected[0]]])
    assert box.to_original(corner).tolist() == [[0, 0, size[1], size[0]]]


def test_yolox_rounds_sides_down():
    padded, box = letterbox(np.full((333, 500, 3), 200, np.uint8), (640, 640), top_left=True)
    assert (padded[:, 0, 0] == 200).sum() == 426
    assert (box.left, box.top) == (0, 0)


def test_yaml_list_folder_and_json_are_the_same_set(tmp_path):
    path = write_set(tmp_path)
    expected = [entry.path for entry in load_dataset(path).images]
    assert [entry.path for entry in load_dataset(tmp_path / "images" / "val").images] == expected
    (tmp_path / "val.txt").write_text("".join(f"./images/val/{entry.name}\n" for entry in expected))
    assert [entry.path for entry in load_dataset(tmp_path / "val.txt").images] == expected
    truth = load_dataset(path).ground_truth
    (tmp_path / "instances_val.json").write_text(json.dumps(truth))
    again = load_dataset(tmp_path / "instances_val.json")
    assert [entry.path for entry in again.images] == expected
    assert again.names == ("a", "b")
    assert [a["bbox"] for a in again.ground_truth["annotations"]] == [a["bbox"] for a in truth["annotations"]]
    assert truth["annotations"][0]["bbox"] == pytest.approx([18, 16, 24, 8])
    assert truth["annotations"][1]["category_id"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not valid YAML"),
        ("- a", r"no data\.yaml"),
        ("val: nowhere\nnames: [a]", "does not exist"),
        ("train: images/val\nnames: [a]", "has no split 'val': it has train"),
        ("val: images/val\nnames: {1: a}", "class numbers 0 to 0"),
        ("val: images/val\nnames: [a]\nnc: 2", "nc is 2"),
        ("val: labels\nnames: [a]", "holds no images"),
        ("val: images/val\nnames: [a]\nannotations: none.json", r"names .*none\.json as its annotations"),
        ("val: images/val\nnames: {0: a, x: b}", "class numbers 0 to 1"),
        ("val: images/val\nnc: many", "nc is 'many': give the number of classes"),
        ("val: images/val\nnames: [a]\nkpt_shape: 17", r"kpt_shape is 17: give the number of keypoints .* as \[17, 3\]"),
        ("val: images/val\nnames: [a]\nkpt_shape: [17, 0]", r"kpt_shape is \[17, 0\]"),
        ("val: images/val/000000.png\nnames: [a]", "names one image"),
        ("val: binary.txt\nnames: [a]", r"binary\.txt is not a text file in UTF-8"),
    ],
)
def test_wrong_sets_are_told(content, message, tmp_path):
    path = write_set(tmp_path)
    path.write_text(content)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=message):
        load_dataset(path)


@pytest.mark.parametrize("name", ["list.txt", "data.yaml", "coco.json"])
def test_sources_that_are_not_text_are_told(name, tmp_path):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=f"{name} is not a text file"):
        load_dataset(tmp_path / name)


def test_sets_without_any_label_are_refused(tmp_path):
    write_set(tmp_path, 1)
    (tmp_path / "labels" / "val" / "000000.txt").unlink()
    with pytest.raises(DataError, match="no label file was found"):
        _ = load_dataset(tmp_path / "data.yaml").ground_truth


def test_loader_gives_every_image_once_and_skips_the_damaged(tmp_path):
    path = write_set(tmp_path, 7)
    (tmp_path / "images" / "val" / "000003.png").write_bytes(b"damaged")
    dataset = load_dataset(path)
    loader = ImageLoader(dataset.images, (64, 64), 2, workers=2)
    batches = list(loader)
    assert [entry.image_id for batch in batches for entry in batch.entries] == [0, 1, 2, 4, 5, 6]
    assert all(batch.images.shape[1:] == (3, 64, 64) for batch in batches)
    assert len(loader.skipped) == 1
    assert "000003.png" in loader.skipped[0]
    # The middle of image 5: red and green 50, blue 200.
    image = next(batch.images[i] for batch in batches for i, entry in enumerate(batch.entries) if entry.image_id == 5)
    assert image[:, 32, 32].tolist() == [50, 50, 200]


def test_rectangular_batches_have_one_shape_each(tmp_path):
    path = write_set(tmp_path, 3, (40, 60))
    for index in (7, 8):
        cv2.imwrite(str(tmp_path / "images" / "val" / f"{index:06d}.png"), np.zeros((60, 20, 3), np.uint8))
    batches = list(ImageLoader(load_dataset(path).images, (96, 96), 4, rectangular=True))
    assert sorted((len(batch.entries), tuple(batch.images.shape[2:])) for batch in batches) == [(2, (128, 64)), (3, (96, 128))]


def test_calibration_draw_is_repeatable_and_of_the_train_split(tmp_path):
    write_set(tmp_path, 9, split="train")
    entries = calibration_images(tmp_path / "data.yaml", 4, 42)
    assert len(entries) == 4
    shuffled = list(reversed(load_dataset(tmp_path / "data.yaml", "train").images))
    assert [e.path for e in sample_images(shuffled, 4, 42)] == [e.path for e in entries]
    assert [e.path for e in sample_images(shuffled, 4, 43)] != [e.path for e in entries]
    assert len(sample_images(shuffled, 100)) == 9
    write_image_list(entries, tmp_path / "list.txt")
    assert [e.path for e in load_dataset(tmp_path / "list.txt").images] == [e.path for e in entries]
    write_set(tmp_path, 2)
    with pytest.raises(DataError, match="no train split to calibrate on"):
        calibration_images(tmp_path / "data.yaml")
