"""Sources of `predict` and what it writes: videos and a server of pictures are made here, and files are read by other code."""

import json
import threading
import tracemalloc
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from yoloquant.assets import demo_weights
from yoloquant.cli import app
from yoloquant.data import download
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import read_image
from yoloquant.data.sources import find_sources
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.data.video import open_video
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.predict import PredictionSettings, class_indices, predict
from yoloquant.evaluation.prediction_files import PredictionFiles, predict_to_files
from yoloquant.evaluation.prediction_formats import film
from yoloquant.runtime.open import open_runner

MODEL = str(demo_weights())
COUNT, RATE = 9, 12.5


def write_video(path, images, rate=RATE, code="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, images[0].shape[1::-1])
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A generated data set, and a video of its pictures."""
    folder = tmp_path_factory.mktemp("sources")
    data = write_generated_dataset(folder / "set", train=1, val=COUNT)
    pictures = sorted((folder / "set" / "images" / "val").iterdir())
    write_video(folder / "film.mp4", [read_image(path) for path in pictures])
    # Begins with its header, so that a server need not send it in pieces.
    write_video(folder / "stream.avi", [read_image(path) for path in pictures], code="MJPG")
    (folder / "list.txt").write_text(f"set/images/val/{pictures[0].name}\nfilm.mp4\nnone.jpg\n")
    (folder / "bad.mp4").write_bytes(b"no video" * 500)
    content = (folder / "film.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    (folder / "deep").mkdir()
    write_video(folder / "deep" / "film.mp4", [read_image(path) for path in pictures[:2]])
    return folder, data, pictures


@pytest.fixture(scope="module")
def runner():
    return open_runner(demo_weights())


def run(*words):
    return CliRunner().invoke(app, ["predict", MODEL, *map(str, words)])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(path):
    return list(open_video(path).frames())


def test_a_video_becomes_a_video_of_as_many_frames_at_the_same_rate(place, tmp_path, runner):
    folder, _, _ = place
    answer = run(folder / "film.mp4", "--output", tmp_path / "out", "--save-json", tmp_path / "x.jsonl")
    assert answer.exit_code == 0, answer.output
    read = cv2.VideoCapture(str(tmp_path / "out" / "film.mp4"))
    assert read.get(cv2.CAP_PROP_FPS) == pytest.approx(RATE)
    assert read.get(cv2.CAP_PROP_FRAME_COUNT) == COUNT
    found = lines(tmp_path / "x.jsonl")
    assert [line["frame"] for line in found] == list(range(COUNT))
    # Frame by frame what the pictures of the video hold.
    expected = [len(own) for _, own in predict(runner, frames_of(folder / "film.mp4"))]
    assert [len(line["detections"]) for line in found] == expected
    assert sum(expected) > COUNT
    assert f"{COUNT} frames, {sum(expected)} objects" in answer.output
    before, after = frames_of(folder / "film.mp4")[0], frames_of(tmp_path / "out" / "film.mp4")[0]
    assert before.shape == after.shape
    assert np.abs(before.astype(int) - after).max() > 100


def test_odd_sides_are_made_even_by_a_pixel(tmp_path):
    image = np.full((75, 101, 3), (200, 30, 30), np.uint8)
    with film(tmp_path / "odd.mp4", RATE) as add:
        add(image)
        add(image)
    frames = frames_of(tmp_path / "odd.mp4")
    assert [frame.shape for frame in frames] == [(76, 102, 3)] * 2
    # The edge is repeated, and red stays red.
    np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), (200, 30, 30), atol=8)
    np.testing.assert_allclose(frames[0][-1, -1], (200, 30, 30), atol=20)


def test_nothing_is_drawn_on_request(place, tmp_path):
    folder, _, pictures = place
    answer = run(folder / "film.mp4", pictures[0], "--output", tmp_path / "none", "--no-draw")
    assert answer.exit_code == 0
    assert str(pictures[0]) in answer.output
    assert not (tmp_path / "none").exists()


def test_memory_does_not_grow_with_a_video(tmp_path, runner):
    image = np.zeros((360, 640, 3), np.uint8)
    peaks = []
    for count in (4, 40):
        path = write_video(tmp_path / f"{count}.mp4", [image] * count)
        files = PredictionFiles(output=tmp_path / "out")
        tracemalloc.start()
        (done,) = predict_to_files(runner, find_sources([path]), files)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert done.frames == count
    # 36 more frames of 0.7 MB each would be 25 MB.
    assert peaks[1] < peaks[0] + 5e6


def test_sources_of_every_kind(place, monkeypatch):
    folder, data, pictures = place
    monkeypatch.chdir(folder)
    kinds = [(source.kind, source.file.name) for source in find_sources(["."])]
    assert ("video", "film.mp4") in kinds
    assert sum(kind == "picture" for kind, _ in kinds) == COUNT + 1
    assert [source.file for source in find_sources(["set/images/val/*.*"])] == pictures
    assert [source.file for source in find_sources(["**/film.mp4"])] == [folder / "deep" / "film.mp4", folder / "film.mp4"]
    skipped = []
    assert [source.kind for source in find_sources(["list.txt"], skipped)] == ["picture", "video"]
    assert skipped == ["none.jpg, listed in list.txt, is no image and no video that exists"]
    assert [source.file for source in find_sources([data])] == pictures
    assert len(find_sources([pictures[0], pictures[0], str(pictures[0])])) == 1
    (camera,) = find_sources(["0"])
    assert (camera.kind, camera.place) == ("stream", 0)
    (stream,) = find_sources(["rtsp://name:secret@host:554/live?key=1"])
    assert stream.label == "rtsp://host:554/live"
    assert stream.file_name == "live"


def test_labels_equal_what_is_in_the_json_and_are_a_data_set(place, tmp_path, runner):
    folder, _, pictures = place
    answer = run(folder / "set" / "images" / "val", "--output", tmp_path / "images", "--save-json", tmp_path / "x.jsonl",
                 "--save-txt", "--save-conf", "--conf", 0.5)  # fmt: skip
    assert answer.exit_code == 0, answer.output
    found = lines(tmp_path / "x.jsonl")
    assert [line["file_name"] for line in found] == [path.name for path in pictures]
    for line, path in zip(found, pictures, strict=True):
        size = np.array([line["width"], line["height"]] * 2)
        assert (line["height"], line["width"]) == read_image(path).shape[:2]
        rows = np.loadtxt(tmp_path / "images" / "labels" / f"{path.stem}.txt", ndmin=2)
        for row, entry in zip(rows, line["detections"], strict=True):
            assert int(row[0]) == entry["category_id"]
            assert row[5] == pytest.approx(entry["score"], abs=1e-5)
            centre, sides = row[1:3], row[3:5]
            np.testing.assert_allclose(np.concatenate([centre - sides / 2, sides]) * size, entry["bbox"], atol=1e-2)
    # Without scores they are ground truth, against which the model is perfect at that confidence.
    again = tmp_path / "again"
    assert run(folder / "set" / "images" / "val", "--output", again, "--save-txt", "--no-draw", "--conf", 0.5).exit_code == 0
    (again / "images").mkdir()
    for path in pictures:
        (again / "images" / path.name).symlink_to(path)
    (again / "data.yaml").write_text(f"val: images\nnames: {json.dumps(list(runner.names))}\n")
    figures = evaluate(runner, load_dataset(again / "data.yaml"), EvaluationSettings(confidence=0.5, iou=0.45)).figures
    assert figures["mAP50-95"] > 99


def test_frames_have_label_files_of_their_own(place, tmp_path):
    folder, _, _ = place
    answer = run(folder / "film.mp4", "--output", tmp_path, "--no-draw", "--save-txt", "--max-frames", 3)
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["film_0.txt", "film_1.txt", "film_2.txt"]


def test_classes_are_kept_by_name_and_number(place, runner):
    _, _, pictures = place
    images = [read_image(path) for path in pictures]
    everything = [found.classes.tolist() for _, found in predict(runner, images)]
    assert len({index for own in everything for index in own}) > 2
    kept = class_indices([runner.names[1], "3, 1"], runner.names)
    assert kept == (1, 3)
    chosen = [found.classes.tolist() for _, found in predict(runner, images, PredictionSettings(classes=kept))]
    assert chosen == [[index for index in own if index in (1, 3)] for own in everything]
    assert class_indices([], runner.names) is None
    assert class_indices(["a,b"], ["x", "a,b"]) == (1,)


@pytest.fixture
def server(place):
    """Pictures and a video over HTTP."""
    folder, _, _ = place

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.startswith("/endless"):
                self.send_response(200)
                self.send_header("Content-Type", "image/jpeg")
                self.end_headers()
                try:
                    for _ in range(1000):
                        self.wfile.write(bytes(1 << 14))
                except OSError:
                    pass
            else:
                super().do_GET()

    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}"
    served.shutdown()
    served.server_close()


def test_pictures_and_videos_come_from_addresses(place, server, tmp_path, runner):
    _, _, pictures = place
    address = f"{server}/set/images/val/{pictures[0].name}?key=secret"
    answer = run(address, f"{server}/stream.avi", "--output", tmp_path / "out", "--save-json", tmp_path / "x.jsonl")
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{pictures[0].stem}.jpg", "stream.mp4"]
    found = lines(tmp_path / "x.jsonl")
    ((_, expected),) = predict(runner, [read_image(pictures[0])])
    assert len(found[0]["detections"]) == len(expected) > 0
    assert found[0]["file_name"] == address.partition("?")[0]
    assert "secret" not in answer.output + (tmp_path / "x.jsonl").read_text()
    assert len(found) == 1 + COUNT


def test_what_a_server_does_wrong_is_told(place, server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1 << 20)
    cases = {
        f"{server}/none.jpg": "none.jpg cannot be read (404",
        f"{server}/endless.jpg": "sends more than 1 MiB",
        f"{server}/bad.mp4": "bad.mp4 cannot be opened as a video",
        f"{server}/list.txt": "list.txt cannot be opened as a video",
        "http://127.0.0.1:9/a.jpg": "cannot be read",
        "ftp://127.0.0.1/a.jpg": "cannot be read: give an address of http",
        "http://[/a.jpg": "malformed",
    }
    for address, words in cases.items():
        answer = run(address, "--output", tmp_path / "out", "--save-json", tmp_path / "x.jsonl")
        assert isinstance(answer.exception, YoloquantError), (address, answer.exception)
        assert words in str(answer.exception)
        assert list(tmp_path.iterdir()) in ([], [tmp_path / "out"])
        assert not list(tmp_path.rglob("*.*"))


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch):
    import socket

    monkeypatch.setattr(download, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match="cannot be read"):
        download.download(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")


def test_one_damaged_source_among_others_is_left_out(place, tmp_path):
    folder, _, pictures = place
    answer = run(folder / "cut.mp4", pictures[0], "--output", tmp_path / "out")
    assert answer.exit_code == 0
    assert "skipped:" in answer.output
    assert "cut.mp4 cannot be opened as a video" in answer.output


class Interrupted(BaseException):
    """As the command line's own."""


def test_an_interrupted_stream_leaves_what_there_is(place, server, tmp_path, runner):
    calls = [0]

    class Interrupting:
        def __getattr__(self, name):
            return getattr(runner, name)

        def __call__(self, images):
            calls[0] += 1
            if calls[0] > 4:
                raise Interrupted
            return runner(images)

    files = PredictionFiles(output=tmp_path / "out", json=tmp_path / "x.jsonl")
    with pytest.raises(Interrupted):
        list(predict_to_files(Interrupting(), find_sources([f"{server}/stream.avi"]), files))
    assert len(lines(tmp_path / "x.jsonl")) == 4
    assert len(frames_of(tmp_path / "out" / "stream.mp4")) == 4
    # Of a file, which can be read again, nothing is left.
    calls[0] = 0
    files = PredictionFiles(output=tmp_path / "new", json=tmp_path / "y.jsonl")
    with pytest.raises(Interrupted):
        list(predict_to_files(Interrupting(), find_sources([place[0] / "film.mp4"]), files))
    assert not (tmp_path / "y.jsonl").exists()
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("linked", [False, True])
def test_labels_of_the_images_that_are_read_are_not_replaced(linked, place, tmp_path):
    picture = place[2][0]
    for folder in ("images", "labels"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    (tmp_path / "own" / "images" / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "own" / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    output = tmp_path / ("link" if linked else "own")
    answer = run(tmp_path / "own" / "images" / "a.png", "--output", output, "--save-txt", "--no-draw")
    assert isinstance(answer.exception, YoloquantError)
    assert "would replace those of" in str(answer.exception)
    assert (tmp_path / "own" / "labels" / "a.txt").read_text() == "0 0.5 0.5 0.1 0.1\n"
