"""Hugging Face data sets: made by `datasets` itself, read as hub folders, saved sets and Parquet files, with the clips of the local files."""

import pickle
import sys

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.manifest import UNLABELED
from cvmae.data.pipeline import make_loader
from cvmae.data.records import SplitError, UnreadableError
from cvmae.data.sources import make_source, open_split
from tests.data.configs import small_config
from tests.data.videos import write_video
from tests.requirements import missing

COUNT = 6


@pytest.fixture(scope="module")
def datasets():
    try:
        import datasets
    except ImportError as error:
        missing("hf", str(error))
    return datasets


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name in ("huggingface_hub.constants", "datasets.config"):
            if name in sys.modules:  # which has read the variable already
                patch.setattr(sys.modules[name], "HF_HUB_OFFLINE", True)
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Videos and a manifest of them, with the names of two classes; "run" is only in train."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for number in range(COUNT):
        write_video(folder / f"{number}.mp4", 20 + number, first=5 * number)
        label = ("jump", "run")[number % 2]
        rows += [f"{number}.mp4,{label},train"] + [f"{number}.mp4,jump,val"] * (number < 2)
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    return folder


def rows_of(files, split="train", **columns):
    """Columns of the videos of a split: bytes and paths, as `Video` stores them."""
    count, labels = (COUNT, ["jump", "run"] * 3) if split == "train" else (2, ["jump", "jump"])
    videos = [{"bytes": (files / f"{number}.mp4").read_bytes(), "path": f"{number}.mp4"} for number in range(count)]
    return {"video": videos, "label": labels} | columns


def stored(datasets, files, split="train", video=None, **columns):
    rows = datasets.Dataset.from_dict(rows_of(files, split, **columns))
    return rows.cast_column("video", video or datasets.Video(decode=False))


def open_set(path, split="train", **fields):
    c = small_config(data__source="hf").unlock()
    c.data.hf = {"path": str(path), "config": "", "video": "video", "label": "label"} | fields
    return make_source(c.data, split)


@pytest.fixture(scope="module")
def folder(datasets, files, tmp_path_factory):
    """A folder as the hub has it."""
    out = tmp_path_factory.mktemp("hub") / "acts"
    (out / "data").mkdir(parents=True)
    for split in ("train", "val"):
        stored(datasets, files, split).to_parquet(out / "data" / f"{split}-00000-of-00001.parquet")
    return out


@pytest.fixture(params=["hub folder", "Parquet files", "saved sets", "decoded feature", "bytes"])
def form(request, datasets, files, folder, tmp_path):
    """The path of the same set in each form."""
    splits = {split: stored(datasets, files, split) for split in ("train", "val")}
    if request.param == "hub folder":
        return folder
    if request.param == "Parquet files":
        return folder / "data" / "{split}-*.parquet"
    if request.param == "decoded feature":
        splits = {split: rows.cast_column("video", datasets.Video()) for split, rows in splits.items()}
    if request.param == "bytes":
        splits = {}
        for split in ("train", "val"):
            rows = rows_of(files, split)
            splits[split] = datasets.Dataset.from_dict(rows | {"video": [video["bytes"] for video in rows["video"]]})
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_clips_are_bit_equal_to_those_of_local_files(files, form):
    c = small_config(data__frame_size=(32, 64))
    for split in ("train", "val"):
        local = make_source(small_config(data__source="files", data__manifest=str(files / "list.csv")).data, split)
        ours = pickle.loads(pickle.dumps(open_set(form, split)))  # as worker processes have it
        assert ours.class_names == local.class_names == ("jump", "run") and len(ours) == len(local)
        np.testing.assert_array_equal(ours.labels, local.labels)
        with make_loader(c, local, start_step=1) as one, make_loader(c, ours, start_step=1) as other:
            for _ in range(2):
                a, b = next(one), next(other)
                assert all((a[key] == b[key]).all() for key in a) and a["failures"].sum() == 0


def test_paths_are_relative_to_the_folder_of_the_set(datasets, files, tmp_path):
    rows = {"video": ["0.mp4", "1.mp4", "none.mp4", ""], "label": [0, 1, -1, None], "start": [0.5, None, None, None]}
    rows["end"] = [1.0, float("nan"), None, None]
    datasets.Dataset.from_dict(rows).to_parquet(files / "list.parquet")
    source = open_set(files / "list.parquet")
    assert source.labels.tolist() == [0, 1, UNLABELED, UNLABELED] and source.class_names == ()
    assert source[0].payload == str(files / "0.mp4") and (source[0].start, source[0].end) == (0.5, 1.0)
    assert (source[1].start, source[1].end) == (None, None) and source.key(1) == "list.parquet/train/1"
    with pytest.raises(UnreadableError) as refused:
        source[3]
    assert refused.value.args == (f"{files}/list.parquet: row 3", "the column video is empty")


def test_a_row_that_cannot_be_read_is_named_by_its_files_or_its_set(datasets, tmp_path):
    """Its key, by which files of features are called, stays."""
    rows = datasets.Dataset.from_dict({"video": [None, b"no video"], "label": [0, 1]})
    rows.to_parquet(tmp_path / "train-0.parquet")
    one = open_set(tmp_path / "{split}-*.parquet")
    rows.to_parquet(tmp_path / "train-1.parquet")
    rows.save_to_disk(tmp_path / "saved")
    names = {}
    for source in (one, open_set(tmp_path / "{split}-*.parquet"), open_set(tmp_path / "saved")):
        with pytest.raises(UnreadableError) as refused:
            source[0]
        names[refused.value.args[0]] = source.key(0), source[1].name
    assert names == {
        f"{tmp_path}/train-0.parquet: row 0": ("-.parquet/train/0", f"{tmp_path}/train-0.parquet: row 1"),
        f"{tmp_path}/train-*.parquet: row 0": ("-.parquet/train/0", f"{tmp_path}/train-*.parquet: row 1"),
        f"{tmp_path}/saved: split train, row 0": ("saved/train/0", f"{tmp_path}/saved: split train, row 1"),
    }


