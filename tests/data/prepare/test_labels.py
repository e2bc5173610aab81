"""Label files that are not as they should be: the file, the line, and what was expected."""

import re

import pytest

from cvmae.data.prepare import PrepareError
from cvmae.data.prepare.frame_folders import open_folders
from cvmae.data.prepare.labels import diving48, hmdb51, imagenet, jester, kinetics, ssv2, ucf101
from cvmae.data.prepare.listing import Video
from cvmae.data.video_files import VideoFiles
from tests.data import layouts

READERS = {"ssv2": ssv2.read, "kinetics": kinetics.read, "ucf101": ucf101.read, "hmdb51": hmdb51.read}
READERS |= {"diving48": diving48.read, "jester": jester.read}
COLUMNS = "expected label,youtube_id,time_start,time_end,split"
HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture(autouse=True)
def without_videos(monkeypatch):
    monkeypatch.setattr(layouts, "put", lambda path, number: None)
    monkeypatch.setattr(layouts, "put_frames", lambda path, number: None)


def build(folder, dataset):
    how = {"layout": "{id}.mp4"} if dataset == "kinetics" else {}
    getattr(layouts, dataset)(folder, **how)
    return folder / "labels"


@pytest.mark.parametrize(
    "dataset, file, text, message",
    [
        # Something-Something
        (
            "ssv2",
            "train.json",
            '[\n{"id":"1","template":"Pushing [something] from left to right"},\n{"id":"2",,\n',
            "train.json:3: not JSON",
        ),
        (
            "ssv2",
            "train.json",
            '[\n{"id":"1","template":"Pushing [something] from left to right"},\n{"id":"2","template":"Eating [something]"}\n]',
            r"train.json:3: template 'Eating \[something\]' is not in labels.json; expected a list of",
        ),
        ("ssv2", "validation.json", '{"id": "1"}', "validation.json:1: dict is not a list; expected a list of"),
        ("ssv2", "test.json", '[{"name": "1"}]', "test.json: entry 1 has no id; expected a list of"),
        ("ssv2", "test.json", '[\n{"id": "../1"}]', "test.json:2: id '../1' is no file name"),
        (
            "ssv2",
            "labels.json",
            '{"Pushing": "0",\n"Pulling": "1",\n"Pushing": "2"}',
            "labels.json:3: the key 'Pushing' is there twice",
        ),
        ("ssv2", "labels.json", '{"Pushing something": "1"}', "labels.json: the ids are not 0, 1, ... each once; expected"),
        ("ssv2", "labels.json", '{"Pushing something": "a"}', "labels.json: the ids are not 0, 1"),
        ("ssv2", "test-answers.csv", "1420;Pushing something\n", "test-answers.csv:1: .* names no template of labels.json"),
        (
            "ssv2",
            "train.json",
            None,
            "labels: has no train.json or something-something-v2-train.json; --labels is the folder with",
        ),
        # Kinetics
        (
            "kinetics",
            "train.csv",
            "label,youtube_id,start\n",
            f"train.csv:1: the header lacks time_start, time_end; {COLUMNS[:8]}",
        ),
        ("kinetics", "train.csv", HEADER + "a,b,1,2,train\na,b,1\n", f"train.csv:3: the header has 5 columns.*{COLUMNS}"),
        (
            "kinetics",
            "train.csv",
            HEADER + "a,b,1,2,training\n",
            f"train.csv:2: split 'training' is unknown, not one of train, .*{COLUMNS}",
        ),
        ("kinetics", "train.csv", HEADER + "a,b,ten,20,train\n", f"train.csv:2: time_start 'ten' and time_end '20' .*{COLUMNS}"),
        ("kinetics", "train.csv", HEADER + "a,b,20,10,train\n", "train.csv:2: time_start '20' and time_end '10' are no seconds"),
        ("kinetics", "train.csv", HEADER + ",b,1,2,train\n", f"train.csv:2: no label, and this is no test video; {COLUMNS}"),
        ("kinetics", "train.csv", HEADER + "a,,1,2,train\n", "train.csv:2: youtube_id '' is no file name"),
        ("kinetics", "train.csv", HEADER.replace("label", "la\xff"), "train.csv:1: not UTF-8 text, byte 0xff in column 3"),
        # UCF101
        ("ucf101", "classInd.txt", "1 Archery\n3 Bowling\n", "classInd.txt:2: '3 Bowling' is not class 2 and a new name"),
        ("ucf101", "classInd.txt", "1 Archery\n2 Archery\n", "classInd.txt:2: '2 Archery' is not class 2 and a new name"),
        (
            "ucf101",
            "trainlist02.txt",
            "Archery/a.avi 3\nArchery/b.avi\n",
            "trainlist02.txt:2: 'Archery/b.avi' is not what is due",
        ),
        (
            "ucf101",
            "trainlist02.txt",
            "Archery/a.avi 2\n",
            "trainlist02.txt:1: 2 is the number of 'HandstandPushups'.*not of 'Archery'",
        ),
        ("ucf101", "testlist03.txt", "Bowling/a.avi\n", "testlist03.txt:1: class 'Bowling' is not in classInd.txt; expected"),
        ("ucf101", "testlist03.txt", "a.avi\n", "testlist03.txt:1: 'a.avi' is not what is due here; expected Class/video.avi"),
        ("ucf101", "testlist01.txt", None, "labels: has no testlist01.txt; --labels is the folder with classInd.txt"),
        # HMDB51
        ("hmdb51", "sit_test_split2.txt", "a.avi 1\nb.avi 3\n", "sit_test_split2.txt:2: 'b.avi 3' is not what is due here"),
        ("hmdb51", "sit_test_split2.txt", "a.avi\n", r"sit_test_split2.txt:1: 'a.avi' .* expected video.avi and 1 \(train\)"),
        (
            "hmdb51",
            "sit_test_split2.txt",
            None,
            "sit_test_split2.txt: no such file; --labels is the folder with CLASS_test_split1",
        ),
        # Diving48
        (
            "diving48",
            "Diving48_vocab.json",
            "[]",
            "Diving48_vocab.json: no list of dives; expected a list of dives, each a list of words",
        ),
        ("diving48", "Diving48_vocab.json", '[["a"], "b"]', "Diving48_vocab.json: dive 1 is 'b'; expected a list of dives"),
        ("diving48", "Diving48_vocab.json", '[["a", "b"], ["a", "b"]]', "Diving48_vocab.json: dive 1, a b, is there twice"),
        ("diving48", "Diving48_V2_test.json", "{}", "Diving48_V2_test.json:1: dict is not a list"),
        ("diving48", "Diving48_V2_train.json", '["a"]', "Diving48_V2_train.json: entry 1: vid_name 'None' is no file name"),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "../a"}]', "entry 1: vid_name '../a' is no file name"),
        (
            "diving48",
            "Diving48_V2_train.json",
            '[{"vid_name": "a", "label": 3}]',
            "entry 1, a: label 3 is no whole number of a dive, 0 to 2",
        ),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "a", "label": true}]', "label true is no whole number of a dive"),
        ("diving48", "Diving48_V2_train.json", '[{"vid_name": "a", "label": "1"}]', 'label "1" is no whole number of a dive'),
        (
            "diving48",
            "Diving48_V2_train.json",
            '[{"vid_name": "a", "label": 0, "start_frame": 0, "end_frame": 0}]',
            "entry 1, a: start_frame 0 and end_frame 0 are no frames, the first less than the second",
        ),
        (
            "diving48",
            "Diving48_V2_train.json",
            '[{"vid_name": "a", "label": 0, "start_frame": 5, "end_frame": 9}]',
            "entry 1, a: start_frame is 5, but published files begin with the dive; cut it, and write 0",
        ),
        ("diving48", "Diving48_V2_train.json", "[" * 9999, "Diving48_V2_train.json: JSON that is no label file"),
        (
            "diving48",
            "Diving48_V2_test.json",
            None,
            "labels: has no Diving48_V2_test.json; --labels is the folder with Diving48_vocab",
        ),
        # Jester
        (
            "jester",
            "jester-v1-labels.csv",
            "a\nb\na\n",
            "jester-v1-labels.csv:3: 'a' is not a new class name; expected one class name",
        ),
        (
            "jester",
            "jester-v1-train.csv",
            "1;Swiping Left\n2;Swiping Up\n",
            "train.csv:2: class 'Swiping Up' is not in jester-v1-labels.csv",
        ),
        ("jester", "jester-v1-train.csv", "1\n", "jester-v1-train.csv:1: '1' has no semicolon; expected id;class name"),
        ("jester", "jester-v1-validation.csv", "a/b;Swiping Left\n", "validation.csv:1: id 'a/b' is no name of a file or folder"),
        ("jester", "jester-v1-test.csv", "..\n", "jester-v1-test.csv:1: id '..' is no name of a file or folder"),
        ("jester", "jester-v1-validation.csv", None, "labels: has no jester-v1-validation.csv; --labels is the folder with"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, dataset, file, text, message):
    labels = build(tmp_path, dataset)
    if text is None:
        (labels / file).unlink()
    else:
        (labels / file).write_text(text, encoding="latin-1")
    with pytest.raises(PrepareError, match=message):
        READERS[dataset](str(labels))


