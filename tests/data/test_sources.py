import pickle
import subprocess
import sys

import numpy as np
import pytest

from cvmae.data import decode, pipeline, sources
from cvmae.data.manifest import UNLABELED
from tests.data import videos
from tests.data.configs import small_config

READ_WITHOUT_TENSORFLOW = """
import sys
from cvmae.data.sources import TfdsSource
source = TfdsSource(sys.argv[1], "", "video", "label", "train")
print(len(source), type(source[0].payload).__name__, "tensorflow" in sys.modules)
"""


def make(split="train", **changes):
    return sources.make_source(small_config(**changes).data, split)


def first_batch(**changes):
    config = small_config(**changes)
    with pipeline.make_loader(config, sources.make_source(config.data, config.data.split)) as loader:
        return {key: np.array(value) for key, value in next(loader).items()}


def assert_travels(source):
    copy = pickle.loads(pickle.dumps(source))
    assert len(copy) == len(source) and copy.class_names == source.class_names
    assert copy[1].name == source[1].name and copy[1].label == source[1].label


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    from tests.data import tfds_sets

    folder = tmp_path_factory.mktemp("tfds")
    tfds_sets.NumberedFiles.files = [videos.write_video(folder / f"{i}.mp4", 8, first=10 * i) for i in range(4)]
    for builder in (tfds_sets.NumberedFiles, tfds_sets.NumberedFrames):
        builder(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


# files


def test_files_follow_manifest_root_and_split(tmp_path):
    (tmp_path / "l.csv").write_text("path,label,split,start,end\na.mp4,up,train,1,2\nb.mp4,down,val,,\nc.mp4,down,train,,\n")
    manifest = str(tmp_path / "l.csv")
    train = make(data__source="files", data__manifest=manifest)
    assert train[0] == sources.Record(f"{tmp_path}/a.mp4", 1, 1.0, 2.0, f"{tmp_path}/a.mp4")
    assert len(train) == 2 and train.class_names == ("down", "up")
    assert_travels(train)
    val = make("val", data__source="files", data__manifest=manifest, data__root="/elsewhere")
    assert len(val) == 1 and val[0].payload == "/elsewhere/b.mp4"


def keys(source):
    return [source.key(index) for index in range(len(source))]


def test_files_have_keys_below_the_manifest_or_root(tmp_path):
    lines = [
        "path,label,split,start,end",
        "a/1.mp4,0,train,,",
        "a/1.avi,0,train,,",
        "a/1.mp4,0,train,0.5,1.123456789",
        "a/1.mp4,0,train,3,",
    ]
    lines += [f"{tmp_path}/b/2.mp4,0,train,,", "../c/3.mp4,0,train,,", "/somewhere/c/3.mp4,0,train,,"]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    config = {"data__source": "files", "data__manifest": str(tmp_path / "l.csv")}
    expected = ["a/1.mp4", "a/1.avi", "a/1.mp4@0.5-1.123456789", "a/1.mp4@3.0-", "b/2.mp4"]
    outside = f"elsewhere{tmp_path.parent}/c/3.mp4"
    assert keys(make(**config)) == [*expected, outside, "elsewhere/somewhere/c/3.mp4"]
    assert keys(make(**config, data__root=str(tmp_path / "a")))[:2] == ["a/1.mp4", "a/1.avi"]
    assert keys(make(**config, data__root="/other"))[4] == f"elsewhere{tmp_path}/b/2.mp4"


def test_identity_depends_on_records_and_labels_and_not_on_the_folder(tmp_path):
    def identity(folder, text, split="train"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "l.csv").write_text("path,label,split\n" + text)
        return make(split, data__source="files", data__manifest=str(tmp_path / folder / "l.csv")).identity

    text = "a.mp4,0,train\nb.mp4,0,train\n"
    same = identity("one", text)
    assert same == identity("two", text)
    others = [identity("one", text.replace(*change)) for change in (("b.mp4", "c.mp4"), ("b.mp4,0", "b.mp4,1"))]
    others += [identity("one", text, split) for split in ("train[:50%]", "train[50%:]")]
    others += [
        make(split, **changes).identity for split, changes in (("train", {}), ("val", {}), ("val", {"data__synthetic__clips": 9}))
    ]
    assert len({same, *others}) == 8


def test_files_need_a_manifest():
    with pytest.raises(ValueError, match="data.source=files needs data.manifest"):
        make(data__source="files")


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("", "needs data.manifest"),
        ("gone.csv", "gone.csv: No such file or directory; give a manifest, .*, and set data.manifest to it"),
    ],
)
def test_a_manifest_that_is_not_there_names_the_command_that_writes_it(manifest, reason):
    def complaint(name):
        config = small_config(data__source="files", data__manifest=manifest).unlock()
        config.data.name = name
        with pytest.raises(ValueError, match=reason) as caught:
            sources.make_source(config.data, "train")
        return str(caught.value)

    assert "`python -m cvmae.data.prepare --dataset=metaworld --out=DIR` writes it" in complaint("metaworld")
    assert "prepare" not in complaint("") and "prepare" not in complaint("motion")


