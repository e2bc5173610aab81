"""One run at a time in a workdir: living runs are respected, dead ones are not waited for."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from cvmae.config import ConfigError
from cvmae.files import replacing
from cvmae.training import workdir_lock
from cvmae.training.lock_owner import describe_process
from cvmae.training.workdir_lock import LOCK, LostLockError, check_held, is_alive, locked
from tests.commands import ROOT, arguments, run
from tests.training import counting_task

HOLD = "import sys, time; from cvmae.training.workdir_lock import locked\nwith locked(sys.argv[1]): print('held', flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.05)
    monkeypatch.setattr(workdir_lock, "WAIT_S", 0.6)
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.4)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def put(path, text):
    """Puts a file in the place of a lock, as another process does that takes it over: the beat may be writing the old one."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def edit(folder, **changes):
    path = folder / LOCK
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_lock_is_there_during_the_block_only(tmp_path):
    for _ in range(2):  # again in the same process
        with locked(tmp_path):
            there = json.loads((tmp_path / LOCK).read_text())
            assert there["pid"] == os.getpid()
            with locked(tmp_path):  # and inside
                pass
            assert (tmp_path / LOCK).exists()
        assert list(tmp_path.iterdir()) == []


def test_it_is_given_back_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_a_living_process_is_named_and_a_killed_one_is_replaced(tmp_path, holder, capsys):
    there = json.loads((tmp_path / LOCK).read_text())
    message = f"is in use by process {holder.pid} on {there['host']}, started {there['started']}: wait for its end or stop it"
    with pytest.raises(ConfigError, match=re.escape(message)), locked(tmp_path):
        pass
    holder.kill()  # and not collected: it stays in the list of processes
    time.sleep(0.5)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert "took over" in capsys.readouterr().err


def test_a_number_that_is_another_process_by_now(tmp_path, holder):
    edit(tmp_path, birth="1")
    with locked(tmp_path):
        pass


def test_another_thread_of_the_process_is_refused(tmp_path):
    refused = []

    def enter():
        try:
            with locked(tmp_path):
                pass
        except ConfigError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 1 and "is in use by process" in refused[0]


def test_on_another_host_the_beat_tells(tmp_path, capsys):
    """Whatever the clocks say."""
    path = tmp_path / LOCK
    owner = describe_process() | {"host": "far", "machine": "far", "pid": 1, "started": "2099-01-01T00:00:00+00:00"}
    path.write_text(json.dumps(owner))
    os.utime(path, (4e9, 4e9))
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.1):
            number += 1
            put(path, json.dumps(owner | {"beat": number}))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(ConfigError, match="process 1 on far, started 2099"), locked(tmp_path):
        pass
    stop.set()
    thread.join()
    with locked(tmp_path):  # no beat any more
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "waiting up to 0.6 s" in capsys.readouterr().err


def test_a_run_that_ends_while_another_waits(tmp_path):
    path = tmp_path / LOCK
    there = describe_process() | {"machine": "far"}
    path.write_text(json.dumps(there))
    threading.Timer(0.1, path.unlink).start()
    assert not is_alive(path, there, wait_s=20)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": "x"}', '{"pid": -1}', "\x00\x01"])
def test_a_damaged_lock_is_replaced(text, tmp_path):
    (tmp_path / LOCK).write_text(text)
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_the_beat_goes_on_and_a_lost_lock_is_left_alone(tmp_path):
    path = tmp_path / LOCK
    with locked(tmp_path):
        deadline = time.monotonic() + 60
        while json.loads(path.read_text())["beat"] < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert json.loads(path.read_text())["beat"] > 2
        other = describe_process()
        put(path, json.dumps(other))
        time.sleep(0.3)
        assert json.loads(path.read_text()) == other
    assert path.exists()