@pytest.mark.parametrize("dataset", READERS)
def test_a_folder_that_is_empty_or_not_there(tmp_path, dataset):
    with pytest.raises(PrepareError, match="has no .*; --labels is"):
        READERS[dataset](str(tmp_path))
    with pytest.raises(PrepareError, match="none: (is not a folder|No such file or directory); --labels is"):
        READERS[dataset](str(tmp_path / "none"))


@pytest.mark.parametrize(
    "dataset, within",
    [("ssv2", "labels"), ("ucf101", "ucfTrainTestlist"), ("hmdb51", "testTrainMulti_7030_splits"), ("diving48", "annotations")],
)
def test_the_folder_of_the_archive_will_do_too(tmp_path, dataset, within):
    labels = build(tmp_path, dataset)
    direct = READERS[dataset](str(labels))
    labels.rename(tmp_path / within)
    assert READERS[dataset](str(tmp_path)) == direct


def test_classes_are_in_the_official_order(tmp_path):
    ssv2_classes = ssv2.read(str(build(tmp_path / "ssv2", "ssv2"))).classes
    assert [layouts.SSV2_TEMPLATES[name] for name in ssv2_classes] == ["0", "1", "2"]
    assert ucf101.read(str(build(tmp_path / "ucf101", "ucf101"))).classes == layouts.UCF_CLASSES
    assert hmdb51.read(str(build(tmp_path / "hmdb51", "hmdb51"))).classes == layouts.HMDB_CLASSES
    assert diving48.read(str(build(tmp_path / "diving48", "diving48"))).classes == tuple(map(" ".join, layouts.DIVES))
    assert jester.read(str(build(tmp_path / "jester", "jester"))).classes == layouts.JESTER_CLASSES
    names = ("air drumming", "massaging person's head", "wrapping present")
    assert kinetics.read(str(build(tmp_path / "kinetics", "kinetics"))).classes == names


