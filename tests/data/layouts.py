"""Miniature copies of the published data sets: label files in their formats, and videos of 6 frames.

The frames of video n are numbered from 10 n on, so that every frame identifies its video. Each builder writes `labels` and
`videos` into a folder and returns the expected manifests, {manifest: [(n, class name, split), ...]}.
"""

import functools
import json
import pathlib
import tempfile

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


@functools.cache
def video_bytes(number: int, extension: str = ".mp4") -> bytes:
    """Encodes video `number` and returns the file's bytes."""
    options = {"b:v": "1M", "deadline": "realtime"} if extension == ".webm" else {"q:v": "3"} if extension == ".avi" else None
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/video{extension}"
        videos.write_video(path, FRAMES, first=10 * number, codec=CODECS[extension], options=options)
        return pathlib.Path(path).read_bytes()


def put(path: pathlib.Path, number: int) -> None:
    """Writes video `number` in the container of the file's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(video_bytes(number, path.suffix))


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


def folders(folder: pathlib.Path, with_splits: bool) -> dict:
    """Writes class folders; without split folders every video is expected in `train`, since `prepare` draws the splits."""
    rows = [(0, "run fast", "train"), (1, "jump", "val"), (2, "jump", "train"), (3, "run fast", "test")]
    for number, label, split in rows:
        class_folder = folder / "videos" / split / label if with_splits else folder / "videos" / label
        put(class_folder / f"{number}.mp4", number)
    return {"manifest": [(number, label, split if with_splits else "train") for number, label, split in rows]}