def test_a_beat_does_not_replace_the_lock_of_a_run_that_took_over_meanwhile(tmp_path, monkeypatch):
    """A process that was stopped between its look and its write, for longer than others wait."""
    path, other = tmp_path / LOCK, json.dumps(describe_process())
    usual, parse, stopped = workdir_lock._rewrite, workdir_lock._parse, threading.Event()

    def rewrite(path, owner):
        def stop_after_reading(content):
            put(path, other)
            return parse(content)

        with monkeypatch.context() as patch:
            patch.setattr(workdir_lock, "_parse", stop_after_reading)
            done = usual(path, owner)
        stopped.set()
        return done

    monkeypatch.setattr(workdir_lock, "_rewrite", rewrite)
    with locked(tmp_path):
        assert stopped.wait(60)
    assert path.read_text() == other


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"", b"{}"])
def test_a_beat_leaves_a_file_that_is_no_lock_by_now(content, tmp_path):
    path = tmp_path / LOCK
    path.write_bytes(content)
    assert not workdir_lock._rewrite(path, describe_process()) and path.read_bytes() == content


def test_a_reader_never_sees_half_a_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.0005)
    with locked(tmp_path):
        beats = {workdir_lock._read(tmp_path / LOCK).get("beat") for _ in range(3000)}
    assert None not in beats and len(beats) > 3


@pytest.mark.parametrize("task", ["pretrain", "knn"])
def test_a_second_run_is_refused_and_writes_nothing(task, tmp_path, holder):
    config = str(ROOT / "configs" / "ssv2.py") + f":task={task},runlocal"
    fields = {"data__source": "synthetic"} | ({} if task == "pretrain" else {"init_from": "untrained"})
    done = run(*arguments(tmp_path, config, **fields))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: --workdir={tmp_path} is in use by process {holder.pid} on ")
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def take_over(workdir):
    put(workdir / LOCK, json.dumps(describe_process() | {"pid": 7, "host": "far", "started": "2099"}))


# What happens to the folder, and what the run says of it.
LOSSES = {
    "folder": (shutil.rmtree, "--workdir={0} is gone, deleted or unmounted during the run, which ends here"),
    "lock": (lambda workdir: (workdir / LOCK).unlink(), "{0}/run.lock is gone, deleted or unmounted during the run"),
    "another run": (take_over, "{0}/run.lock was taken over by process 7 on far, started 2099, during the run"),
    "garbage": (lambda workdir: put(workdir / LOCK, "x"), "{0}/run.lock was changed by another program during the run"),
}


@pytest.mark.parametrize("beats", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_whose_folder_is_no_longer_its_own_ends(tmp_path, monkeypatch, loss, beats):
    """At the next checkpoint at the latest, and long before where steps are slow and the lock beats."""
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.02)
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.02 if beats else 600.0)
    usual, workdir, (lose, message) = counting_task.Counting.step, tmp_path / "w", LOSSES[loss]
    workdir.mkdir()
    there = []

    def step(self, state, batch):
        if int(state.step) == 2:
            while not (workdir / "checkpoints/2").exists():  # begun before the loss
                time.sleep(0.02)
            lose(workdir)
            there.extend(files(tmp_path))
            if beats:
                while not workdir_lock._HELD[str(workdir / LOCK)].lock._lost:
                    time.sleep(0.02)
        assert int(state.step) < (3 if beats else 4)
        return usual(self, state, batch)

    monkeypatch.setattr(counting_task.Counting, "step", step)
    with pytest.raises(LostLockError) as raised, locked(workdir):
        counting_task.train(workdir, total="8_steps", checkpoint_every="2_steps", log_every="20_steps")
    assert str(raised.value).startswith(message.format(workdir)) and "\n" not in str(raised.value)
    assert files(tmp_path) == there


def files(folder):
    return sorted((str(path), path.stat().st_size) for path in folder.rglob("*"))


def test_one_missed_look_is_no_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.0)
    with locked(tmp_path):
        for answers in ([None, {}, None], [OSError(116, "Stale file handle")]):
            usual = workdir_lock._read

            def read(path, answers=answers, usual=usual):
                answer = answers.pop() if answers else usual(path)
                if isinstance(answer, OSError):
                    raise answer
                return answer

            monkeypatch.setattr(workdir_lock, "_read", read)
            check_held(tmp_path, look=True)
            assert not answers
        check_held(tmp_path)


def test_an_evaluation_whose_folder_is_gone_writes_nothing(tmp_path, monkeypatch):
    from cvmae.tasks.frozen import FrozenTask

    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.0)
    with pytest.raises(LostLockError, match="is gone"), locked(tmp_path):
        (tmp_path / LOCK).unlink()
        FrozenTask._record(type("Task", (), {"config": None})(), {}, tmp_path)
    assert list(tmp_path.iterdir()) == []
