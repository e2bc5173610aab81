"""Whole runs over files that are broken or not there, and second runs."""

import dataclasses
import pathlib

import pytest

from cvmae.data.decode import read_table
from cvmae.data.prepare import Options, PrepareError, prepare, work
from cvmae.data.prepare import __main__ as command
from cvmae.data.prepare.state import State
from tests.commands import run_own
from tests.data import layouts, videos
from tests.data.prepare.runs import options, snapshot, table


def harm(folder):
    """Breaks files of the layout hmdb51; {path below videos: problem}."""
    files = sorted(path for path in (folder / "videos").rglob("*.avi"))
    missing, empty, cut, text, noise = files[1:6]
    missing.unlink()
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:600])
    text.write_text("<html>Video unavailable</html>")
    noise.write_bytes(bytes(range(256)) * 40)
    kinds = zip((missing, empty, cut, text, noise), ("missing", "empty", "undecodable", "undecodable", "undecodable"))
    return {path.relative_to(folder / "videos").as_posix(): kind for path, kind in kinds}


@pytest.mark.parametrize("how", [{"check": "quick"}, {"check": "full"}, {"transcode": 16}])
def test_broken_files_are_named_and_left_out(tmp_path, capsys, how):
    layouts.hmdb51(tmp_path)
    broken = harm(tmp_path)
    before = snapshot(tmp_path / "videos")
    manifests = prepare(options(tmp_path, **how))
    report = {path: problem for path, problem, _ in table(tmp_path / "out" / "report.csv")[1:]}
    assert report == broken
    details = " ".join(detail for *_, detail in table(tmp_path / "out" / "report.csv")[1:])
    assert "0 bytes" in details and "lacks all of" in details and "Invalid data" in details
    top = "videos16" if how.get("transcode") else "videos"
    usable = {path.split("/", 1)[1].rpartition(".")[0] for file in manifests.values() for path, *_ in table(file)[1:]}
    assert len(usable) == 4 and not usable & {path.rpartition(".")[0] for path in broken}
    assert all(path.startswith(f"{top}/") for path, *_ in table(manifests["split1"])[1:])
    assert snapshot(tmp_path / "videos") == before
    out = capsys.readouterr().out
    assert "4 of 9 videos are usable; 1 empty, 1 missing, 3 undecodable; " in out and "report.csv" in out


