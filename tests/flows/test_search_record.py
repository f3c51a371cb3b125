"""What a search measured is taken up again for the same content alone, and a record that is none is told."""

import json
import shutil

import pytest

from notes import Notes
from small_sets import write_set
from yoloquant.analysis.sensitivity import Record, Sensitivity
from yoloquant.data.contents import contents_of, dataset_contents
from yoloquant.data.dataset import load_dataset
from yoloquant.errors import YoloquantError
from yoloquant.flows.search_record import SearchRecord
from yoloquant.models.detector import digest_of
from yoloquant.progress import Silent


def test_values_of_the_same_key_and_layers_are_taken_up_again(tmp_path):
    path = tmp_path / "record.json"
    SearchRecord(path, "key", Silent()).add("1 layers", ["model.0.conv"], 12.5)
    tell = Notes()
    again = SearchRecord(path, "key", tell)
    assert again.get("1 layers", ["model.0.conv"]) == 12.5
    assert again.get("1 layers", ["model.1.conv"]) is None
    assert not tell.told
    assert SearchRecord(path, "other", tell).get("1 layers", ["model.0.conv"]) is None
    assert "another model, data, recipe or version" in tell.told[0]


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_a_record_that_was_cut_off_is_a_fresh_start(cut, tmp_path):
    path = tmp_path / "record.json"
    SearchRecord(path, "key", Silent()).add("float", [], 12.5)
    path.write_bytes(path.read_bytes()[:cut])
    tell = Notes()
    known = SearchRecord(path, "key", tell)
    assert known.get("float", []) is None
    assert "everything is measured anew" in tell.told[0]
    known.add("float", [], 1.0)
    assert SearchRecord(path, "key", Silent()).get("float", []) == 1.0


@pytest.mark.parametrize("values", [None, [1], [["float", [], "much"]], {"float": 3}])
def test_a_damaged_record_is_a_fresh_start(values, tmp_path):
    path, tell = tmp_path / "record.json", Notes()
    path.write_text(json.dumps({"format": "yoloquant.search.1", "key": "key", "values": values}))
    assert SearchRecord(path, "key", tell).get("float", []) is None
    assert "damaged" in tell.told[0]


def test_a_file_of_another_program_is_not_replaced(tmp_path):
    path = tmp_path / "record.json"
    for content in ({"images": []}, [1, 2], "text"):
        path.write_text(json.dumps(content))
        with pytest.raises(YoloquantError, match="no search wrote it"):
            SearchRecord(path, "key", Silent())


def test_lines_that_were_cut_off_are_measured_again(tmp_path):
    path = tmp_path / "measurements.jsonl"
    record = Record(path, "key")
    first, second = (Sensitivity(name, "one", "both", cost) for name, cost in (("a", 1.0), ("b", 2.0)))
    record.add(first)
    record.add(second)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        cut = Record(path, "key")
        assert cut.get("a", "one", "both") == (1.0 if length >= whole.index(b"\n") else None)
        cut.add(second)
        assert Record(path, "key").get("b", "one", "both") == 2.0


def test_content_of_images_labels_and_weights_is_part_of_the_key(tmp_path):
    from small_networks import RowsHead, SmallNetwork
    from yoloquant.models.detector import Detector

    data = write_set(tmp_path / "set")
    before = dataset_contents(load_dataset(data))
    assert dataset_contents(load_dataset(data)) == before
    images = sorted((tmp_path / "set" / "images" / "val").iterdir())
    shutil.copy(images[0], images[1])
    changed = dataset_contents(load_dataset(data))
    assert changed != before
    (tmp_path / "set" / "labels" / "val" / "000000.txt").write_text("1 0.5 0.5 0.4 0.2\n")
    assert contents_of(load_dataset(data).images) != changed[:-1]

    def detector(seed):
        return Detector(SmallNetwork(seed=seed), RowsHead(), ("a", "b", "c", "d"), (4, 8), (64, 96), "small")

    assert digest_of(detector(0), 1) == digest_of(detector(0), 1)
    assert len({digest_of(detector(seed), fact) for seed in (0, 1) for fact in (1, 2)}) == 4
