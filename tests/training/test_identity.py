"""A run resumes on the data that it began with: labels, files, their order, names of classes and slices are compared."""

from fractions import Fraction

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.manifest import Entry, Manifest
from cvmae.data.mixture import Mixture, parse_mixture
from cvmae.data.sources import FileSource, make_source
from cvmae.data.subset import Subset
from cvmae.tasks import run
from cvmae.training.identity import check, describe, file_sizes
from cvmae.workdir.saved_steps import read_position
from tests.tiny_configs import config

ROWS = (("a.mp4", 0), ("b.mp4", 1), ("c.mp4", 0))


def identity(rows=ROWS, names=("jump", "run"), folder="/data", **parts):
    entries = tuple(Entry(f"{folder}/{name}", label, **parts) for name, label in rows)
    return describe(config(), FileSource(Manifest(entries, names, folder)))


def test_its_hashes_are_those_that_checkpoints_have():
    hashes = {
        "source": "667f7e1e0a0f77782787674c03dd8e48",
        "source_files": "27100d5b326430ed21eb21d9e1e12752",
        "source_labels": "2cafc60b613aa2e090b55845ffb568b9",
        "source_classes": "095c0669755f5977889c63a214863c71",
    }
    assert {name: value for name, value in identity().items() if name.startswith("source")} == hashes


def check_saved(expected, saved=None, **allow):
    check({"step": 3} | (identity() if saved is None else saved), expected, **allow)


def test_the_same_data_resumes_from_another_folder_too():
    check_saved(identity())
    check_saved(identity(folder="/elsewhere"))


