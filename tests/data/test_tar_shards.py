"""Tar shards: those of the webdataset library are read, ours are read by it, and clips are those of the local files."""

import io
import json
import os
import tarfile

import numpy as np
import pytest

from cvmae.data import sources
from cvmae.data.manifest import UNLABELED
from cvmae.data.pipeline import make_loader
from cvmae.data.prepare import __main__ as command
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.prepare.text import PrepareError
from cvmae.data.tar_shards import ShardError, expand, load_index, make_index, split_name
from tests.commands import run_own
from tests.data import videos
from tests.data.configs import small_config
from tests.requirements import missing

COUNT = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a manifest of six training and two validation videos, one of which is used in part."""
    folder = tmp_path_factory.mktemp("files")
    rows = ["path,label,split,start,end"]
    for number in range(COUNT + 2):
        videos.write_video(folder / f"clip.{number}.mp4", 12, first=10 * number)
        part = "0.25,0.75" if number == 1 else ","
        rows.append(f"clip.{number}.mp4,{('run', 'jump', '')[number % 3]},{'train' if number < COUNT else 'val'},{part}")
    (folder / "l.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def shards(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(str(files / "l.csv"), str(out), shard_bytes=os.path.getsize(files / "clip.0.mp4") * 5 // 2)
    return out


def open_shards(pattern, split="train"):
    c = small_config(data__source="webdataset").unlock()
    c.data.webdataset = {"shards": str(pattern)}
    return sources.make_source(c.data, split)


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def test_records_are_those_of_the_manifest(files, shards):
    assert sorted(path.name for path in shards.glob("train-*.tar")) == [f"train-{number:06d}.tar" for number in range(3)]
    for split in ("train", "val"):
        local = sources.make_source(small_config(data__source="files", data__manifest=str(files / "l.csv")).data, split)
        ours = open_shards(shards / "{split}-*.tar", split)
        assert len(ours) == len(local) and ours.class_names == local.class_names == ("jump", "run")
        np.testing.assert_array_equal(ours.labels, local.labels)
        for index in range(len(local)):
            one, other = local[index], ours[index]
            assert (one.label, one.start, one.end) == (other.label, other.start, other.end)
            assert other.payload == open(one.payload, "rb").read()  # noqa: SIM115
    assert open_shards(shards / "train-{000000..000002}.tar").identity == open_shards(shards / "{split}-*.tar").identity
    assert open_shards(shards / "train-000000.tar").identity != open_shards(shards / "train-000001.tar").identity


def test_clips_are_bit_equal_to_those_of_local_files(files, shards):
    """Of any step, so that a run from either resumes on the same batches."""
    c = small_config(data__frame_size=(32, 64))
    local = sources.make_source(small_config(data__source="files", data__manifest=str(files / "l.csv")).data, "train")
    for start in (0, 2):
        rows = []
        for source in (local, open_shards(shards / "{split}-*.tar")):
            with make_loader(c, source, start_step=start) as loader:
                rows.append([{key: np.array(value) for key, value in next(loader).items()} for _ in range(4)])
        for one, other in zip(*rows, strict=True):
            assert all((one[key] == other[key]).all() for key in one) and len(one) == 6


def the_library():
    try:
        import webdataset
    except ImportError as error:
        missing("webdataset", str(error))
    return webdataset


def test_shards_of_the_webdataset_library_are_read(files, tmp_path):
    webdataset = the_library()
    clips = [(files / f"clip.{number}.mp4").read_bytes() for number in range(3)]
    with webdataset.TarWriter(str(tmp_path / "a-000.tar")) as writer:
        writer.write({"__key__": "run/0000", "mp4": clips[0], "cls": 7, "json": {"note": "kept aside", "start": 0.5}})
        writer.write({"__key__": "run/0001", "mp4": clips[1]})
        writer.write({"__key__": "run/0002", "cls": 1})
    with webdataset.TarWriter(str(tmp_path / "a-001.tar")) as writer:
        writer.write({"__key__": "run/0000", "left.MP4": clips[2], "json": {"label": 3}})
    source = open_shards(tmp_path / "a-{000..001}.tar")
    assert [source[index].payload for index in range(3)] == clips
    assert source.labels.tolist() == [7, UNLABELED, 3] and source[0].start == 0.5
    assert [source.key(index) for index in (1, 2)] == ["a-000/run/0001.mp4", "a-001/run/0000.mp4"]
    assert source.notes == (
        f"{tmp_path}/a-{{000..001}}.tar: 1 samples without a video are left out, such as a-000.tar/run/0002",
        f"{tmp_path}: no label is 0, the lowest is 3: classes are numbered from 0; subtract 1 if these are numbered from 1",
    )


def test_our_shards_are_read_by_the_webdataset_library(files, shards):
    webdataset = the_library()
    pattern = f"{shards}/train-{{000000..000002}}.tar"
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False, empty_check=False))
    source = open_shards(pattern)
    assert [sample["mp4"] for sample in samples] == [source[index].payload for index in range(COUNT)]
    assert [int(sample.get("cls", -1)) for sample in samples] == source.labels.tolist()
    assert json.loads(samples[1]["json"]) == {"start": 0.25, "end": 0.75}
    assert list(webdataset.shardlists.expand_urls(pattern)) == expand(pattern)


def test_names_are_split_as_webdataset_does():
    webdataset = the_library()
    for name in ("a/b.mp4", "a/b.left.mp4", "b.cls", "a.b/c.mp4", "a/b.c.d.json"):
        key, extension = webdataset.tariterators.base_plus_ext(name)
        assert split_name(name) == (key, extension)


def test_an_index_is_made_once_and_anew_for_another_shard(shards, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes((shards / "train-000000.tar").read_bytes())
    first = load_index(str(path))
    written = (tmp_path / "a.tar.index.json").stat().st_mtime_ns
    assert load_index(str(path)) == first == (make_index(str(path)), "")
    assert (tmp_path / "a.tar.index.json").stat().st_mtime_ns == written
    (tmp_path / "a.tar.index.json").write_text('{"version": 1')  # cut short by something else
    assert load_index(str(path)) == first
    path.write_bytes((shards / "train-000001.tar").read_bytes())
    assert load_index(str(path))[0] == make_index(str(path)) != first[0]
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "a.tar.index.json"]


def test_the_commands_write_and_index(files, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--shards=webdataset", f"--manifest={files / 'l.csv'}", f"--out={out}")
    assert run_own(command, *arguments) == 0
    assert f"--config.data.webdataset.shards='{out}/{{split}}-*.tar'" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "val-000000.tar").unlink()  # as if the run had been interrupted there
    assert run_own(command, *arguments) == 0
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == {n: b for n, b in before.items() if n.endswith(".tar")}
    for path in out.glob("*.index.json"):
        path.unlink()
    assert run_own(command, f"--index={out}/*.tar") == 0
    assert "2 shards with 8 videos have an index" in capsys.readouterr().out and len(list(out.glob("*.index.json"))) == 2
    for words, message in (
        (("--shards=webdataset", f"--out={out}"), "--manifest is missing"),
        ((*arguments, "--pack"), "--pack does not apply to --shards"),
        ((f"--index={tmp_path}/none-*.tar",), "no such shard"),
        (
            ("--shards=webdataset", "--manifest=/nope.csv", f"--out={out}"),
            "/nope.csv: No such file or directory; give a manifest, a file",
        ),
    ):
        assert run_own(command, *words) == 2
        error = capsys.readouterr().err
        assert message in error and "data.manifest" not in error
    (files / "other.csv").write_text("path,label,split\nclip.0.mp4,run,train\n")
    with pytest.raises(PrepareError, match="has the shards of another manifest"):
        write_shards(str(files / "other.csv"), str(out))
    (files / "other.csv").write_text("path,label,split\nclip.0.mp4,run;jump,train\n")
    with pytest.raises(PrepareError, match="is several labels; give one class per video, or list it in classes.csv$"):
        write_shards(str(files / "other.csv"), str(tmp_path / "several"))
    (files / "other.csv").write_text("path,label,split\nclip.0.mp4,<none of the classes>,train\n")
    with pytest.raises(PrepareError, match="one label for a video, so read this manifest itself, data.source=files$"):
        write_shards(str(files / "other.csv"), str(tmp_path / "several"))


def test_shards_hold_copies_so_the_command_says_what_is_wrong_with_the_rows(files, tmp_path, capsys):
    os.link(files / "clip.0.mp4", tmp_path / "linked.mp4")
    rows = [
        *((files / "l.csv").read_text().splitlines()),
        f"{tmp_path / 'linked.mp4'},run,val,,",
        f"{tmp_path / 'linked.mp4'},fly,test,,",
    ]
    (tmp_path / "l.csv").write_text("\n".join(rows))
    assert (
        run_own(
            command, "--shards=webdataset", f"--manifest={tmp_path / 'l.csv'}", f"--root={files}", f"--out={tmp_path / 'out'}"
        )
        == 0
    )
    out = capsys.readouterr().out
    assert (
        "note: split val: 1 of 3 videos are also in split train" in out
        and "note: split test: 1 of 1 video is also in split train" in out
    )
    assert "note: split train has no video of 1 of 3 classes (fly), split test has 1 of them" in out
    assert (
        run_own(command, "--shards=webdataset", f"--manifest={tmp_path / 'l.csv'}", "--root=foo://x", f"--out={tmp_path / 'out'}")
        == 2
    )
    assert "--root=foo://x: foo:// is not supported; give a local path" in capsys.readouterr().err


VIDEO = b"0" * 700
BROKEN = {
    r"b.tar: no such shard": None,
    r"a.tar: member x.mp4 is there twice; keys": [("x.mp4", VIDEO), ("x.mp4", VIDEO)],
    r"a.tar: member x has several videos, mp4, webm": [("x.mp4", VIDEO), ("x.webm", VIDEO)],
    r"a.tar: member x.json: the key 'label' is there twice": [("x.mp4", VIDEO), ("x.json", b'{"label": 0, "label": 1}')],
    r"a.tar: member x.json is not JSON": [("x.mp4", VIDEO), ("x.json", b"{")],
    r"a.tar: member x.json holds '\[1\]'": [("x.mp4", VIDEO), ("x.json", b"[1]")],
    r"a.tar: member x.json has start '1'": [("x.mp4", VIDEO), ("x.json", b'{"start": "1"}')],
    r"a.tar: member x.json has start 2.0 and end 1.0": [("x.mp4", VIDEO), ("x.json", b'{"start": 2, "end": 1}')],
    r"a.tar: member x.cls is not UTF-8": [("x.mp4", VIDEO), ("x.cls", b"\xff")],
    r"a.tar: no video in 1 shards": [("x.txt", VIDEO)],
    r"'run' is a class by name; list the names in": [("x.mp4", VIDEO), ("x.cls", b"run")],
    r"a.tar: member '../../x.mp4' has .. in it": [("../../x.mp4", VIDEO)],
    r"a.tar: member 'a/../x.mp4' has .. in it, .* write the shard again": [("y.mp4", VIDEO), ("a/../x.mp4", VIDEO)],
    r"a.tar: member '//x/y.mp4' is an absolute path": [("//x/y.mp4", VIDEO)],
    r"a.tar: member .//x.mp4 is there twice": [("./x.mp4", VIDEO), (".//x.mp4", VIDEO)],
    r"a.tar: member d/x has two labels, '0' in d/x.cls and '1' in d/x.json; leave the right one in the shard": [
        ("d/x.mp4", VIDEO),
        ("d/x.cls", b"0"),
        ("d/x.json", b'{"label": 1}'),
    ],
    r"two labels, '-1' in x.cls and '1' in x.json": [("x.mp4", VIDEO), ("x.cls", b"-1"), ("x.json", b'{"label": 1}')],
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_wrong_in_a_shard_is_named_in_one_line(message, tmp_path):
    if BROKEN[message]:
        write_tar(tmp_path / "a.tar", BROKEN[message])
    with pytest.raises(ShardError, match=message) as refused:
        open_shards(tmp_path / ("a.tar" if BROKEN[message] else "b.tar"))
    assert "\n" not in str(refused.value)


def test_an_index_of_an_earlier_version_keeps_no_name_that_leads_out(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("../x.mp4", VIDEO)])
    status = os.stat(path)
    saved = {"version": 2, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "without_video": [], "text": ""}
    (tmp_path / "a.tar.index.json").write_text(json.dumps(saved | {"samples": [["../x", ".mp4", 512, 700, "", None, None]]}))
    with pytest.raises(ShardError, match="has .. in it"):
        open_shards(path)


@pytest.mark.parametrize(
    "cls, fields",
    [("1", {"label": 1}), ("1.0\n", {"label": 1.0}), ("1\n", {"label": 1.0}), ("1", {"label": "jump"}), ("jump", {"label": 1})],
)
def test_two_labels_of_one_class_are_fine(cls, fields, tmp_path):
    members = [("x.mp4", VIDEO), ("x.cls", cls.encode()), ("x.json", json.dumps(fields).encode())]
    path = write_tar(tmp_path / "a.tar", [("y.mp4", VIDEO), ("y.cls", b"run"), *members])
    (tmp_path / "classes.csv").write_text("number,name\n0,run\n1,jump\n")
    source = open_shards(path)
    assert source.labels.tolist() == [0, 1] and source.notes == ()
    (tmp_path / "classes.csv").write_text("number,name\n0,jump\n1,run\n")
    if "jump" in (cls, fields["label"]):
        with pytest.raises(ShardError, match=r"member x has two labels, '\w+' in x.cls and '\w+' in x.json"):
            open_shards(path)


def test_a_label_in_json_that_is_another_text_or_no_class(tmp_path):
    members = [("x.mp4", VIDEO), ("x.cls", b"0"), ("x.json", b'{"label": "a man runs"}')]
    source = open_shards(write_tar(tmp_path / "a.tar", members))
    assert source.labels.tolist() == [0] and len(source.notes) == 1
    assert (
        "1 samples have a class in KEY.cls and another text as label in KEY.json, such as 'a man runs' in a.tar/x.json"
        in source.notes[0]
    )
    for label in (b"[0, 1]", b'{"box": 3}', b"null", b'""', b'"nan"'):  # of something else, or none
        source = open_shards(write_tar(tmp_path / "b.tar", [*members[:2], ("x.json", b'{"label": %s}' % label)]))
        assert source.labels.tolist() == [0] and source.notes == ()
    source = open_shards(write_tar(tmp_path / "c.tar", [*members[:1], ("x.cls", b""), ("x.json", b'{"label": 0}')]))
    assert source.labels.tolist() == [0]  # an empty cls says nothing


def test_texts_are_said_not_to_be_labels_where_nothing_else_is(tmp_path):
    clips = [("w.txt", b"no video"), ("x.mp4", VIDEO), ("x.caption.TXT", b"run"), ("y.mp4", VIDEO), ("y.txt", b"jump")]
    for shard in "ab":
        write_tar(tmp_path / f"{shard}.tar", clips)
    [note] = [note for note in open_shards(tmp_path / "{a,b}.tar").notes if "without a video" not in note]
    assert (
        "no video has a label, and texts such as a.tar/x.caption.txt are not read as labels: write a class number as KEY.cls"
        in note
    )
    assert note in open_shards(tmp_path / "{a,b}.tar").notes  # from the index that was kept
    write_tar(tmp_path / "b.tar", [*clips, ("y.cls", b"0")])
    assert all("no video has a label" not in note for note in open_shards(tmp_path / "{a,b}.tar").notes)


def test_a_damaged_shard_is_named_with_its_last_whole_member(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x.mp4", VIDEO), ("y.mp4", VIDEO), ("z.mp4", VIDEO)])
    whole = open(path, "rb").read()  # noqa: SIM115
    block = 512 + 1024  # a header and the content
    damages = {
        "y.mp4": whole[: block + 512 + 300],  # within a video
        "x.mp4": whole[:block],  # between two members
        "after member x.mp4": whole[: block + 200],  # within a header
        "no header and no end after member y.mp4": whole[: 2 * block] + b"\xff" * 512 + whole[2 * block + 512 :],
    }
    for message, content in damages.items():
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(ShardError, match=f"b.tar: .*{message}"):
            open_shards(tmp_path / "b.tar")
        assert not (tmp_path / "b.tar.index.json").exists()
    import gzip

    (tmp_path / "c.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(ShardError, match="c.tar: no plain tar file at its beginning .*unpack gzip"):
        open_shards(tmp_path / "c.tar")


def test_a_pattern_expands_as_in_bash():
    with pytest.raises(ShardError, match=r"\{x\} is no range such as"):
        expand("a{x}.tar")
    with pytest.raises(ShardError, match="is 1,000,001 shards"):
        expand("a{0..1000000}.tar")
    with pytest.raises(ShardError, match="needs data.webdataset.shards"):
        open_shards("")
