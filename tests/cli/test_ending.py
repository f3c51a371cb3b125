"""How the command line ends: exit codes and one sentence, whatever stops it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yoloquant import cli
from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset

PROGRAM = """
import time
from yoloquant.cli import ending
def command():
    {body}
ending.run(command)
"""


def start(body: str, **options) -> subprocess.Popen:
    code = PROGRAM.format(body=body.replace("\n", "\n    "))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE, text=True, **options
    )


# Python, a computation in C that no signal interrupts, another thread that goes on, and clean-up that waits for another process.
BUSY = {
    "python": "print('ready', flush=True)\nwhile True: time.sleep(0.01)",
    "computing": "import hashlib, threading\nthreading.Timer(0.5, print, ('ready',), {'flush': True}).start()\n"
    "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**30)",
    "threads": "import threading\nother = threading.Timer(0, time.sleep, (60,))\nother.start()\nprint('ready', flush=True)\n"
    "time.sleep(60)",
    "waiting": "print('ready', flush=True)\ntry:\n    time.sleep(60)\nfinally:\n    time.sleep(60)",
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_signals_end_it_with_their_code_and_one_word_within_two_seconds(busy, number, code, word):
    process = start(BUSY[busy])
    assert process.stdout.readline() == "ready\n"
    begin = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=20)
    assert time.monotonic() - begin < 2.5
    assert process.returncode == code
    assert told == f"{word}\n"


def test_a_signal_is_followed_by_what_stays():
    process = start("ending.stays('epochs stay in run')\n" + BUSY["python"])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert told == "interrupted\nepochs stay in run\n"


@pytest.mark.parametrize("command", ["quantize", "train", "finetune", "analyze", "search", "predict"])
def test_commands_that_leave_something_say_so(command):
    source = Path(cli.__file__).parent.joinpath(f"{command}.py").read_text(encoding="utf-8")
    assert re.search(r"^    stays\(f?\"", source, re.MULTILINE)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise MemoryError", "not enough memory"),
        ("open('/dev/full', 'w').write('x' * 10**6)", "cannot be read or written: No space left on device"),
        ("raise PermissionError(13, 'Permission denied', 'x.pt')", "x.pt cannot be read or written: Permission denied"),
        ("from yoloquant.errors import YoloquantError\nraise YoloquantError('a sentence')", "error: a sentence"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(body, words):
    process = start(body)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 2
    assert words in told
    assert told.startswith("error: ")
    assert told.count("\n") == 1


def test_defects_keep_their_traceback():
    process = start("1 / 0")
    _, told = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ZeroDivisionError" in told


PRINT = "from yoloquant.cli.console import OUT\nOUT.print('\\u65e5\\u672c \\u2501 \\u00e9')"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_narrow_encodings_show_question_marks(encoding):
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=PRINT.replace("\n", "\n    "))],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


@pytest.mark.parametrize("body", [PRINT, PRINT + "\nraise SystemExit(0)"])
def test_a_full_standard_output_is_one_sentence(body):
    with Path("/dev/full").open("w") as full:
        process = start(body, stdout=full)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "No space left on device" in told
    assert told.count("\n") == 1


def test_a_reader_that_goes_is_no_traceback():
    process = start("from yoloquant.cli.console import OUT\nfor _ in range(100000): OUT.print('x' * 100)")
    process.stdout.readline()
    process.stdout.close()
    with process.stderr as stream:
        told = stream.read()
    assert process.wait(timeout=20) in (1, 2)
    assert told.count("\n") <= 1


@pytest.mark.parametrize(
    ("variables", "speaks"),
    [
        ({}, True),
        ({"RANK": "abc"}, True),
        ({"RANK": "3"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "-1", "WORLD_SIZE": "x"}, True),
    ],
)
def test_one_process_of_several_speaks(variables, speaks):
    process = start(PRINT, env={**os.environ, "PYTHONIOENCODING": "utf-8", **variables})
    answer, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert bool(answer) == speaks


def children_of(process: int) -> list[Path]:
    """The folders of Linux on the processes that a process started."""
    statuses = {path.parent: path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat")}
    return [folder for folder, status in statuses.items() if int(status[1]) == process]


def begun_under_torchrun(folder: Path) -> subprocess.Popen:
    """Two processes that train together, and have finished an epoch."""
    data = write_generated_dataset(folder / "set", train=4, val=2)
    arguments = ["train", demo_weights(), "--data", data, "--output", folder / "run", "--epochs", 1000, "--batch", 4]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "yoloquant"]
    process = subprocess.Popen(
        [*torchrun, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not (folder / "run" / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
@pytest.mark.parametrize("receiver", ["torchrun", "group", "one process"])
def test_signals_end_all_processes_under_torchrun_and_nothing_is_left(receiver, number, code, word, tmp_path):
    process = begun_under_torchrun(tmp_path)
    children = children_of(process.pid)
    assert len(children) == 2
    if receiver == "one process":
        os.kill(int(children[0].name), number)
    else:
        (os.kill if receiver == "torchrun" else os.killpg)(process.pid, number)
    told, _ = process.communicate(timeout=60)
    # torchrun's own code; it shows that of a process which ended by itself.
    assert process.returncode == 1
    assert receiver != "one process" or f"exitcode  : {code} " in told
    # Where one process got it, torchrun ends the other by SIGTERM.
    assert [line for line in told.splitlines() if line in ("interrupted", "terminated")] in (
        ([word], ["terminated"], []) if receiver == "one process" else ([word],)
    ), told
    assert not any(child.exists() for child in children)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "set"]
    assert not list((tmp_path / "run").glob(".yoloquant-*"))