CHANGES = {
    "the labels": identity(rows=(("a.mp4", 1), ("b.mp4", 0), ("c.mp4", 0))),
    "the files or their order": identity(rows=(("a.mp4", 0), ("d.mp4", 1), ("c.mp4", 0))),
    "the names of the classes": identity(names=("run", "jump")),
    "the files or their order, the labels": identity(rows=(("b.mp4", 1), ("a.mp4", 0), ("c.mp4", 0))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_refused_with_what_changed(what, capsys):
    with pytest.raises(ConfigError, match=f"training data changed since step 3: {what}, so it cannot resume: set") as refused:
        check_saved(CHANGES[what])
    message = str(refused.value)
    assert "--config.data.allow_change=True" in message and "--workdir" in message and "\n" not in message
    check_saved(CHANGES[what], allow_data_change=True)
    assert f"note: the training data changed since step 3: {what}; config.data.allow_change=True" in capsys.readouterr().err


def test_other_data_of_evaluations_is_told_and_goes_on(capsys):
    train, other = identity(), CHANGES["the labels"]["source"]
    saved = train | {"eval_source": train["source"]}
    check_saved(saved, saved)
    check_saved(train | {"eval_source": other}, train)  # a checkpoint of before the entry
    assert not capsys.readouterr().err
    check_saved(train | {"eval_source": other}, saved)
    assert "note: the data of config.data.eval_split changed since step 3" in capsys.readouterr().err


def test_the_weights_of_a_mixture_are_no_data_of_evaluations(capsys):
    def position(text, **rows):
        sources = {
            name: FileSource(Manifest(tuple(Entry(f"/data/{row}", label) for row, label in of), ("x",), "/data"))
            for name, of in rows.items()
        }
        return describe(
            config(), FileSource(Manifest((), (), "/data")), Mixture(sources, parse_mixture(text), ({},) * len(sources))
        )

    saved = position("a:1,b:3", a=ROWS, b=ROWS[:2])
    check_saved(position("a:0.5,b:2/3", a=ROWS, b=ROWS[:2]), saved)
    assert not capsys.readouterr().err
    for other in (
        position("a:1,b:3,c:1", a=ROWS, b=ROWS[:2], c=ROWS),
        position("a:1,b:3", a=ROWS, b=ROWS[1:]),
        position("b:3,a:1", b=ROWS[:2], a=ROWS),  # views and masks are those of a clip's place
    ):
        check_saved(other, saved)
        assert "note: the data of config.data.eval_split changed since step 3" in capsys.readouterr().err


def test_a_replaced_video_of_evaluations_is_told_and_goes_on(tmp_path, capsys):
    evaluated = FileSource(Manifest(tuple(Entry(str(tmp_path / name), label) for name, label in ROWS), ("x", "y"), str(tmp_path)))

    def now():
        return describe(config(), make_source(config().data, "train"), evaluated)

    def of_sizes(*sizes):
        for (name, _), size in zip(ROWS, sizes, strict=True):
            (tmp_path / name).write_bytes(bytes(size))
        return now()

    saved = of_sizes(3, 4, 5)
    check_saved(saved, saved)
    changed = of_sizes(3, 9, 5)
    check_saved(changed, {name: value for name, value in saved.items() if name != "eval_file_sizes"})  # of an earlier version
    (tmp_path / "b.mp4").unlink()
    gone = now()
    check_saved(gone, saved)  # a file that is not there at the moment is no change
    assert gone["eval_file_sizes"] == [3, -1, 5] and not capsys.readouterr().err
    check_saved(changed, saved)
    [line] = capsys.readouterr().err.splitlines()
    told = "the data of config.data.eval_split changed since step 3 (the contents of files, whose sizes are others): evaluations before"
    assert told in line


def test_a_run_that_evaluates_keeps_what_its_evaluations_read(tmp_path):
    sizes = {"total": "2_steps", "report__pictures": 0, "report__labelled": 0}
    for every, expected in (("1_steps", True), ("0_steps", False)):
        c = config(("mse_video",), **sizes, eval_every=every)
        run(c, str(tmp_path / every))
        position = read_position(tmp_path / every / "checkpoints" / "2")
        assert (position.get("eval_source") == make_source(c.data, c.data.eval_split).identity) is expected


def test_files_of_other_sizes_are_other_data(tmp_path, capsys):
    def write(folder, *sizes):
        folder.mkdir(exist_ok=True)
        for (name, _), size in zip(ROWS, sizes):
            (folder / name).write_bytes(bytes(size))
        return identity(folder=str(folder))

    saved = write(tmp_path / "a", 3, 4, 5)
    assert saved["file_sizes"] == [3, 4, 5]
    check_saved(write(tmp_path / "b", 3, 4, 5), saved)  # a copy elsewhere
    changed = write(tmp_path / "b", 3, 9, 5)
    with pytest.raises(
        ConfigError, match="training data changed since step 3: the contents of the files, whose sizes are others"
    ):
        check_saved(changed, saved)
    check_saved(changed, saved, allow_data_change=True)
    assert "whose sizes are others" in capsys.readouterr().err
    (tmp_path / "b" / "b.mp4").unlink()  # a file that is not there at the moment is no change
    missing = identity(folder=str(tmp_path / "b"))
    assert missing["file_sizes"] == [3, -1, 5]
    check_saved(missing, saved)
    check_saved(saved, missing)
    check_saved(changed, {name: value for name, value in saved.items() if name != "file_sizes"})  # of an earlier version


def test_sizes_are_those_of_a_slice_and_of_a_few_files(tmp_path):
    rows = [(f"{number}.mp4", number % 2) for number in range(200)]
    for number, (name, _) in enumerate(rows):
        (tmp_path / name).write_bytes(bytes(number))
    source = FileSource(Manifest(tuple(Entry(str(tmp_path / name), label) for name, label in rows), ("a", "b"), str(tmp_path)))
    assert len(file_sizes(source)) == 64 and file_sizes(source)[0] == 0 and file_sizes(source)[-1] == 199
    mixture = Mixture({"a": source, "b": source}, {"a": Fraction(1), "b": Fraction(1)}, ({}, {}))
    assert file_sizes(mixture) == 2 * file_sizes(source)
    assert file_sizes(Subset(source, np.array([3, 5]))) == [3, 5] and file_sizes(make_source(config().data, "train")) == []


def test_another_part_of_a_video_is_another_file():
    with pytest.raises(ConfigError, match="the files or their order, so it"):
        check_saved(identity(start=1.0))


def test_another_number_of_clips_is_named():
    fewer = identity(rows=ROWS[:2])
    with pytest.raises(
        ConfigError, match="made with clips=3, this run has 2; the training data changed since step 3: their number"
    ):
        check_saved(fewer)
    check_saved(fewer, allow_data_change=True)


def test_what_is_no_data_is_refused_whatever_is_allowed():
    for name, value in (("seed", 1), ("batch_size", 2), ("task", "finetune"), ("video_branch.init_from", "W")):
        other = identity() | {name: value}
        with pytest.raises(ConfigError, match=f"made with {name}=.*, this run has {value}, so it cannot resume: set {name} back"):
            check_saved(other, allow_data_change=True)


def test_a_start_from_no_weights_is_named():
    for name, word in (("init_from", "untrained"), ("video_branch.init_from", "''")):
        with pytest.raises(
            ConfigError, match=f"made with {name}={word}, this run has runs/a, so it cannot resume: set {name} back"
        ):
            check_saved(identity() | {name: "runs/a"}, identity() | {name: ""})
        with pytest.raises(ConfigError, match=f"made with {name}=runs/a, this run has {word}, so"):
            check_saved(identity() | {name: ""}, identity() | {name: "runs/a"})


def test_checkpoints_of_earlier_versions_go_on():
    saved = {name: value for name, value in identity().items() if not name.startswith("source")}
    for expected in (identity(), *CHANGES.values()):
        check_saved(expected, saved)
    with pytest.raises(ConfigError, match="made with clips=3, this run has 2"):
        check_saved(identity(rows=ROWS[:2]), saved)


@pytest.mark.parametrize("split", ["train[:50%]", "train[:32]", "val"])
def test_other_sources_are_compared_too(split):
    c = config()
    saved = describe(c, make_source(c.data, "train"))
    check_saved(describe(c, make_source(c.data, "train")), saved)
    with pytest.raises(ConfigError, match="the training data changed since step 3"):
        check_saved(describe(c, make_source(c.data, split)), saved)


@pytest.mark.parametrize(
    "field, value", [("video_branch.mlp", "gelu_tanh"), ("video_branch.eps", 1e-3), ("video_branch.decoder.heads", 1)]
)
def test_a_model_of_which_the_parameters_compute_something_else_is_refused(tmp_path, field, value):
    fields = {"total": "1_steps", "eval_every": "0_steps", "report__pictures": 0}
    run(config(("mse_video",), **fields), tmp_path)
    other = fields | {field.replace(".", "__"): value, "total": "2_steps"}
    with pytest.raises(ConfigError, match=rf"made with another model, config\.{field} .* -> .*give the old value back"):
        run(config(("mse_video",), **other), tmp_path)
    run(config(("mse_video",), **fields | {"total": "2_steps", "optimizer__eps": 1e-7}), tmp_path)