@pytest.mark.parametrize(
    "column, expected",
    [(["0.5", "", " 1 ", "nan"], [0.5, None, 1.0, None]), ([0, 1, 2, None], [0.0, 1.0, 2.0, None]), (["#N/A"] * 4, [None] * 4)],
)
def test_times_follow_the_rules_of_a_manifest(datasets, files, tmp_path, column, expected):
    rows = {"video": ["0.mp4"] * 4, "label": [0, 1, 0, 1], "start": column}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "list.parquet"))
    source = open_set(tmp_path / "list.parquet")
    assert [source[index].start for index in range(4)] == expected and source[0].end is None


@pytest.mark.parametrize(
    "column", [["0.5", "soon"], [0.5, float("inf")], [-1.0, 0.0], ["1", "00:01"], [[1.0], [2.0]], [True, False]]
)
def test_what_is_no_time_is_refused(datasets, files, tmp_path, column):
    rows = {"video": ["0.mp4"] * 2, "label": [0, 1], "start": column}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "list.parquet"))
    with pytest.raises(ValueError, match=r"list.parquet: row [01]: start .*; give seconds"):
        open_set(tmp_path / "list.parquet")


def test_names_of_a_class_label_are_kept(datasets, files, tmp_path):
    names = datasets.ClassLabel(names=["throw", "run", "jump"])
    rows = stored(datasets, files).cast_column("label", names)
    rows.save_to_disk(tmp_path / "one")
    source = open_set(tmp_path / "one")
    assert source.class_names == ("throw", "run", "jump") and source.labels.tolist() == [2, 1] * 3
    assert open_set(tmp_path / "one", label="").labels.tolist() == [UNLABELED] * COUNT


def test_a_word_that_may_be_a_class_is_said(datasets, files, tmp_path):
    stored(datasets, files, label=["run", "none", "jump", "none", "", "run"]).save_to_disk(tmp_path / "one")
    [note] = open_set(tmp_path / "one").notes
    assert note.startswith(f"{tmp_path}/one: the label 'none' of 2 rows means no label; a class of this name needs another one")


def test_the_identity_tells_labels_and_videos_apart(datasets, files, folder, tmp_path):
    identities = {open_set(folder).identity, open_set(folder, "val").identity, open_set(folder, label="").identity}
    changed = rows_of(files)
    changed["video"][0]["bytes"] += b"\0"
    datasets.Dataset.from_dict(changed).save_to_disk(tmp_path / "changed")
    identities.add(open_set(tmp_path / "changed").identity)
    assert len(identities) == 4
    stored(datasets, files).save_to_disk(tmp_path / "moved")
    assert open_set(tmp_path / "moved").identity == open_set(folder).identity


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": ""}, "data.source=hf needs data.hf.path"),
        ({"video": "clip"}, "data.hf.video='clip' is no column of .*; it has video, label"),
        ({"label": "class"}, "data.hf.label='class' is no column"),
        ({"video": "label"}, "data.hf.video='label' holds .*; expected the feature Video"),
        ({"path": "nobody/nothing"}, "data.hf.path='nobody/nothing': .*; give a hub id, a folder"),
        ({"path": "/nowhere/at/all"}, "data.hf.path='/nowhere/at/all': .*; give a hub id, a folder"),
        ({"path": "/nowhere/*.parquet"}, "data.hf.path='/nowhere/.*': .*; give a hub id, a folder"),
    ],
)
def test_what_cannot_be_opened_names_the_field(datasets, files, changes, message, tmp_path):
    rows = rows_of(files, label=[0, 1] * 3)
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=message) as refused:
        open_set(**{"path": tmp_path / "set"} | changes)
    assert "\n" not in str(refused.value)


def test_a_missing_split_names_the_field(datasets, folder, tmp_path, files):
    stored(datasets, files).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": stored(datasets, files)}).save_to_disk(tmp_path / "more")
    for path in (folder, tmp_path / "more"):
        with pytest.raises(SplitError, match="train"):
            open_set(path, "test")
    c = small_config(data__source="hf").unlock()
    c.data.hf, c.data.split = {"path": str(folder), "config": "", "video": "video", "label": "label"}, "test"
    with pytest.raises(ConfigError, match=r"config.data.split='test': .*Unknown split .*\(--config.data.split=NAME"):
        open_split(c.data, "split")


def test_a_column_of_pictures(datasets, tmp_path):
    """As the hub has ImageNet: the feature Image, decoded here like a file."""
    from PIL import Image

    pixels = [np.random.default_rng(n).integers(0, 256, (16, 24, 3), dtype=np.uint8) for n in range(3)]
    for n, array in enumerate(pixels):
        Image.fromarray(array).save(tmp_path / f"{n}.png")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["n01", "n02"])})
    rows = {"image": [str(tmp_path / f"{n}.png") for n in range(3)], "label": [0, 1, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train-0.parquet"))
    config = small_config(data__source="hf", batch_size=3).unlock()
    config.data.hf = {"path": str(tmp_path / "{split}-*.parquet"), "config": "", "video": "image", "label": "label"}
    source = make_source(config.data, "train")
    assert source.class_names == ("n01", "n02") and source.labels.tolist() == [0, 1, UNLABELED]
    with make_loader(config, source) as loader:
        batch = next(loader)
    for video, index in zip(batch["video"], batch["index"], strict=True):
        assert video.shape == (4, 16, 24, 3) and (video == pixels[index]).all()
