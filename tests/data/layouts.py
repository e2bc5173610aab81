"""Miniature copies of the published data sets: label files in their formats, and videos of 6 frames.

The frames of video n are numbered from 10 n on, so that every frame identifies its video. Each builder writes `labels` and
`videos` into a folder and returns the expected manifests, {manifest: [(n, class name, split), ...]}.
"""

import functools
import io
import json
import pathlib
import tempfile

import numpy as np
import scipy.io
from PIL import Image

from tests.data import videos

FRAMES = 6
CODECS = {".mp4": "libx264", ".webm": "libvpx", ".avi": "mpeg4"}

SSV2_TEMPLATES = {
    "Pushing something from left to right": "2",
    "Something falling like a feather or paper": "1",
    "Approaching something with your camera": "0",
}
UCF_CLASSES = ("ApplyEyeMakeup", "HandstandPushups", "Archery")  # not sorted: only the file gives the numbers
HMDB_CLASSES = ("brush_hair", "sit", "sword_exercise")
DIVES = (["Inward", "25som", "NoTwis", "TUCK"], ["Back", "15som", "05Twis", "FREE"], ["Forward", "Dive", "NoTwis", "PIKE"])
JESTER_CLASSES = ("Swiping Left", "Swiping Right", "Doing other things")
SYNSETS = {"n02119789": 1, "n01440764": 3, "n01443537": 2}  # with ILSVRC2012_ID, which is not the place among sorted ids


@functools.cache
def video_bytes(number: int, extension: str = ".mp4") -> bytes:
    """Encodes video `number` and returns the file's bytes."""
    options = {"b:v": "1M", "deadline": "realtime"} if extension == ".webm" else {"q:v": "3"} if extension == ".avi" else None
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/video{extension}"
        videos.write_video(path, FRAMES, first=10 * number, codec=CODECS[extension], options=options)
        return pathlib.Path(path).read_bytes()


def put(path: pathlib.Path, number: int) -> None:
    """Writes video `number` in the container of the file's extension; a picture is of its first frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_picture = path.suffix.lower() in (".jpeg", ".jpg")
    path.write_bytes(picture_bytes(10 * number) if is_picture else video_bytes(number, path.suffix))


def put_frames(path: pathlib.Path, number: int) -> None:
    """Writes video `number` as a folder of its frames, 00001.jpg and so on."""
    path.mkdir(parents=True, exist_ok=True)
    for frame in range(FRAMES):
        (path / f"{frame + 1:05d}.jpg").write_bytes(picture_bytes(10 * number + frame))


@functools.cache
def picture_bytes(number: int) -> bytes:
    """Encodes the frame with a number as JPEG."""
    file = io.BytesIO()
    Image.fromarray(videos.numbered_frame(number)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write(path: pathlib.Path, text: str) -> None:
    """Writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def ssv2(folder: pathlib.Path, prefix: str = "", answers: bool = False, videos_in: str = "") -> dict:
    """Writes Something-Something V2; the ids of its classes are not in the order of their names."""
    push, fall, approach = SSV2_TEMPLATES
    rows = [
        (0, "78687", "Pushing [something] from left to right", push, "train"),
        (1, "42326", "[Something] falling like a feather or paper", fall, "train"),
        (2, "9", "Approaching [something] with your camera", approach, "train"),
        (3, "74225", "[Something] falling like a feather or paper", fall, "val"),
        (4, "1420", "", push if answers else "", "test"),
    ]
    labels = folder / "labels"
    write(labels / f"{prefix}labels.json", json.dumps(SSV2_TEMPLATES))
    for split, name in (("train", "train"), ("val", "validation")):
        entries = [
            {"id": identity, "label": "a label", "template": template, "placeholders": ["potato"]}
            for _, identity, template, _, row_split in rows
            if row_split == split
        ]
        write(labels / f"{prefix}{name}.json", "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]")
    write(labels / f"{prefix}test.json", '[\n{"id":"1420"}\n]')
    if answers:
        write(labels / "test-answers.csv", f"1420;{push}\n")
    for number, identity, *_ in rows:
        put(folder / "videos" / videos_in / f"{identity}.webm", number)
    return {"manifest": [(number, label, split) for number, _, _, label, split in rows]}


