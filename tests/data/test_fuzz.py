"""Damaged manifests, class lists, label files and videos: only errors of this package come out, each one line.

Some seconds, with fixed seeds; CVMAE_FUZZ=N tries N times as many inputs.
"""

import io
import json
import os
import pathlib

import numpy as np
import pytest
import scipy.io

from cvmae.data import decode
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.prepare.labels import diving48, hmdb51, imagenet, jester, kinetics, ssv2, ucf101
from cvmae.data.prepare.labels.matlab import read_structs
from cvmae.data.prepare.text import PrepareError
from cvmae.data.records import SplitError
from cvmae.data.sources import FileSource
from cvmae.data.video_files import VideoFiles
from tests.data import videos

TIMES = max(1, int(os.environ.get("CVMAE_FUZZ", "1")))
WORDS = [
    *("0", "1", "7", "10.0", "-1", "-3", "1e9", "9" * 40, "nan", "None", "inf", "run", "jump", "a;b", "[0, 2]", "0,2", "(1,2)"),
    *(
        "#N/A",
        "nil",
        "NaT",
        "<NA>",
        "<none of the classes>",
        "[0;2]",
        "caf\u00e9",
        "cafe\u0301",
        "Run",
        "run ",
        "\u00a0run",
        "\u200b",
    ),
    *("", " ", '"', '""', "'", "\n", "\r\n", "\0", "\ufeff", "\ud83d\ude00", "{}", "[[", "]]", "null", "true", "../x", "~", "%s"),
]
CSV = "path,label,split,start,end\na.mp4,run,train,0,1\nb.mp4,jump,val,,\nc.mp4,0,train,nan,2.5\n"
ROWS = [{"path": "a", "label": 0, "split": "train", "start": 1.5}, {"path": "b", "label": "run", "split": "train", "end": None}]
JSON = "\n".join(map(json.dumps, ROWS))

# Beginnings of files that are no text, or of another encoding.
OTHERS = [
    b"version https://git-lfs.github.com/spec/v1\n",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\xff\xfe",
    b"caf\xe9,",
    b"\0\0\0\x20ftypisom",
]


def read_imagenet(folder):
    return imagenet.read(VideoFiles(folder, pictures=True), folder)


LABELS = {  # reader, and its files
    "k400": (
        kinetics.read,
        {"train.csv": "label,youtube_id,time_start,time_end,split\nrun,abc,1,11,train\njump,def,2,12,train\n"},
    ),
    "ssv2": (
        ssv2.read,
        {
            "labels.json": '{"Holding something": "0", "Moving something": "1"}',
            "train.json": '[{"id": "1", "template": "Holding [something]"}, {"id": "2", "template": "Moving [something]"}]',
            "validation.json": '[{"id": "3", "template": "Moving [something]"}]',
        },
    ),
    "ucf101": (
        ucf101.read,
        {"classInd.txt": "1 Run\n2 Jump\n"}
        | {f"trainlist0{n}.txt": "Run/v_1.avi 1\nJump/v_2.avi 2\n" for n in (1, 2, 3)}
        | {f"testlist0{n}.txt": "Run/v_3.avi\n" for n in (1, 2, 3)},
    ),
    "hmdb51": (hmdb51.read, {f"run_test_split{n}.txt": "a.avi 1\nb.avi 2\n" for n in (1, 2, 3)}),
    "diving48": (
        diving48.read,
        {"Diving48_vocab.json": '[["Back", "15som"], ["Inward", "25som"]]'}
        | {
            f"Diving48_V2_{n}.json": f'[{{"vid_name": "{n}", "label": 1, "start_frame": 0, "end_frame": 9}}]'
            for n in ("train", "test")
        },
    ),
    "jester": (
        jester.read,
        {"jester-v1-labels.csv": "Run\nJump\n", "jester-v1-train.csv": "1;Run\n2;Jump\n", "jester-v1-test.csv": "4\n"}
        | {"jester-v1-validation.csv": "3;Run\n"},
    ),
    "imagenet": (
        read_imagenet,
        {
            "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n",
            "LOC_synset_mapping.txt": "n01440764 tench\nn01443537 goldfish\n",
            "ILSVRC2012_val_00000001.JPEG": "",
        },
    ),
}


