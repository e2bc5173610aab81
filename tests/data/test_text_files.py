"""Files that are no UTF-8 text, and pointers of Git LFS: one line that names the file, the place, what it is and the remedy."""

import gzip
import zipfile

import pytest

from cvmae.data import decode
from cvmae.data.class_file import read_classes
from cvmae.data.label_texts import LabelError
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.prepare.text import PrepareError, read_lines
from cvmae.data.text_files import read_utf8
from cvmae.data.video_files import VideoFiles
from tests.data.videos import write_video

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
MANIFEST = "path,label,split\na.mp4,{},train\nb.mp4,x,train\n"


@pytest.mark.parametrize(
    "text, encoding, place",
    [
        (MANIFEST.format("café"), "latin-1", r"list.csv:2: not UTF-8 text, byte 0xe9 in column 10 \(in ISO-8859-1 it is 'é'\)"),
        (MANIFEST.format("“x”"), "cp1252", r"list.csv:2: not UTF-8 text, byte 0x93 in column 7 \(in Windows-1252 it is '“'\)"),
        ("\r\n".join(["path,label,split", "a,é,x"]), "latin-1", "list.csv:2: not UTF-8 text, byte 0xe9 in column 3"),
        ("pâth,label,split\n", "latin-1", "list.csv:1: not UTF-8 text, byte 0xe2 in column 2"),
        (MANIFEST.format("ü") + "c.mp4,é\udcff,train\n", "surrogate", "list.csv:4: not UTF-8 text, byte 0xff in column 8"),
        (MANIFEST.format("x"), "utf-16", "list.csv: not UTF-8 text but UTF-16; save it as UTF-8"),
        (MANIFEST.format("x"), "utf-32", "list.csv: not UTF-8 text but UTF-32; save it as UTF-8"),
        ("\ufeff" + MANIFEST.format("x"), "utf-32-be", "list.csv: not UTF-8 text but UTF-32; save it as UTF-8"),
    ],
)
def test_a_byte_of_another_encoding_is_named_with_its_place(tmp_path, text, encoding, place):
    content = text.encode("utf-8", "surrogateescape") if encoding == "surrogate" else text.encode(encoding)
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=f"{place}.*; a manifest is a file with path,label,split") as caught:
        read_manifest(str(tmp_path / "list.csv"), "train")
    assert "\n" not in str(caught.value)
    with pytest.raises(PrepareError, match=f"{place}.*; expected lines"):
        list(read_lines(str(tmp_path / "list.csv"), "lines"))


def test_other_kinds_of_files_are_named(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("x", "x")
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"path,label,split\n"))
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "a.jsonl").write_text(POINTER)
    kinds = {
        "a.mp4": "but a video or a picture; give the text file that lists videos",
        "a.xlsx": "but a zip archive, as spreadsheets .* are; save it as CSV",
        "a.csv": "but compressed by gzip; unpack it",
        "a.bin": "but a binary file; give a text file",
        "a.jsonl": "a Git LFS pointer, not the file itself: run git lfs pull",
    }
    for name, kind in kinds.items():
        with pytest.raises(ManifestError, match=f"{name}: .*{kind}.*; a manifest is a file with") as caught:
            read_manifest(str(tmp_path / name), "train")
        assert "\n" not in str(caught.value)
        with pytest.raises(LabelError, match=kind):
            read_classes(str(tmp_path / name))


def test_text_comes_back_as_it_is(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffä\r\n\x0c“\n".encode())
    assert read_utf8(str(tmp_path / "a.csv")) == "ä\r\n\x0c“\n"


def test_a_video_that_git_did_not_fetch(tmp_path):
    for name in ("a.mp4", "b.ts", "c.odd"):
        (tmp_path / name).write_text(POINTER)
        for source in (str(tmp_path / name), POINTER.encode()):
            with pytest.raises(decode.DecodeError) as caught:
                decode.read_table(source)
            assert caught.value.reason == "a Git LFS pointer, not the file itself: run git lfs pull in its repository"
    assert ("c.odd", "a Git LFS pointer, not the file itself: run git lfs pull in its repository") in VideoFiles(
        str(tmp_path)
    ).left_out