def kinetics(folder: pathlib.Path, layout: str) -> dict:
    """Writes Kinetics. layout: path of a video, a format string of label, under, id, start, end and split."""
    header, rows = (
        "label,youtube_id,time_start,time_end,split",
        [
            (0, "wrapping present", "-3B32lodo2M", 59, 69, "train"),
            (1, "air drumming", "_dbcJuKJQNs", 40, 50, "train"),
            (2, "massaging person's head", "abc_000001_x", 0, 10, "validate"),
            (3, "", "testtesttes", 4, 14, "test"),
        ],
    )
    for name in ("train", "validate"):
        lines = [f'"{label}",{identity},{a},{b},{split}' for _, label, identity, a, b, split in rows if split == name]
        write(folder / "labels" / f"{name}.csv", "\n".join([header, *lines, ""]))
    write(folder / "labels" / "test.csv", "youtube_id,time_start,time_end,split\ntesttesttes,4,14,test\n")
    expected = []
    for number, label, identity, start, end, split in rows:
        split = split[:3] if split == "validate" else split
        path = layout.format(
            label=label or "test", under=(label or "test").replace(" ", "_"), id=identity, start=start, end=end, split=split
        )
        put(folder / "videos" / path, number)
        expected.append((number, label, split))
    return {"manifest": expected}


def ucf101(folder: pathlib.Path, flat: bool = False) -> dict:
    """Writes UCF101: every split lists each video once; the official spelling of one file differs from that of its class."""
    labels = folder / "labels"
    write(labels / "classInd.txt", "".join(f"{n} {name}\r\n" for n, name in enumerate(UCF_CLASSES, 1)))
    spelling = {"HandstandPushups": "HandStandPushups"}
    names = [f"{c}/v_{spelling.get(c, c)}_g{group:02d}_c01.avi" for c in UCF_CLASSES for group in (1, 2, 3)]
    expected = {}
    for n in (1, 2, 3):
        train = [name for name in names if f"_g{n:02d}_" not in name]
        test = [name for name in names if f"_g{n:02d}_" in name]
        numbered = [f"{name} {UCF_CLASSES.index(name.split('/')[0]) + 1}" for name in train]
        write(labels / f"trainlist0{n}.txt", "\n".join(numbered) + "\n")
        write(labels / f"testlist0{n}.txt", "\n".join(test) + "\n")
        rows = [(name, "train") for name in train] + [(name, "test") for name in test]
        expected[f"split{n}"] = [(names.index(name), name.split("/")[0], split) for name, split in rows]
    for number, name in enumerate(names):
        put(folder / "videos" / (name.split("/")[1] if flat else name), number)
    return expected


def hmdb51(folder: pathlib.Path) -> dict:
    """Writes HMDB51: every split leaves out a video of each class, and names have the special characters of the real ones."""
    expected: dict[str, list] = {f"split{n}": [] for n in (1, 2, 3)}
    for k, label in enumerate(HMDB_CLASSES):
        names = [f"#20_Rhythm_{label}_u_nm_np1_fr_goo_0.avi", f"April_09(1)_{label}_f&x_{k}.avi", f"veoh_{label}_h_cm_1.avi"]
        for i, name in enumerate(names):
            put(folder / "videos" / label / name, 3 * k + i)
        for n in (1, 2, 3):
            flags = [(i + n) % 3 for i in range(3)]
            lines = [f"{name} {flag} \n" for name, flag in zip(names, flags)]
            write(folder / "labels" / f"{label}_test_split{n}.txt", "".join(lines))
            expected[f"split{n}"] += [(3 * k + i, label, ("", "train", "test")[f]) for i, f in enumerate(flags) if f]
    return expected