def test_the_test_set_of_something_something_is_optional(tmp_path):
    labels = build(tmp_path, "ssv2")
    (labels / "test.json").unlink()
    assert {split for _, split in ssv2.read(str(labels)).manifests["manifest"]} == {"train", "val"}


def test_a_byte_order_mark_and_windows_lines(tmp_path):
    text = "\ufefflabel,youtube_id,time_start,time_end,split\r\na,x,0,10,val\r\n"
    (tmp_path / "all.csv").write_bytes(text.encode())
    assert kinetics.read(str(tmp_path / "all.csv")).classes == ("a",)


def test_kinetics_files_without_the_column_split_are_of_the_split_in_their_name(tmp_path):
    layouts.write(tmp_path / "k_train.csv", "label,youtube_id,time_start,time_end\na,x,0,10\n")
    layouts.write(tmp_path / "k_val.csv", "label,youtube_id,time_start,time_end\nb,y,0,10\n")
    layouts.write(tmp_path / "notes.csv", "anything\n")
    assert [split for _, split in kinetics.read(str(tmp_path)).manifests["manifest"]] == ["train", "val"]


def pictures(folder, *paths) -> VideoFiles:
    for path in paths:
        layouts.write(folder / "videos" / path, "")
    return VideoFiles(str(folder / "videos"), pictures=True)


FLAT = "val/ILSVRC2012_val_00000001.JPEG"
TRUTH, META = (f"ILSVRC2012_devkit_t12/data/{name}" for name in ("ILSVRC2012_validation_ground_truth.txt", "meta.mat"))


