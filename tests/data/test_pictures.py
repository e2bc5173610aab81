"""Pictures as videos of one frame: the pixels of Pillow, one decode and one resize a clip, and where they are taken and left out."""

import dataclasses
import io
import tarfile

import ml_collections
import numpy as np
import pytest
from PIL import Image

from cvmae.data import clips, decode, open_video
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.pipeline import cut_clip, make_loader
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.records import Record
from cvmae.data.sources import make_source
from cvmae.data.tar_shards import ShardError, load_index
from cvmae.data.video_files import VideoFiles, is_picture
from tests.data import videos
from tests.data.configs import small_config

SIZE = 47, 63
MODES = {
    "RGB": "png",
    "L": "png",
    "LA": "png",
    "P": "png",
    "RGBA": "png",
    "1": "png",
    "BMP": "bmp",
    "TIFF": "tif",
    "WEBP": "webp",
}


def picture(seed: int, height: int = SIZE[0], width: int = SIZE[1]) -> Image.Image:
    """A smooth picture with other pixels for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def spec(**changes) -> clips.ClipSpec:
    return dataclasses.replace(clips.ClipSpec(16, 4, 0.0, 32, 32, "crop", "random", 0, "middle"), **changes)


def cut(path, view=clips.MIDDLE, **changes) -> list[np.ndarray]:
    return cut_clip(Record(str(path), 0, None, None, str(path)), spec(**changes), np.random.default_rng(0), view)


@pytest.mark.parametrize("mode", MODES)
def test_lossless_pictures_have_the_pixels_of_pillow(mode, tmp_path):
    path = tmp_path / f"a.{MODES[mode]}"
    image = picture(0) if mode in ("BMP", "TIFF", "WEBP") else picture(0).convert(mode)
    image.save(path, **({"lossless": True} if mode == "WEBP" else {}))
    expected = np.asarray(Image.open(path).convert("RGB"))
    for source in (str(path), path.read_bytes()):
        assert len(decode.read_table(source)) == 1
        np.testing.assert_array_equal(decode.read_frames(source, [0])[0], expected)


def test_an_animated_webp_is_called_so(tmp_path):
    frames = [picture(seed) for seed in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.webp", exif=Image.Exif())  # of the same extended format
    for source in (str(tmp_path / "a.webp"), (tmp_path / "a.webp").read_bytes()):
        with pytest.raises(
            decode.DecodeError, match=": an animated WebP, which this FFmpeg does not decode: convert it to MP4 or GIF$"
        ):
            decode.read_table(source)
    left_out = dict(VideoFiles(str(tmp_path)).left_out)
    assert left_out["a.webp"].startswith("an animated WebP") and left_out["still.webp"] == "a picture"
    assert len(decode.read_table(str(tmp_path / "still.webp"))) == 1


@pytest.mark.parametrize("how", [{"quality": 95, "subsampling": 0}, {"quality": 95, "subsampling": 0, "progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_differs_from_pillow_by_rounding(mode, how, tmp_path):
    """ImageNet has some in gray and CMYK. Without subsampled chroma, which libraries enlarge differently."""
    picture(1).convert(mode).save(tmp_path / "a.jpg", **how)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"), np.int32)
    assert np.abs(decode.read_frames(str(tmp_path / "a.jpg"), [0])[0] - expected).max() <= 3  # of the inverse DCT and of YCbCr


def test_the_content_decides_and_not_the_name(tmp_path):
    """ImageNet has a PNG among its .JPEG."""
    picture(2).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.JPEG")
    np.testing.assert_array_equal(decode.read_frames(str(tmp_path / "a.JPEG"), [0])[0], np.asarray(picture(2)))


@pytest.mark.parametrize("name", ["1%02d.png", "50%.png"])
def test_a_name_is_no_pattern_of_other_files(name, tmp_path):
    for seed, file in enumerate((name, "101.png", "102.png")):
        picture(seed).save(tmp_path / file)
    assert len(decode.read_table(str(tmp_path / name))) == 1
    np.testing.assert_array_equal(decode.read_frames(str(tmp_path / name), [0])[0], np.asarray(picture(0)))


def test_a_clip_of_a_picture_is_one_decode_and_one_resize(tmp_path, monkeypatch):
    picture(3).save(tmp_path / "a.png")
    counts = {"decode": 0, "resize": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(open_video, "upright_rgb", counted("decode", open_video.upright_rgb))
    monkeypatch.setattr(clips.cv2, "resize", counted("resize", clips.cv2.resize))
    [clip] = cut(tmp_path / "a.png")
    assert counts == {"decode": 1, "resize": 1}
    assert clip.shape == (16, 32, 32, 3) and clip.flags.c_contiguous
    [resized] = clips.fit_frames(np.asarray(picture(3))[None], 32, 32, "crop")
    assert (clip == resized).all()
    for sampling in clips.SAMPLINGS:
        assert (cut(tmp_path / "a.png", sampling=sampling, fps=4.0)[0] == resized).all()
    three = cut(tmp_path / "a.png", clips.ClipView(1, 2, crops=3))
    assert len(three) == 3 and (three[1] == resized).all() and not (three[0] == three[2]).all()


def test_frames_that_repeat_are_those_of_a_clip_cut_frame_by_frame(tmp_path):
    path = videos.write_video(tmp_path / "short.mp4", 6)
    for how in ({"stride": 1}, {"stride": 4}, {"sampling": "uniform"}, {"num_frames": 4, "stride": 1}, {"fps": 48.0}):
        table = decode.read_table(path)
        indices = clips.clip_indices(spec(**how), table.times, np.random.default_rng(0))
        expected = clips.fit_frames(decode.read_frames(path, indices), 32, 32, "crop")
        np.testing.assert_array_equal(cut(path, **how)[0], expected)


@pytest.fixture
def folder(tmp_path):
    """A folder of two pictures, one of which says so only by its content, and of a video with its thumbnail."""
    for n, name in enumerate(("a.JPEG", "b.png", "c.jpg")):
        picture(n).save(tmp_path / name)
    (tmp_path / "b.png").rename(tmp_path / "b.picture")
    videos.write_video(tmp_path / "c.mp4", 4)
    (tmp_path / "d.svg").write_text("<svg/>")
    return tmp_path


def test_pictures_of_a_folder_are_taken_on_demand_alone(folder):
    files = VideoFiles(str(folder))
    assert files.paths == ["c.mp4"] and files.has_pictures
    assert dict(files.left_out)["c.jpg"] == ".jpg is a picture" and dict(files.left_out)["b.picture"] == "a picture"
    files = VideoFiles(str(folder), pictures=True)
    assert files.paths == ["a.JPEG", "b.picture", "c.jpg", "c.mp4"]
    assert files.left_out == [("d.svg", ".svg is a picture")] and not files.has_pictures  # nothing draws it
    (folder / "c.mp4").unlink()
    with pytest.raises(
        ManifestError, match=r"no video file .*a.JPEG \(.jpeg is a picture.*\); --config.data.pictures=True takes pictures"
    ):
        read_manifest(str(folder), "train")
    config = small_config(data__source="files", data__manifest=str(folder)).unlock()
    config.data.pictures = True
    with make_loader(config, make_source(config.data, "train")) as loader:
        batch = next(loader)
    assert batch["video"].shape == (4, 4, 16, 24, 3) and not np.asarray(batch["failures"]).any()
    assert (batch["video"] == batch["video"][:, :1]).all() and len(set(batch["index"].tolist())) == 3


def test_a_set_of_pictures_is_a_member_of_a_mixture(folder, tmp_path_factory):
    """Its field is its own: the other folder has thumbnails."""
    other = tmp_path_factory.mktemp("videos")
    videos.write_video(other / "v.mp4", 8)
    picture(9).save(other / "v.jpg")
    config = small_config(data__source="files").unlock()
    config.data.mixture, config.data.pictures = "stills:1,moving:1", False
    sections = {"stills": {"manifest": str(folder), "pictures": True}, "moving": {"manifest": str(other)}}
    config.data.sources = ml_collections.ConfigDict(sections)
    source = make_source(config.data, "train")
    assert [is_picture(source.key(n)) for n in range(len(source))] == [True, False, True, False, False]
    assert any("v.jpg (.jpg is a picture)" in note for note in source.notes)
    with make_loader(config, source) as loader:
        batch = next(loader)
    repeated = (batch["video"] == batch["video"][:, :1]).all((1, 2, 3, 4))
    assert sorted(batch["source"].tolist()) == [0, 0, 1, 1] and not repeated[batch["source"] == 1].any()


def test_a_picture_in_a_shard_is_taken_on_demand_and_never_beside_a_video(folder):
    video, jpeg = (folder / "c.mp4").read_bytes(), (folder / "a.JPEG").read_bytes()
    members = {
        "n/0.jpg": jpeg,
        "n/0.cls": b"3",
        "n/1.jpg": jpeg,
        "n/1.mp4": video,
        "n/2.jpg": jpeg,
        "n/2.png": jpeg,
        "n/3.JPEG": jpeg,
    }
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    config = small_config(data__source="webdataset").unlock()
    config.data.webdataset = {"shards": str(folder / "train-0.tar")}
    source = make_source(config.data, "train")
    assert [source[n].payload for n in range(len(source))] == [video]
    assert "2 pictures are left out, such as train-0.tar/n/0" in source.notes[1]
    config.data.pictures = True
    source = make_source(config.data, "train")
    assert [source.key(n) for n in range(len(source))] == ["train-0/n/0.jpg", "train-0/n/1.mp4", "train-0/n/3.jpeg"]
    assert source.labels.tolist() == [3, -1, -1] and source[0].payload == source[2].payload == jpeg
    assert [note.endswith("such as train-0.tar/n/2") for note in source.notes[:-1]] == [
        True
    ]  # two pictures: which one is not said
    assert load_index(str(folder / "train-0.tar"))[0].without_video == ("n/2",)


def test_shards_of_pictures_alone_name_the_field_and_keep_suffixes(folder):
    (folder / "m.csv").write_text("path,label,split\na.JPEG,n01,train\nc.jpg,n02,train\n")
    [path] = write_shards(str(folder / "m.csv"), str(folder / "out"))
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a.jpeg", "a.cls", "c.jpg", "c.cls"]
    config = small_config(data__source="webdataset").unlock()
    config.data.webdataset = {"shards": str(folder / "out" / "{split}-*.tar")}
    with pytest.raises(ShardError, match="no video in 1 shards; --config.data.pictures=True takes pictures"):
        make_source(config.data, "train")
    config.data.pictures = True
    assert make_source(config.data, "train").class_names == ("n01", "n02")