def diving48(folder: pathlib.Path) -> dict:
    """Writes Diving48: classes have numbers only, whose names are in the vocabulary."""
    names = [" ".join(words) for words in DIVES]
    rows = [(0, "-mmq0PT-u8k_00155", 2, "train"), (1, "_8Vy3dlHg2w_00000", 0, "train"), (2, "2x00lRzlTVQ_00001", 1, "test")]
    labels = folder / "labels"
    write(labels / "Diving48_vocab.json", json.dumps(DIVES))
    for split in ("train", "test"):
        entries = [
            {"vid_name": name, "label": label, "start_frame": 0, "end_frame": FRAMES}
            for _, name, label, row_split in rows
            if row_split == split
        ]
        write(labels / f"Diving48_V2_{split}.json", json.dumps(entries))
    for number, name, *_ in rows:
        put(folder / "videos" / "rgb" / f"{name}.mp4", number)
    return {"manifest": [(number, names[label], split) for number, _, label, split in rows]}


def jester(folder: pathlib.Path, layout: str = "20bn-jester-v1/{}") -> dict:
    """Writes Jester: in the layout of folders of frames as published, or of videos if it has a suffix."""
    rows = [
        (0, "148092", JESTER_CLASSES[0], "train"),
        (1, "9", JESTER_CLASSES[2], "train"),
        (2, "100", JESTER_CLASSES[1], "val"),
        (3, "7", "", "test"),
    ]
    labels = folder / "labels"
    write(labels / "jester-v1-labels.csv", "".join(f"{name}\n" for name in JESTER_CLASSES))
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        lines = [f"{identity};{label}".rstrip(";") for _, identity, label, row_split in rows if row_split == split]
        write(labels / f"jester-v1-{name}.csv", "\n".join(lines) + "\n")
    for number, identity, *_ in rows:
        path = folder / "videos" / layout.format(identity)
        (put if path.suffix else put_frames)(path, number)
    return {"manifest": [(number, label, split) for number, _, label, split in rows]}


def imagenet(folder: pathlib.Path, val: str = "folders") -> dict:
    """Writes ImageNet. val: `folders`, or all in one folder with the labels of `kaggle` or of the `devkit`."""
    top = folder / "videos" / ("ILSVRC/Data/CLS-LOC" if val == "kaggle" else "")
    expected = []
    for number, label in enumerate(SYNSETS):
        put(top / "train" / label / f"{label}_{number + 7}.JPEG", number)
        expected.append((number, label, "train"))
    truth = [list(SYNSETS)[n] for n in (1, 0, 2, 1)]
    for n, label in enumerate(truth, 1):
        put(top / "val" / (label if val == "folders" else "") / f"ILSVRC2012_val_{n:08d}.JPEG", 10 + n)
        expected.append((10 + n, label, "val"))
    put(top / "test" / "ILSVRC2012_test_00000001.JPEG", 20)
    if val == "kaggle":
        lines = [f"ILSVRC2012_val_{n:08d},{label} 85 1 499 272 {label} 3 4 5 6 " for n, label in enumerate(truth, 1)]
        write(folder / "labels" / "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *reversed(lines), ""]))
        write(folder / "labels" / "LOC_synset_mapping.txt", "".join(f"{label} tench, Tinca tinca\n" for label in sorted(SYNSETS)))
    if val == "devkit":
        data = folder / "labels" / "ILSVRC2012_devkit_t12" / "data"
        write(data / "ILSVRC2012_validation_ground_truth.txt", "".join(f"{SYNSETS[label]}\n" for label in truth))
        rows = [(number, label, "words") for label, number in SYNSETS.items()] + [(1001, "n00001740", "entity")]
        synsets = np.array([rows], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]).T
        scipy.io.savemat(data / "meta.mat", {"synsets": synsets})
    return {"manifest": [*expected, (20, "", "test")]}


def folders(folder: pathlib.Path, with_splits: bool) -> dict:
    """Writes class folders; without split folders every video is expected in `train`, since `prepare` draws the splits."""
    rows = [(0, "run fast", "train"), (1, "jump", "val"), (2, "jump", "train"), (3, "run fast", "test")]
    for number, label, split in rows:
        class_folder = folder / "videos" / split / label if with_splits else folder / "videos" / label
        put(class_folder / f"{number}.mp4", number)
    return {"manifest": [(number, label, split if with_splits else "train") for number, label, split in rows]}