@pytest.mark.parametrize(
    "val, file, text, message",
    [
        ("kaggle", "LOC_val_solution.csv", "ImageId,Label\n", "LOC_val_solution.csv:1: the header lacks PredictionString"),
        (
            "kaggle",
            "LOC_val_solution.csv",
            "ImageId,PredictionString\na,dog 1 2\n",
            "csv:2: 'dog' is no WordNet id such as n01440764",
        ),
        (
            "kaggle",
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n",
            "val_00000001.JPEG: .*labels has no label of it; --labels is",
        ),
        ("kaggle", "LOC_synset_mapping.txt", "n1 tench\n", "LOC_synset_mapping.txt:1: 'n1' is no WordNet id"),
        (
            "kaggle",
            "LOC_val_solution.csv",
            None,
            "val_00000001.JPEG: .*labels has no label of it; --labels is the folder with LOC_val",
        ),
        ("devkit", TRUTH, "3\n1001\n", r"ground_truth.txt:2: '1001' is no ILSVRC2012_ID of meta.mat"),
        (
            "devkit",
            TRUTH,
            None,
            "labels: has no LOC_val_solution.csv or ILSVRC2012_validation_ground_truth.txt; --labels is the folder .*; leave it out where all",
        ),
        ("devkit", META, "MATLAB 5.0 MAT-file" * 20, "meta.mat: no list of synsets .*; expected meta.mat of the development kit"),
        ("devkit", META, "", r"meta.mat: no list of synsets \(no MATLAB 5 file\)"),
        ("devkit", META, " " * 126 + "IM", r"meta.mat: no list of synsets \(no structs called synsets\)"),
        ("devkit", META, " " * 126 + "IM" + "\0" * 7, r"meta.mat: no list of synsets \(damaged: "),
        ("devkit", META, None, "labels: has no meta.mat; --labels is the folder with"),
    ],
)
def test_labels_of_imagenet_that_are_wrong_are_named(val, file, text, message, tmp_path):
    layouts.imagenet(tmp_path, val)
    path = tmp_path / "labels" / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(PrepareError, match=message):
        imagenet.read(pictures(tmp_path, FLAT), str(tmp_path / "labels"))


def test_pictures_of_imagenet_without_labels(tmp_path):
    with pytest.raises(
        PrepareError, match="no picture in it; expected train/nXXXXXXXX.* unpacked from .*; 1 left out: train.tar"
    ):
        imagenet.read(pictures(tmp_path, "train.tar"), "")
    with pytest.raises(PrepareError, match="no picture of ImageNet in it, only such as cat.jpg; expected train/nXXXXXXXX"):
        imagenet.read(pictures(tmp_path, "cat.jpg"), "")
    with pytest.raises(
        PrepareError, match=f"{FLAT}: it is in no folder of a class; --labels is the folder with LOC_val_solution.csv"
    ):
        imagenet.read(pictures(tmp_path, FLAT), "")


def test_classes_of_imagenet_are_numbered_as_published(tmp_path):
    """By sorted ids, not by ILSVRC2012_ID; a class without a picture has its number, and 1001 of meta.mat is no class."""
    layouts.imagenet(tmp_path, "devkit")
    files = pictures(tmp_path, FLAT, "train/n02119789/n02119789_1.JPEG", "cat.jpg")
    listing = imagenet.read(files, str(tmp_path / "labels"))
    assert listing.classes == ("n01440764", "n01443537", "n02119789")
    assert {path: video.label for path, video in listing.videos.items()} == {
        FLAT: "n01440764",
        "train/n02119789/n02119789_1.JPEG": "n02119789",
    }
    assert [path for path, _ in files.left_out] == ["cat.jpg"]
    layouts.imagenet(tmp_path / "kaggle", "kaggle")
    assert imagenet.read(files, str(tmp_path / "kaggle" / "labels")).classes == listing.classes
    (tmp_path / "videos" / FLAT).unlink()  # class folders alone: the ids that are there, of train if no folder names a split
    listing = imagenet.read(pictures(tmp_path, "n01440764/a.JPEG"), "")
    assert listing.classes == ("n01440764", "n02119789")
    assert [split for _, split in listing.manifests["manifest"]] == ["train", "train"]


NFC, NFD = "Caf\u00e9", "Cafe\u0301"
DIVE = '{"vid_name": "a", "label": 0, "start_frame": 0, "end_frame": 9}'