def damaged(rng, content: bytes) -> bytes:
    """Cuts, flips bits, or puts words in random places."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        action = rng.integers(5)
        if action == 0 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif action == 1:
            del data[at:]
        elif action == 2:
            del data[at : at + int(rng.integers(1, 8))]
        else:
            word = WORDS[rng.integers(len(WORDS))].encode("utf-8", "surrogatepass")
            data[at : at + (len(word) if action == 3 else 0)] = word
    return bytes(data)


def outcomes(count, attempt, error):
    """Returns how many of `count` attempts pass and fail; a failure is one line."""
    passed = failed = 0
    for number in range(count):
        try:
            attempt(number)
            passed += 1
        except error as caught:
            assert str(caught).strip() and "\n" not in str(caught).strip(), str(caught)
            failed += 1
    return passed, failed


@pytest.mark.parametrize("name, content", [("list.csv", CSV), ("list.jsonl", JSON)])
def test_manifests(tmp_path, name, content):
    rng = np.random.default_rng(0)

    def attempt(number):
        (tmp_path / name).write_bytes(damaged(rng, content.encode()))
        if rng.integers(20) == 0:  # another kind of file
            (tmp_path / name).write_bytes(OTHERS[rng.integers(len(OTHERS))] + damaged(rng, content.encode()))
        if number % 4 == 0:
            (tmp_path / "classes.csv").write_bytes(damaged(rng, b"number,name\n0,run\n1,jump\n"))
        else:
            (tmp_path / "classes.csv").unlink(missing_ok=True)
        manifest = read_manifest(str(tmp_path / name), "train", multi_label=number % 3 == 0)
        assert all("\n" not in note for note in manifest.notes)
        FileSource(manifest)
        for entry in manifest.entries:
            assert entry.path.encode() and -1 <= entry.label < 10**6
            assert 0 <= (entry.start or 0) < (np.inf if entry.end is None else entry.end)

    passed, failed = outcomes(1500 * TIMES, attempt, (ManifestError, SplitError))
    assert passed > 20 and failed > 20


@pytest.mark.parametrize("dataset", LABELS)
def test_label_files(tmp_path, dataset):
    rng = np.random.default_rng(1)
    read, files = LABELS[dataset]

    def attempt(_):
        chosen = list(files)[rng.integers(len(files))]
        for name, text in files.items():
            (tmp_path / name).write_bytes(damaged(rng, text.encode()) if name == chosen else text.encode())
        read(str(tmp_path))

    passed, failed = outcomes(300 * TIMES, attempt, PrepareError)
    assert passed and failed


def test_matlab_files():
    """Those of SciPy, whose own reader ends the process on some of these."""
    rng, good = (
        np.random.default_rng(2),
        matlab_bytes({"synsets": np.array([(1, "n01440764")], [("ID", "O"), ("WNID", "O")])}, False),
    )

    def attempt(_):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        read_structs(bytes(data[: None if rng.integers(4) else rng.integers(len(data))]), "synsets")

    passed, failed = outcomes(1000 * TIMES, attempt, ValueError)
    assert passed and failed


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_wrote_them(compressed):
    rows = [(n, f"n{n:08d}", "größe, wide" if n % 2 else "", n / 4, np.arange(n)) for n in range(1, 8)]
    fields = ["ID", "WNID", "words", "height", "children"]
    content = matlab_bytes({"other": np.eye(3), "synsets": np.array(rows, [(name, "O") for name in fields])}, compressed)
    structs = read_structs(content, "synsets")
    assert [(s["ID"], s["WNID"], s["words"], s["height"]) for s in structs] == [row[:4] for row in rows]
    assert structs[0]["children"] == 0.0  # the first of its values
    with pytest.raises(ValueError, match="no structs called other"):
        read_structs(content, "other")


def matlab_bytes(variables, compressed) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=compressed)
    return file.getvalue()


FORMS = {
    "a.avi": {"codec": "mpeg4", "options": {}},
    "a.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "a.wmv": {"codec": "wmv2", "options": {}},
}


@pytest.mark.parametrize("kind", ["a.mp4", "a.ts", "a.mkv", "a.avi", "a.gif", "a.mpg", "a.wmv", "a.flv", "a.h264"])
def test_containers(tmp_path, kind):
    """Cut at the beginning or the end, and with flipped bits."""
    form = FORMS.get(kind, {})
    if kind == "a.gif":
        pytest.importorskip("PIL.Image")
        from PIL import Image

        pictures = [Image.fromarray(videos.numbered_frame(n)) for n in range(8)]
        pictures[0].save(tmp_path / kind, save_all=True, append_images=pictures[1:])
    else:
        videos.write_video(tmp_path / kind, 20, **form)
    content = np.frombuffer((tmp_path / kind).read_bytes(), np.uint8)
    rng = np.random.default_rng(2)

    def attempt(number):
        start = int(rng.integers(len(content) // 2)) if number % 3 == 0 else 0
        end = int(rng.integers(start + 1, len(content) + 1)) if number % 3 == 1 else len(content)
        data = content[start:end].copy()
        places = rng.integers(0, len(data), int(rng.integers(0, 6)))
        data[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
        frames = decode.read_chosen(data.tobytes(), lambda table: np.minimum(np.arange(4), len(table) - 1))
        assert frames.shape[0] == 4 and frames.dtype == np.uint8

    passed, failed = outcomes(60 * TIMES, attempt, decode.DecodeError)
    assert passed and failed


@pytest.mark.parametrize("kind", ["a.ts", "a.mkv", "a.mpg", "a.wmv", "a.flv", "a.h264"])
def test_containers_that_are_only_cut(tmp_path, kind):
    """Every frame of the table can be read, wherever the file ends."""
    content = pathlib.Path(videos.write_video(tmp_path / kind, 20, **FORMS.get(kind, {}))).read_bytes()
    rng = np.random.default_rng(3)

    def attempt(_):
        cut = content[: int(rng.integers(1, len(content)))]
        try:
            table = decode.read_table(cut)
        except decode.DecodeError as error:
            raise ValueError(str(error)) from error
        assert len(decode.read_frames(cut, range(len(table)))) == len(table)

    passed, failed = outcomes(30 * TIMES, attempt, ValueError)
    assert passed and failed