def test_an_unknown_source():
    with pytest.raises(ValueError, match="must be one of files, tfds, motion, synthetic, webdataset, hf, custom, got 'hdf5'"):
        make(data__source="hdf5")


# tfds


@pytest.mark.parametrize("how", ["name", "folder"])
def test_tfds_with_encoded_files(tfds_dir, how):
    where = {"name": {"data__tfds__name": "numbered_files", "data__tfds__data_dir": str(tfds_dir)}}
    where["folder"] = {"data__tfds__name": str(tfds_dir / "numbered_files" / "1.0.0")}
    config = dict(data__source="tfds", data__frame_size=(32, 64), **where[how])
    source = make(**config)
    assert source.class_names == ("down", "up", "wave") and len(source) == 4
    assert keys(source) == [f"numbered_files/1.0.0/train/{i}" for i in range(4)]
    assert source.identity != make("train[:50%]", **config).identity
    assert_travels(source)
    batch = first_batch(**config)
    for video, label in zip(batch["video"], batch["label"]):
        numbers = videos.numbers_of(video)
        assert numbers == list(range(numbers[0], numbers[0] + 4)) and numbers[0] // 10 % 3 == label
    assert not batch["failures"].any()


def test_tfds_is_read_without_tensorflow(tfds_dir):
    command = [sys.executable, "-c", READ_WITHOUT_TENSORFLOW, str(tfds_dir / "numbered_files" / "1.0.0")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["4", "bytes", "False"], done.stderr


def test_tfds_with_frames_and_other_feature_names(tfds_dir):
    config = {"data__source": "tfds", "data__tfds__name": "numbered_frames", "data__tfds__data_dir": str(tfds_dir)}
    config |= {"data__tfds__video_feature": "frames", "data__tfds__label_feature": "kind"}
    batch = first_batch(**config)
    values = batch["video"][:, :, 0, 0, 0].astype(int)
    assert (np.diff(values) == 1).all() and (batch["label"] == values[:, 0] // 10 * 7).all()
    assert (first_batch(**config | {"data__tfds__label_feature": ""})["label"] == UNLABELED).all()


def test_tfds_is_read_by_worker_processes(tfds_dir):
    config = {
        "data__source": "tfds",
        "data__tfds__name": str(tfds_dir / "numbered_files" / "1.0.0"),
        "data__frame_size": (32, 64),
    }
    np.testing.assert_array_equal(first_batch(**config)["video"], first_batch(**config, data__workers=1)["video"])


def test_tfds_splits_may_be_slices(tfds_dir):
    config = {"data__source": "tfds", "data__tfds__name": str(tfds_dir / "numbered_files" / "1.0.0")}
    assert len(make("train[:50%]", **config)) == len(make("train[50%:]", **config)) == 2


def test_a_tfds_set_built_again_under_its_version_has_another_identity(tfds_dir, tmp_path, monkeypatch):
    from tests.data import tfds_sets

    files = [videos.write_video(tmp_path / f"{i}.mp4", 9, first=10 * i) for i in range(4)]
    monkeypatch.setattr(tfds_sets.NumberedFiles, "files", files)
    tfds_sets.NumberedFiles(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    one, two = (
        make(data__source="tfds", data__tfds__name=str(folder / "numbered_files" / "1.0.0")) for folder in (tfds_dir, tmp_path)
    )
    assert one.key(3) == two.key(3) and one.identity != two.identity
    assert (
        one.identity == make(data__source="tfds", data__tfds__name="numbered_files", data__tfds__data_dir=str(tfds_dir)).identity
    )


def test_tfds_labels_without_records_being_decoded(tfds_dir, monkeypatch):
    config = {"data__source": "tfds", "data__tfds__name": str(tfds_dir / "numbered_files" / "1.0.0")}
    source, part = make(**config), make("train[1:3]", **config)
    expected = [source[i].label for i in range(4)]
    monkeypatch.setattr(sources.TfdsSource, "__getitem__", None)
    assert source.labels.tolist() == expected and source.labels.dtype == np.int32
    assert part.labels.tolist() == expected[1:3]
    assert (make(**config, data__tfds__label_feature="").labels == UNLABELED).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__tfds__name": ""}, "needs data.tfds.name"),
        (
            {"data__tfds__name": "nonexistent"},
            "data.tfds.name='nonexistent' is no folder, and no data set in data.tfds.data_dir=",
        ),
        (
            {"data__tfds__name": "gs://a/b"},
            "data.tfds.name='gs://a/b': give the set's name, and in data.tfds.data_dir the folder",
        ),
        ({"data__tfds__name": "foo://a/b"}, "data.tfds.name='foo://a/b' begins with foo://; give a path of this machine"),
        ({"data__tfds__data_dir": "foo://a"}, "data.tfds.data_dir='foo://a' begins with foo://; give a path of this machine"),
        ({"data__tfds__video_feature": "clip"}, "data.tfds.video_feature='clip' is not a feature.*frames"),
        ({"data__tfds__label_feature": "class"}, "data.tfds.label_feature='class' is not a feature"),
        ({"data__tfds__video_feature": "score"}, "data.tfds.video_feature='score' holds float, not bytes or frames"),
    ],
)
def test_tfds_mistakes_are_named(tfds_dir, changes, message):
    config = {"data__source": "tfds", "data__tfds__name": "numbered_frames", "data__tfds__data_dir": str(tfds_dir)}
    config |= {"data__tfds__video_feature": "frames", "data__tfds__label_feature": "kind"}
    with pytest.raises(ValueError, match=message):
        make(**config | changes)[0]


# motion


def test_motion_is_made_and_then_read_as_files(tmp_path):
    config = {
        "data__source": "motion",
        "data__motion__cache_dir": str(tmp_path),
        "data__num_frames": 8,
        "data__frame_size": (32, 32),
    }
    config |= {"data__motion__train_clips": 8, "data__motion__test_clips": 4}
    source = make(**config)
    assert isinstance(source, sources.FileSource) and len(source) == 8 and len(make("test", **config)) == 4
    assert len(source.class_names) == 4 and source[0].payload.startswith(str(tmp_path))
    batch = first_batch(**config)
    assert not batch["failures"].any() and batch["video"].std() > 10
    assert make(**config | {"data__motion__seed": 1})[0].payload != source[0].payload


def test_motion_sizes(tmp_path):
    config = {"data__source": "motion", "data__motion__cache_dir": str(tmp_path), "data__motion__size": "full"}
    source = make(**config, data__motion__side=96, data__motion__train_clips=12, data__motion__test_clips=12)
    assert len(source.class_names) == 12
    assert decode.read_frames(source[0].payload, [0, 15]).shape == (2, 96, 96, 3)


# synthetic


def test_synthetic_clips_are_a_function_of_their_number():
    source = make()
    again = make()
    assert len(source) == 10 and len(make(data__synthetic__clips=3)) == 3
    assert [source[i].label for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert [make(data__synthetic__classes=2)[i].label for i in range(4)] == [0, 1, 0, 1]
    np.testing.assert_array_equal(source[4].payload, again[4].payload)
    assert (source[4].payload != source[1].payload).mean() > 0.9
    assert (source[4].payload != make("val")[4].payload).mean() > 0.9
    assert_travels(source)


def test_synthetic_textures_move():
    video = make(data__stride=3)[0].payload
    assert video.shape == (24, 16, 24, 3) and video.dtype == np.uint8
    np.testing.assert_array_equal(video[1], np.roll(video[0], 2, axis=1))  # class 0 moves to the right
