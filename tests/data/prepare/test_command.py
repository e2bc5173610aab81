"""The command in a process of its own: killed, interrupted, and given what it cannot use."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cvmae.data import decode
from cvmae.data.prepare import Options, prepare
from tests.data import layouts, videos
from tests.data.prepare.runs import COMMAND, snapshot

WITH_A_DOOM = """
import json, sys
from cvmae.data.prepare import Options, prepare, work
work.FUNCTION = "tests.data.prepare.doomed:kill_the_run"
prepare(Options(**json.loads(sys.argv[1])))
"""


def test_a_run_that_is_killed_goes_on(tmp_path):
    """kill -9 at three moments; then the same again, beside a run that nobody disturbed."""
    source = tmp_path / "videos" / "wave"
    source.mkdir(parents=True)
    for number in range(5):
        videos.write_video(source / f"{number}.mp4", 20, first=number)
    wanted = dict(dataset="folder", videos=str(tmp_path / "videos"), out=str(tmp_path / "out"), transcode=32, workers=1)
    made, journal = tmp_path / "out" / "videos32", tmp_path / "out" / ".prepare" / "answers.jsonl"
    for file, moment in (("1.mp4", "amidst the frames"), ("2.mp4", "before it is in place"), ("3.mp4", "before it is told")):
        environment = os.environ | {"DOOM": f"{file},{moment}"}
        killed = subprocess.run(
            [sys.executable, "-c", WITH_A_DOOM, json.dumps(wanted)], env=environment, stderr=subprocess.DEVNULL
        )
        assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out" / "manifest.csv").exists()
        there = {path.name for path in made.rglob("*.mp4")}
        assert there == {f"{n}.mp4" for n in range(int(file[0]) + (moment == "before it is told"))}
        assert all(len(decode.read_table(str(path))) == 20 for path in made.rglob("*.mp4"))
    with open(journal, "a") as file:
        file.write('["half a li')
    kept = snapshot(made)
    prepare(Options(**wanted))
    assert kept.items() <= snapshot(made).items() and len(snapshot(made)) == 5
    prepare(Options(**wanted | {"out": str(tmp_path / "undisturbed")}))
    assert (tmp_path / "undisturbed" / "manifest.csv").read_bytes() == (tmp_path / "out" / "manifest.csv").read_bytes()
    for path in made.rglob("*.mp4"):
        twin = tmp_path / "undisturbed" / path.relative_to(tmp_path / "out")
        assert (decode.read_frames(str(path), range(20)) == decode.read_frames(str(twin), range(20))).all()
    assert not (tmp_path / "out" / ".prepare" / "temporary").exists()


WITH_AN_ENDLESS_VIDEO = """
import runpy, signal
from cvmae.data.prepare import work
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits none
work.FUNCTION = "tests.data.prepare.doomed:process"
runpy.run_module("cvmae.data.prepare", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_how_to_go_on(tmp_path, way):
    layouts.put(tmp_path / "videos" / "wave" / "a.mp4", 1)
    layouts.put(tmp_path / "videos" / "wave" / "endless.mp4", 1)
    arguments = ["--dataset=folder", f"--videos={tmp_path / 'videos'}", f"--out={tmp_path / 'out'}", "--workers=1"]
    command = [sys.executable, "-c", WITH_AN_ENDLESS_VIDEO, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    journal = tmp_path / "out" / ".prepare" / "answers.jsonl"
    while not journal.exists() or "a.mp4" not in journal.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, way)  # as a terminal or a scheduler sends it, to the whole group
    _, error = process.communicate(timeout=60)  # workers inherit stderr: this waits for all of them
    assert process.returncode == 128 + way, error
    assert "Traceback" not in error and not (tmp_path / "out" / ".prepare" / "temporary").exists()
    if way == signal.SIGINT:
        assert error.splitlines()[-1] == "interrupted: the same command continues the run"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--videos=v", "--out=o"], "error: --dataset is missing"),
        (["--dataset=ssv3", "--videos=v", "--out=o"], "error: flag --dataset=ssv3: value should be one of"),
        (
            ["--dataset=ssv2", "--videos=v", "--out=o", "--label=l"],
            "error: Unknown command line flag 'label'. Did you mean: labels ?",
        ),
        (
            ["--dataset=k400", "--videos={tmp}/videos", "--out={tmp}/o", "--labels={tmp}/l.csv"],
            "error: {tmp}/l.csv:1: the header lacks",
        ),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, arguments, message):
    (tmp_path / "videos").mkdir()
    layouts.write(tmp_path / "l.csv", "label,id\n")
    done = subprocess.run([*COMMAND, *(a.format(tmp=tmp_path) for a in arguments)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(message.format(tmp=tmp_path)), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "o").exists()
