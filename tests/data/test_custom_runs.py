"""A source of your own: the example of the README trains and resumes, and tasks take a source for each split."""

import importlib.util
import pathlib
import re
import shutil
import sys
import zipfile

import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError, load
from cvmae.data.pipeline import make_loader
from tests.commands import ROOT, assert_same_state, metric_lines, saved_state
from tests.data import videos
from tests.data.configs import small_config
from tests.data.own_source import Own
from tests.tiny_configs import PLAIN

README = (ROOT / "cvmae" / "data" / "README.md").read_text(encoding="utf-8")


def readme_block(first: str) -> str:
    """The code block of the README whose first line is `first`, without its indentation."""
    block = re.search(r"((?:^    .*\n|^\n)*?)(?=^\S|\Z)", README[README.index(f"    {first}\n") :], re.MULTILINE)
    assert block
    return re.sub(r"^    ", "", block[1], flags=re.MULTILINE)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The README's example as a module, as worker processes import it."""
    folder = tmp_path_factory.mktemp("own")
    path = folder / "zipped.py"
    path.write_text(readme_block("import hashlib"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("zipped", path)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "zipped", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def source(own, tmp_path_factory):
    return zipped(own, tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def stopped(source, tmp_path_factory):
    """The workdir of a run after 2 steps, of which tests take copies."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    cvmae.run(config("2_steps"), workdir, source=source)
    return workdir


def zipped(own, folder, count=12, name="clips.zip"):
    files = [videos.write_video(folder / f"{number}.mp4", 8, first=10 * number) for number in range(count)]
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file in files:
            archive.write(file, f"class {int(pathlib.Path(file).stem) % 2}/{pathlib.Path(file).name}")
    return own.ZippedVideos(str(folder / name), ("class 0", "class 1"))


def config(total="4_steps", **fields):
    changes = {name.replace("__", "."): value for name, value in (PLAIN | fields).items()}
    return load(f"{ROOT / 'configs/ssv2.py'}:runlocal", changes | {"total": total, "eval_every": "0_steps"})


def test_the_example_of_the_readme_trains_and_resumes_in_the_same_bits(source, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "cut")
    cvmae.run(config(), tmp_path / "whole", source=source)
    cvmae.run(config(), tmp_path / "cut", source=source)
    assert_same_state(saved_state(tmp_path / "whole", 4), saved_state(tmp_path / "cut", 4))
    assert metric_lines(tmp_path / "whole")[-1]["data/replaced_clips"] == 0
    assert '"source": "custom"' in (tmp_path / "whole" / "config.json").read_text()


def test_a_run_resumes_only_on_the_same_source(own, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    with pytest.raises(ConfigError, match="made with clips=12, this run has 11"):
        cvmae.run(config(), tmp_path / "run", source=zipped(own, tmp_path, 11, "fewer.zip"))
    with pytest.raises(ConfigError, match="training data changed"):
        cvmae.run(config(), tmp_path / "run")  # without the source: synthetic clips


def test_the_identity_of_the_example_tells_other_contents_of_the_same_names(own, tmp_path):
    texts = []
    for content in (b"one", b"one", b"two"):
        with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
            archive.writestr("run/1.mp4", content)
        texts.append(own.ZippedVideos(str(tmp_path / "videos.zip"), ("run",)).identity)
    assert texts[0] == texts[1] != texts[2]


def test_frames_are_those_of_the_files_in_worker_processes_too(own, tmp_path):
    source = zipped(own, tmp_path, 6)
    batches = []
    for workers in (0, 2):
        c = small_config(data__workers=workers, data__clip_sampling="middle", data__frame_size=(32, 64))
        with make_loader(c, source) as loader:
            batches.append([{k: np.array(v) for k, v in next(loader).items()} for _ in range(3)])
    for one, other in zip(*batches, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for batch in batches[0]:
        for index, label, video in zip(batch["index"], batch["label"], batch["video"], strict=True):
            file = pathlib.Path(source.names[index]).stem  # the middle 4 of the 8 frames from 10 · file on
            assert videos.numbers_of(video) == list(range(10 * int(file) + 2, 10 * int(file) + 6)) and label == int(file) % 2
    assert {int(index) for batch in batches[0] for index in batch["index"]} == set(range(6))


def test_other_splits_need_their_own_source(source, tmp_path):
    c = config("2_steps")
    c.unlock().eval_every = "2_steps"
    with pytest.raises(
        ConfigError, match=r"data.eval_split: split '\w+' has no source; there is one for 'train': give cvmae.run"
    ):
        cvmae.run(c, tmp_path / "run", source=source)
    numbers = cvmae.run(c, tmp_path / "run", source={"train": source, c.data.eval_split: source})
    assert "eval/loss" in metric_lines(tmp_path / "run")[-1] or numbers


def test_a_downstream_task_takes_a_source_for_each_split(own, source, tmp_path):
    c = load(f"{ROOT / 'configs/ssv2.py'}:task=retrieval,runlocal", {"init_from": "untrained", "features.clips": 2})
    splits = {c.data.split.partition("[")[0]: source, c.data.test_split: zipped(own, tmp_path, 6)}
    assert cvmae.run(c, tmp_path / "run", source=splits)
    splits[c.data.test_split] = source
    with pytest.raises(
        ConfigError, match="data.test_split='val': 12 of 12 videos are also in data.split='train', such as class 0/0.mp4"
    ):
        cvmae.run(c, tmp_path / "other", source=splits)


def test_without_a_source_the_config_is_refused(tmp_path):
    c = config()
    c.unlock().data.source = "custom"
    with pytest.raises(ConfigError, match=r"data.source=custom is set by cvmae.run\(config, workdir, source=...\)"):
        cvmae.run(c, tmp_path / "run")
    study = load(f"{ROOT / 'configs/ablate.py'}:study=masking,runlocal")
    with pytest.raises(ConfigError, match="'ablate' takes no source=: its runs open the data of config.pretrain"):
        cvmae.run(study, tmp_path / "run", source=Own())
