"""Outputs: never an input, one run at a time, replaced so that nothing is lost whatever fails or is killed in between."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from yoloquant.data.dataset import ImageEntry
from yoloquant.data.sources import find_sources
from yoloquant.errors import YoloquantError
from yoloquant.evaluation.pictures import picture_names
from yoloquant.evaluation.prediction_files import PredictionFiles, check_predictions
from yoloquant.files import outputs
from yoloquant.files.outputs import put_in_place, refuse_images, refuse_inputs, reserved, storage_error, working_folder
from yoloquant.files.writing import checked_file, checked_folder, checked_own_folder, replaced_whole, write_text
from yoloquant.flows.finish import checked_output, partial_folder


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "quantized.safetensors").write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("source", ["in.pt", "folder/in.pt", "link.pt", "sub/../in.pt"])
def test_an_output_that_is_or_holds_an_input_is_refused(source, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "in.pt").touch()
    (tmp_path / "link.pt").symlink_to("in.pt")
    folder_of(tmp_path / "folder", "")
    (tmp_path / "folder" / "in.pt").touch()
    for output in (tmp_path / source, *([tmp_path / "folder"] if "folder" in source else [])):
        with pytest.raises(YoloquantError, match="which is read: name another output"):
            refuse_inputs([output], [None, "int8", tmp_path / source])
    with pytest.raises(YoloquantError, match="which is read"):
        refuse_inputs([tmp_path / "folder" / "in.pt"], [tmp_path / "folder"])
    refuse_inputs([tmp_path / "new", None, tmp_path / "folder" / "new"], [tmp_path / source, tmp_path / "folder" / "none"])
    with pytest.raises(YoloquantError, match="two outputs are the same file"):
        refuse_inputs([tmp_path / "a", tmp_path / "sub" / ".." / "a"], [])


def test_an_image_is_no_output_under_any_of_its_names(tmp_path):
    image, hard, soft = (tmp_path / name for name in ("a.jpg", "hard.jpg", "soft.jpg"))
    image.touch()
    hard.hardlink_to(image)
    soft.symlink_to(image)
    for output in (image, hard, soft):
        with pytest.raises(YoloquantError, match=r"would replace the image .*a\.jpg"):
            refuse_images([output], [ImageEntry(image, 0)])
    sources = find_sources([image])
    with pytest.raises(YoloquantError, match="would stand among the images"):
        check_predictions(sources, PredictionFiles(output=tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(image)
    with pytest.raises(YoloquantError, match="would replace the image"):
        check_predictions(sources, PredictionFiles(output=tmp_path / "out"))
    assert check_predictions(sources, PredictionFiles(output=tmp_path / "new")) == {sources[0]: Path("a.jpg")}


part = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name.strip("."))
suffix = st.sampled_from([".jpg", ".png", ".JPG", ".jpeg"])


@given(st.lists(st.tuples(st.lists(part, max_size=2), part, suffix), min_size=1, max_size=8))
def test_every_image_has_a_picture_of_its_own_in_its_own_folder(images):
    paths = list(dict.fromkeys(Path("/set", *folders, f"{stem}{end}") for folders, stem, end in images))
    found = picture_names(paths)
    pictures = list(found.values())
    assert len(set(pictures)) == len(paths)
    # No picture is a folder of another one.
    assert not set(pictures) & {parent for picture in pictures for parent in picture.parents}
    top = Path(os.path.commonpath([path.parent for path in paths]))
    assert all(found[path].parent == path.relative_to(top).parent and found[path].suffix == ".jpg" for path in paths)


@pytest.fixture(params=["exchanged", "moved"])
def way(request, monkeypatch):
    """Systems that exchange two folders in one step, and others."""
    if request.param == "moved":
        monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)


def test_an_earlier_output_is_replaced_and_nothing_else_is_left(way, tmp_path):
    out = tmp_path / "out"
    for text in ("first", "second", "third"):
        with reserved(out), working_folder(out) as work:
            assert put_in_place(folder_of(work / "output", text), out) is None
        assert (out / "quantized.safetensors").read_text() == text
        assert names(tmp_path) == ["out"]


def test_what_cannot_be_moved_is_kept_and_the_message_says_where(way, tmp_path, monkeypatch):
    out = folder_of(tmp_path / "out", "old")
    rename = Path.rename

    def refused(self, place):
        if self.name == "output" and Path(place) in (out, outputs.beside(out, "old")):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", refused)
    monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    with pytest.raises(YoloquantError, match="the new one is"), reserved(out), working_folder(out) as work:
        put_in_place(folder_of(work / "output", "new"), out)
    assert names(tmp_path) == ["out", "out.new"]
    assert (out / "quantized.safetensors").read_text() == "old"
    assert (tmp_path / "out.new" / "quantized.safetensors").read_text() == "new"


def test_an_earlier_output_that_cannot_be_deleted_does_not_cost_the_new_one(way, tmp_path, monkeypatch):
    out = folder_of(tmp_path / "out", "old")
    with reserved(out), working_folder(out) as work:
        new = folder_of(work / "output", "new")
        monkeypatch.setattr(outputs.shutil, "rmtree", lambda *_, **__: None)
        left = put_in_place(new, out)
        monkeypatch.undo()
    assert left is not None
    assert "out.old" in left
    assert (out / "quantized.safetensors").read_text() == "new"
    assert (tmp_path / "out.old" / "quantized.safetensors").read_text() == "old"


def test_what_a_killed_run_set_aside_comes_back(tmp_path):
    out = tmp_path / "out"
    folder_of(outputs.beside(out, "old"), "old")
    folder_of(outputs.beside(out, "work"), "half")
    with reserved(out):
        assert (out / "quantized.safetensors").read_text() == "old"
    assert names(tmp_path) == ["out"]
    # The new one was in place already.
    folder_of(outputs.beside(out, "old"), "older")
    with reserved(out):
        pass
    assert names(tmp_path) == ["out"]
    assert (out / "quantized.safetensors").read_text() == "old"


def test_what_a_killed_run_left_in_an_output_does_not_hold_up_the_next(tmp_path):
    out = folder_of(tmp_path / "out", "old")
    (out / ".yoloquant-part-metrics.json").touch()
    assert checked_output(out) == out
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / ".yoloquant-part-options.json").touch()
    assert checked_own_folder(begun, "options.json", "another") == begun
    (begun / "notes.txt").touch()
    with pytest.raises(YoloquantError, match="holds other files"):
        checked_own_folder(begun, "options.json", "another")


HOLD = """
import sys, time
from yoloquant.files.outputs import reserved, working_folder
from pathlib import Path
with reserved(Path(sys.argv[1])), working_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_into_one_output_is_refused_and_a_kill_frees_it(tmp_path):
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(YoloquantError, match="another run is writing"), reserved(out):
            pass
        with reserved(tmp_path / "another"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert names(tmp_path) == [".yoloquant-lock-out", ".yoloquant-work-out"]
        with reserved(out):
            pass
        assert names(tmp_path) == []
    finally:
        other.kill()
        other.communicate()


def test_the_first_of_several_processes_holds_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with reserved(tmp_path / "out"):
        assert names(tmp_path) == []


def test_symbolic_links_stay_and_what_they_lead_to_is_written(tmp_path):
    (tmp_path / "place").mkdir()
    file, folder, loop = (tmp_path / name for name in ("file", "folder", "loop"))
    file.symlink_to("place/x.txt")
    folder.symlink_to("place/new")
    loop.symlink_to("loop")
    write_text(file, "text")
    assert file.is_symlink()
    assert (tmp_path / "place" / "x.txt").read_text() == "text"
    assert checked_folder(folder) == tmp_path / "place" / "new"
    for check in (checked_file, checked_folder):
        with pytest.raises(YoloquantError, match="leads to itself"):
            check(loop)
        with pytest.raises(YoloquantError, match="cannot be written"):
            check(tmp_path / ("x" * 300))
    for device in ("/dev/null", tmp_path / "pipe"):
        if device != "/dev/null":
            os.mkfifo(device)
        with pytest.raises(YoloquantError, match="is a device or a pipe"):
            checked_file(device)


def test_files_of_the_user_are_not_deleted_with_an_earlier_output(tmp_path):
    out = folder_of(tmp_path / "out", "")
    assert checked_output(out) == out
    (out / "notes.txt").touch()
    with pytest.raises(YoloquantError, match=r"holds notes\.txt, which yoloquant did not write"):
        checked_output(out)
    (out / "notes.txt").unlink()
    partial = partial_folder(out)
    partial.mkdir()
    (partial / f"train-{'0' * 16}.safetensors").touch()
    assert checked_output(out) == out
    (partial / "mine.txt").touch()
    with pytest.raises(YoloquantError, match=r"holds mine\.txt: move it"):
        checked_output(out)


def test_partial_files_of_the_user_stay(tmp_path):
    (tmp_path / "x.txt.partial").write_text("mine")
    write_text(tmp_path / "x.txt", "text")
    assert (tmp_path / "x.txt.partial").read_text() == "mine"
    assert names(tmp_path) == ["x.txt", "x.txt.partial"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(mask, tmp_path):
    import torch

    before = os.umask(mask)
    try:
        with replaced_whole(tmp_path / "x.safetensors") as partial:
            save_file({"x": torch.zeros(1)}, str(partial))
        with reserved(tmp_path / "out"), working_folder(tmp_path / "out") as work:
            new = folder_of(work / "output", "")
            save_file({"x": torch.zeros(1)}, str(new / "y.safetensors"))
            put_in_place(new, tmp_path / "out")
    finally:
        os.umask(before)
    for path in (tmp_path / "x.safetensors", *(tmp_path / "out").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def as_on_a_full_disk(write) -> str:
    """What writing raises in a process whose files may not grow beyond 1000 bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write()
            os.write(writing, b"nothing")
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def test_a_full_disk_is_one_sentence_and_the_old_file_stays_whole(tmp_path):
    import torch

    file = tmp_path / "x.safetensors"
    file.write_text("old")

    def tensors():
        with replaced_whole(file) as partial:
            save_file({"x": torch.zeros(10_000)}, str(partial))

    for write in (tensors, lambda: write_text(file, "x" * 10_000)):
        told = as_on_a_full_disk(write)
        assert told.startswith("YoloquantError: ")
        assert "cannot be written: File too large; what was there before is as it was" in told
        assert file.read_text() == "old"
        assert names(tmp_path) == ["x.safetensors"]


def test_errors_of_storage_are_told_from_others():
    assert storage_error(OSError(errno.ENOSPC, "x")) == errno.ENOSPC
    assert storage_error(RuntimeError("I/O error: No space left on device (os error 28)")) == errno.ENOSPC
    assert storage_error(RuntimeError("write failed: No space left on device")) == errno.ENOSPC
    assert storage_error(OSError(errno.ENOENT, "x")) is None
    assert storage_error(ValueError("x")) is None