@pytest.mark.parametrize("names, rows", [(NFC, NFD), (NFD, NFC)])
@pytest.mark.parametrize("dataset", READERS)
def test_labels_that_differ_in_their_normal_form_alone_are_one(tmp_path, dataset, names, rows):
    """As labels of manifests are; the classes are in NFC."""
    write = {
        "jester": {"jester-v1-labels.csv": names, "jester-v1-train.csv": f"1;{rows}", "jester-v1-validation.csv": f"2;{names}"},
        "diving48": {
            "Diving48_vocab.json": f'[["{names}"]]',
            "Diving48_V2_train.json": f"[{DIVE}]",
            "Diving48_V2_test.json": "[]",
        },
        "ssv2": {
            "labels.json": f'{{"{names}": "0"}}',
            "train.json": f'[{{"id": "1", "template": "{rows}"}}]',
            "validation.json": f'[{{"id": "2", "template": "{names}"}}]',
        },
        "kinetics": {"train.csv": f"{HEADER}{rows},x,0,10,train\n{names},y,0,10,val\n"},
        "ucf101": {
            "classInd.txt": f"1 {names}",
            **{f"trainlist0{n}.txt": f"{rows}/v_{n}.avi 1" for n in (1, 2, 3)},
            **{f"testlist0{n}.txt": f"{rows}/w_{n}.avi" for n in (1, 2, 3)},
        },
        "hmdb51": {f"{names if n < 3 else rows}_test_split{n}.txt": f"a{n}.avi 1\nb{n}.avi 2" for n in (1, 2, 3)},
    }[dataset]
    for file, text in write.items():
        layouts.write(tmp_path / file, text)
    listing = READERS[dataset](str(tmp_path))
    assert listing.classes == (NFC,) and {video.label for video in listing.videos.values()} == {NFC}


def test_a_file_that_differs_from_a_listed_name_in_its_normal_form_alone_is_named(tmp_path):
    (tmp_path / f"{NFD}.mp4").write_bytes(b"x")
    videos = VideoFiles(str(tmp_path))
    [video] = [Video(f"{NFC}.mp4", "", (NFC,))]
    assert videos.find(video) == []
    assert "; 'Cafe\\u0301' is there, and 'Caf\\xe9' is asked for, which look alike" in videos.missing(video)
    assert videos.missing(Video("b.mp4", "", ("b",))) == "--videos lacks all of b.*"
    (tmp_path / NFD).mkdir()
    layouts.write(tmp_path / NFD / "00001.jpg", "")
    assert "'Cafe\\u0301' is there" in open_folders(str(tmp_path)).missing(video)


TRAINING = {
    "jester": ("jester-v1-train.csv", "\n", "expected id;class name"),
    "diving48": ("Diving48_V2_train.json", "[]", "expected a list of"),
    "ssv2": ("train.json", "[]", "expected a list of"),
    "kinetics": ("train.csv", HEADER, f"expected rows of {HEADER.strip()}"),
    "ucf101": ("trainlist02.txt", "", "expected Class/video.avi"),
    "hmdb51": ("sit_test_split2.txt", "a.avi 2", "expected video.avi"),
}
OTHER = {
    "jester": ("jester-v1-test.csv", "", ", so test has none of it"),
    "diving48": ("Diving48_V2_test.json", "[]", ", so test has none of it"),
    "ssv2": ("validation.json", "[]", ", so val has none of it"),
    "kinetics": ("validate.csv", HEADER, ", so val has none of it"),
    "ucf101": ("testlist02.txt", "", ", so test has none of it"),
    "hmdb51": ("sit_test_split2.txt", "", ""),
}


@pytest.mark.parametrize("dataset", READERS)
def test_a_list_without_a_video_is_named(tmp_path, dataset):
    labels = build(tmp_path / "a", dataset)
    file, text, expected = TRAINING[dataset]
    [path] = list(labels.rglob(file))
    path.write_text(text)
    if dataset == "hmdb51":  # whose files are of a class, with all splits
        for other in path.parent.glob("*_split2.txt"):
            other.write_text(text)
        file = "*_test_split2.txt"
    with pytest.raises(PrepareError, match=f"/{re.escape(file)}: no video to train on is listed; {expected}"):
        READERS[dataset](str(labels))
    labels = build(tmp_path / "b", dataset)
    assert not READERS[dataset](str(labels)).remarks
    file, text, detail = OTHER[dataset]
    [path] = list(labels.rglob(file))
    path.write_text(text)
    assert READERS[dataset](str(labels)).remarks == [(str(path), "empty list", f"it lists no video{detail}")]


@pytest.mark.parametrize(
    "dataset, file, text",
    [("jester", "jester-v1-labels.csv", "\n"), ("ucf101", "classInd.txt", ""), ("ssv2", "labels.json", "{}")],
)
def test_a_list_without_a_class_is_named(tmp_path, dataset, file, text):
    labels = build(tmp_path, dataset)
    [path] = labels.rglob(file)
    path.write_text(text)
    with pytest.raises(PrepareError, match=f"/{file}: it lists no class; expected "):
        READERS[dataset](str(labels))
