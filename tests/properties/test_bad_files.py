"""Files that cannot be read, from the command's side: replaced, counted and listed, or the end of the run."""

import csv

import pytest

from cvmae import tasks
from cvmae.data.bad_files import BadDataError
from cvmae.tasks.pretrain import Pretrain
from cvmae.workdir import Workdir
from tests.commands import arguments, checkpoint_steps, metric_lines, run
from tests.data.videos import write_video
from tests.tiny_configs import PLAIN, config, downstream, make_task


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """12 good videos, one that is empty, one that is not there, and good ones held out."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_video(folder / f"good{number}.mp4", count=8)
    (folder / "empty.mp4").touch()
    names = [f"good{number}.mp4" for number in range(12)]
    rows = [f"{name},,train" for name in [*names, "empty.mp4", "absent.mp4"]] + [f"{name},,val" for name in names[:8]]
    (folder / "videos.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return folder / "videos.csv"


def fields(manifest, fraction):
    return PLAIN | {"data__source": "files", "data__manifest": str(manifest), "data__max_bad_fraction": fraction}


def listed(workdir, name="bad_files.csv"):
    with open(workdir / name, newline="") as file:
        return {row["path"].rsplit("/")[-1]: row["reason"] for row in csv.DictReader(file)}


def test_a_few_are_replaced_counted_and_listed(manifest, tmp_path):
    tasks.run(config(**fields(manifest, 0.5)), tmp_path / "w")
    assert set(listed(tmp_path / "w")) == {"empty.mp4", "absent.mp4"} and all(listed(tmp_path / "w").values())
    counts = [line["data/replaced_clips"] for line in metric_lines(tmp_path / "w") if "loss" in line]
    assert counts == sorted(counts) and counts[-1] >= 2


def test_too_many_end_the_run_and_are_named(manifest, tmp_path):
    done = run(*arguments(tmp_path / "w", **fields(manifest, 0.01)))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "data.max_bad_fraction=0.01" in last and ".mp4" in last
    assert listed(tmp_path / "w")


def test_too_many_in_the_first_batch_end_the_run_before_it_compiles(tmp_path, monkeypatch):
    videos = [tmp_path / f"{number}.mp4" for number in range(8)]
    for path in videos[:-1]:
        write_video(path, count=8)
    manifest = tmp_path / "videos.csv"
    manifest.write_text("path,label,split\n" + "".join(f"{path},,{split}\n" for split in ("train", "val") for path in videos))
    fields = {"data__source": "files", "data__manifest": str(manifest), "data__max_bad_fraction": 0.01}
    monkeypatch.setattr(Pretrain, "train_step", lambda *_: pytest.fail("the step was compiled"))
    with pytest.raises(BadDataError, match="1 of 8 videos cannot be read"):
        tasks.run(config(("mse_video",), **fields), tmp_path / "w")
    assert listed(tmp_path / "w")


@pytest.fixture
def one_held_out_is_bad(tmp_path):
    """8 videos to train on, and of 5 held-out ones one that is empty."""
    for number in range(8):
        write_video(tmp_path / f"{number}.mp4", count=8)
    (tmp_path / "empty.mp4").touch()
    rows = [f"{number}.mp4,{number % 2},train" for number in range(8)] + [f"{number}.mp4,0,val" for number in range(4)]
    (tmp_path / "videos.csv").write_text("path,label,split\n" + "\n".join([*rows, "empty.mp4,1,val"]) + "\n")
    return tmp_path / "videos.csv"


def test_a_held_out_file_is_named_with_its_line_and_ends_no_run(one_held_out_is_bad, tmp_path, capsys):
    given = fields(one_held_out_is_bad, 0.5) | {"eval_every": "1_steps", "report__labelled": 0, "monitor__clips": 0}
    for total in ("1_steps", "2_steps"):
        tasks.run(config(("mse_video",), **given, total=total), tmp_path / "w")
    [(path, reason)] = listed(tmp_path / "w", "bad_eval_files.csv").items()
    assert path == "empty.mp4" and reason.endswith("/videos.csv:14)")
    said = capsys.readouterr().err
    assert said.count("empty.mp4") == 1 and "config.data.eval_split='val': cannot be read, and left out: " in said
    assert [line["step"] for line in metric_lines(tmp_path / "w") if "eval/loss" in line] == [1, 2]
    assert not (tmp_path / "w" / "bad_files.csv").exists()


@pytest.mark.parametrize("total", ["3_steps", "2_steps"])
def test_too_many_held_out_ones_lose_no_step(one_held_out_is_bad, tmp_path, total, capsys):
    given = {"eval_every": "2_steps", "checkpoint_every": "2_steps", "report__labelled": 0, "monitor__clips": 0, "total": total}
    for _ in range(2):  # started again it ends there again, and trains no step twice
        with pytest.raises(BadDataError, match="1 of 5 videos cannot be read"):
            tasks.run(config(("mse_video",), **given, **fields(one_held_out_is_bad, 0.1)), tmp_path / "w")
        assert checkpoint_steps(tmp_path / "w") == [2]
    tasks.run(config(("mse_video",), **given, **fields(one_held_out_is_bad, 0.5)), tmp_path / "w")
    tasks.run(config(("mse_video",), **given, **fields(one_held_out_is_bad, 0.5)), tmp_path / "whole")
    repaired, whole = (
        [line for line in metric_lines(tmp_path / name) if "eval/loss" in line or "loss" in line] for name in ("w", "whole")
    )
    assert [line["step"] for line in repaired] == [line["step"] for line in whole]
    assert [line.get("eval/loss") for line in repaired] == [line.get("eval/loss") for line in whole]
    assert "resumed from the checkpoint of step 2" in capsys.readouterr().err


def test_evaluation_of_a_task_with_classes_lists_them_too(one_held_out_is_bad, tmp_path):
    given = {"data__source": "files", "data__manifest": str(one_held_out_is_bad), "init_from": "untrained"}
    task = make_task(downstream("finetune", **given, data__max_bad_fraction=0.1))
    task.check_data()
    task.open_lists(Workdir.create(tmp_path / "w"))
    with pytest.raises(BadDataError, match=r"1 of 5 videos.*empty.mp4"):
        task.evaluate(task.initial_state())
    assert list(listed(tmp_path / "w", "bad_eval_files.csv")) == ["empty.mp4"]