def test_counts_stand_beside_the_published_ones(tmp_path, capsys):
    layouts.ssv2(tmp_path)
    (tmp_path / "videos" / "9.webm").unlink()
    prepare(options(tmp_path, "ssv2", check="none"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["manifest.csv", "train", "2", "3", "168,913"] in lines
    assert ["manifest.csv", "test", "1", "1", "27,157"] in lines
    assert ["classes", "2", "3", "174"] in lines


def test_a_quick_check_sees_the_end_and_a_full_one_the_middle(tmp_path):
    path = tmp_path / "videos" / "wave" / "v.mp4"
    path.parent.mkdir(parents=True)
    videos.write_video(path, 100, size=(64, 96), options={"g": "10", "bf": "0"}, container={"movflags": "+faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    assert work.process(work.make_job(str(path), "quick"))["problem"] == "undecodable"
    # Damage in frames that are neither the first nor the middle nor the last.
    start = whole.index(b"mdat")
    quarter = start + (len(whole) - start) // 4
    path.write_bytes(whole[:quarter] + bytes(4000) + whole[quarter + 4000 :])
    assert work.process(work.make_job(str(path), "quick"))["problem"] == ""
    assert work.process(work.make_job(str(path), "full"))["problem"] == "undecodable"
    path.write_bytes(whole)
    answer = work.process(work.make_job(str(path), "full"))
    assert (answer["problem"], answer["frames"]) == ("", 100) and answer["seconds"] == pytest.approx(100 / 12)


def test_a_decoder_that_dies_costs_one_file(tmp_path, monkeypatch):
    layouts.folders(tmp_path, with_splits=True)
    layouts.put(tmp_path / "videos" / "train" / "jump" / "crash.mp4", 5)
    monkeypatch.setattr(work, "FUNCTION", "tests.data.prepare.crashing_jobs:process")
    manifests = prepare(options(tmp_path, "folder"))
    assert len(table(manifests["manifest"])) == 1 + 4
    died = ["train/jump/crash.mp4", "failed", "its process was ended by SIGSEGV"]
    assert table(tmp_path / "out" / "report.csv")[1:] == [died]
    # It may have been the machine's fault: that file alone is tried again.
    monkeypatch.setattr(work, "FUNCTION", f"{work.__name__}:process")
    manifests = prepare(options(tmp_path, "folder"))
    assert len(table(manifests["manifest"])) == 1 + 5 and len(table(tmp_path / "out" / "report.csv")) == 1


def test_what_is_known_is_not_asked_again(tmp_path, monkeypatch):
    layouts.hmdb51(tmp_path)
    broken = harm(tmp_path)
    first = prepare(options(tmp_path, transcode=16))
    read = {name: table(path) for name, path in first.items()}
    made = snapshot(tmp_path / "out" / "videos16")
    monkeypatch.setattr(work, "FUNCTION", "tests.data.prepare.crashing_jobs:nothing_there")  # no process could answer
    assert {name: table(path) for name, path in prepare(options(tmp_path, transcode=16)).items()} == read
    monkeypatch.undo()
    mended = sorted(path for path, problem in broken.items() if problem == "undecodable")[0]
    layouts.put(tmp_path / "videos" / mended, 1)
    next(iter((tmp_path / "out" / "videos16").rglob("*.mp4"))).unlink()
    prepare(options(tmp_path, transcode=16))
    after = snapshot(tmp_path / "out" / "videos16")
    assert len(after) == 5 and sum(after.get(path) == facts for path, facts in made.items()) == 3
    assert mended not in {path for path, *_ in table(tmp_path / "out" / "report.csv")}


def test_no_video_is_usable(tmp_path):
    (tmp_path / "videos" / "wave").mkdir(parents=True)
    (tmp_path / "videos" / "wave" / "a.mp4").write_bytes(b"")
    with pytest.raises(PrepareError, match="no video is usable; .*report.csv says why"):
        prepare(options(tmp_path, "folder"))


def test_one_run_at_a_time(tmp_path):
    layouts.folders(tmp_path, with_splits=True)
    with State(str(tmp_path / "out")), pytest.raises(PrepareError, match="another run is writing there"):
        prepare(options(tmp_path, "folder"))
    prepare(options(tmp_path, "folder"))


def test_the_wrong_folder_of_videos(tmp_path):
    layouts.hmdb51(tmp_path / "a")
    layouts.folders(tmp_path / "b", with_splits=True)
    wrong = Options("hmdb51", str(tmp_path / "b" / "videos"), str(tmp_path / "out"), str(tmp_path / "a" / "labels"))
    with pytest.raises(PrepareError, match="none of the 9 videos .* lists is in --videos, such as brush_hair/.*such as test/"):
        prepare(wrong)
    with pytest.raises(PrepareError, match="none: not a folder; --videos is"):
        prepare(Options("folder", str(tmp_path / "none"), str(tmp_path / "out")))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(PrepareError, match="no video file in it; expected VIDEOS/CLASS"):
        prepare(Options("folder", str(tmp_path / "nothing"), str(tmp_path / "out")))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dataset": "kinetics"}, "--dataset=kinetics is unknown: give one of k400, "),
        ({"videos": ""}, "--videos= must be the folder with the videos"),
        ({"labels": ""}, "--labels= must be the folder or file with the label files"),
        ({"transcode": 255}, "--transcode=255 must be even"),
        ({"transcode": 2}, "--transcode=2 must be even, 16 or more, or 0"),
        ({"check": "some"}, "--check=some is unknown: give one of full, quick, none"),
        ({"val_share": 1.0}, "--val_share=1.0 must be a share"),
        ({"workers": -1}, "--workers=-1 must be a number of processes"),
    ],
)
def test_options_that_cannot_be(changes, message):
    right = {"dataset": "ssv2", "videos": "videos", "out": "out", "labels": "labels"}
    with pytest.raises(PrepareError, match=message):
        Options(**right | changes)


def test_pictures_of_a_plain_folder_are_prepared_on_demand(tmp_path):
    for number, path in enumerate(("train/cat/a.jpg", "val/cat/b.JPEG", "train/dog/c.jpg")):
        layouts.put(tmp_path / "videos" / path, number)
    with pytest.raises(PrepareError, match=r"no video file in it; .*3 left out: .*; --pictures takes pictures$"):
        prepare(options(tmp_path, "folder"))
    manifest = prepare(options(tmp_path, "folder", pictures=True))["manifest"]
    assert table(manifest)[1:] == [
        ["videos/train/cat/a.jpg", "cat", "train"],
        ["videos/train/dog/c.jpg", "dog", "train"],
        ["videos/val/cat/b.JPEG", "cat", "val"],
    ]


def test_options_that_do_not_apply_to_pictures_are_refused(tmp_path):
    with pytest.raises(PrepareError, match="--pictures does not apply to --dataset=ssv2: it is an option of folder"):
        options(tmp_path, "ssv2", pictures=True)
    for how in ({"dataset": "imagenet"}, {"dataset": "folder", "pictures": True}):
        with pytest.raises(PrepareError, match="--transcode=256 does not apply to pictures, which are read as they are"):
            options(tmp_path, transcode=256, **how)


def test_a_picture_that_cannot_be_read_is_named(tmp_path, capsys):
    layouts.imagenet(tmp_path)
    broken = tmp_path / "videos" / "train" / "n01440764" / "n01440764_8.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    prepare(options(tmp_path, "imagenet"))
    assert [row[:2] for row in table(tmp_path / "out" / "report.csv")[1:]] == [
        ["train/n01440764/n01440764_8.JPEG", "undecodable"]
    ]
    out = capsys.readouterr().out
    assert ["classes", "3", "3", "1,000"] in [line.split() for line in out.splitlines()]
    assert "with fewer than 1,000 the numbers are the published ones only where --labels has LOC_synset_mapping.txt" in out


CUT = {
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "5", "qmin": "2", "qmax": "4"}},
    "h264.avi": {"codec": "libx264"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "h264.mkv": {"codec": "libx264"},
}


@pytest.fixture(scope="module")
def cut_files(tmp_path_factory):
    """A folder with files of CUT, and with 60 % of each under the name cut_NAME."""
    folder = tmp_path_factory.mktemp("cut") / "videos" / "run"
    folder.mkdir(parents=True)
    for name, settings in CUT.items():
        content = pathlib.Path(videos.write_video(folder / name, 40, size=(64, 96), **settings)).read_bytes()
        (folder / f"cut_{name}").write_bytes(content[: len(content) * 6 // 10])
    return folder


def test_a_file_that_was_cut_is_named_and_kept(cut_files, tmp_path, capsys):
    chosen = dataclasses.replace(options(tmp_path, "folder"), videos=str(cut_files.parent))
    manifest = prepare(chosen)["manifest"]
    report = {path: (problem, detail) for path, problem, detail in table(tmp_path / "out" / "report.csv")[1:]}
    assert {path: problem for path, (problem, _) in report.items()} == {f"run/cut_{name}": "looks cut" for name in CUT}
    for name in CUT:
        whole, rest = ((cut_files / path).stat().st_size for path in (name, f"cut_{name}"))
        frames = len(read_table(str(cut_files / f"cut_{name}")))
        of_frames = f", {frames} of 40 frames" if name.endswith("avi") else ""
        _, detail = report[f"run/cut_{name}"]
        assert 1 < frames < 40 and detail == f"the file has {rest:,} of the {whole:,} bytes that its header announces{of_frames}"
    assert len(table(manifest)) == 1 + 2 * len(CUT) and "4 looks cut" in capsys.readouterr().out


@pytest.mark.parametrize("name", CUT)
def test_a_whole_file_is_not_named_and_a_cut_one_that_cannot_be_decoded_is(cut_files, name):
    assert work.process(work.make_job(str(cut_files / name), "full"))["cut"] == ""
    answer = work.process(work.make_job(str(cut_files / f"cut_{name}"), "full"))
    said = answer["cut"] or answer["detail"].partition("; ")[2]
    assert "bytes that its header announces" in said and bool(answer["cut"]) == (not answer["problem"])


@pytest.mark.parametrize("name", ["mpeg4.avi", "h264.avi"])
def test_all_checks_say_the_same_of_a_file_that_was_cut(cut_files, tmp_path, name):
    content, cut, seen = (cut_files / name).read_bytes(), tmp_path / name, set()
    for part in range(45, 99, 6):
        cut.write_bytes(content[: len(content) * part // 100])
        quick, full = (work.process(work.make_job(str(cut), check)) for check in ("quick", "full"))
        assert quick == full, part
        small = {"side": 32, "target": str(tmp_path / f"{part}.mp4"), "temporary": str(tmp_path)}
        again = work.process(work.make_job(str(cut), "none", **small))  # its length is that of the new file, but for rounding
        assert again == full | {"seconds": again["seconds"]}, part
        seen.add((full["problem"], bool(full["cut"])))
    assert ("", True) in seen


def test_a_large_avi_has_several_chunks(cut_files, tmp_path):
    content = (cut_files / "mpeg4.avi").read_bytes()
    more = b"RIFF" + (len(content)).to_bytes(4, "little") + b"AVIX" + bytes(len(content) - 4)
    (tmp_path / "whole.avi").write_bytes(content + more)
    (tmp_path / "cut.avi").write_bytes(content + more[: len(more) // 2])
    jobs = [work.make_job(str(tmp_path / name), "none", measure=True) for name in ("whole.avi", "cut.avi")]
    whole, cut = (work.process(job)["cut"] for job in jobs)
    assert whole == "" and f"of the {len(content + more):,} bytes that its header announces" in cut


EBML = b"\x1a\x45\xdf\xa3"


@pytest.mark.parametrize(
    "content",
    [
        EBML,
        EBML + b"\xff\xff",
        EBML + b"\x80\x18\x53\x80\x67\xff",
        EBML + b"\x80\x18\x53\x80\x67\x01" + b"\xff" * 7,
        b"\0",
    ],
)
def test_a_header_that_ends_early_or_announces_no_size(tmp_path, content):
    (tmp_path / "a.avi").write_bytes(content + bytes(100))
    answer = work.process(work.make_job(str(tmp_path / "a.avi"), "quick"))
    assert answer["problem"] == "undecodable" and "announces" not in answer["detail"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset=folder", "--labels=l"], "--labels=l does not apply to --dataset=folder, whose folders are the labels"),
        (["--dataset=folder", "--beam_options=x"], "--beam_options does not apply to --runner=local: set --runner=beam"),
        (["--dataset=ssv2", "--labels=l", "--val_share=0.2"], "--val_share does not apply to --dataset=ssv2, which has its own"),
        (["--dataset=ssv2", "--labels=l", "--seed=1"], "--seed does not apply to --dataset=ssv2, which has its own splits"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(tmp_path, capsys, words, message):
    assert run_own(command, f"--videos={tmp_path}", f"--out={tmp_path / 'out'}", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1 and not (tmp_path / "out").exists()
