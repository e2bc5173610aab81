"""From a video to vectors: the same frames, windows and numbers as by hand, from every kind of input."""

import dataclasses
import re

import jax
import numpy as np
import pytest

import cvmae
from cvmae.data.decode import read_frames
from cvmae.evaluation.embed import VideoEncoder, load_encoder
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.native import write_archive
from cvmae.interop.preprocessing import Preprocessing
from cvmae.interop.pretrained import FrameSampling
from cvmae.models.patches import Grid
from tests.data.videos import write_video
from tests.interop.models import random_params
from tests.interop.pretrained_models import pretrained, videomae

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(scope="module")
def encoder():
    module = videomae(grid=Grid(4, 32, 64, 2, 8))  # frames are numbered over their whole width
    return VideoEncoder(module, random_params(module), Preprocessing(4, 32, 64, **IMAGENET), stride=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, 17)
    return path


def by_hand(encoder, video, windows):
    clips = np.stack([encoder.preprocessing(read_frames(str(video), frames))[0] for frames in windows])
    tokens = jax.jit(encoder.module.apply)({"params": encoder.params}, clips).tokens
    return np.asarray(tokens, np.float64).mean(1)


WINDOWS = [[0, 2, 4, 6], [8, 10, 12, 14], [10, 12, 14, 16]]  # of 17 frames; the last ends with the video


def test_windows_and_their_mean(encoder, video):
    expected = by_hand(encoder, video, WINDOWS)
    vectors = cvmae.embed(video, encoder, per_window=True, batch_size=2)
    assert vectors.dtype == np.float32 and vectors.shape == (3, 48)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    np.testing.assert_allclose(cvmae.embed(video, encoder), expected.mean(0), atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3


def test_paths_bytes_and_frames_are_one_video(encoder, video):
    vector = cvmae.embed(str(video), encoder)
    frames = read_frames(str(video), range(17))
    for same in (video.read_bytes(), frames):
        np.testing.assert_allclose(cvmae.embed(same, encoder), vector, atol=1e-6)


def test_a_short_video_repeats_its_last_frame(encoder, video):
    frames = read_frames(str(video), range(3))
    expected = encoder(frames[[0, 2, 2, 2]][None])[0]
    np.testing.assert_allclose(cvmae.embed(frames, encoder), expected, atol=1e-6)


def test_overlapping_windows(encoder, video):
    assert cvmae.embed(video, encoder, per_window=True, window_stride=1).shape == (6, 48)


def test_frames_per_second_cut_by_time(encoder, video):
    timed = dataclasses.replace(encoder, stride=1, fps=6.0)  # of 12: every second frame
    np.testing.assert_allclose(
        cvmae.embed(video, timed, per_window=True)[0], cvmae.embed(video, encoder, per_window=True)[0], atol=1e-6
    )


def test_exported_weights_are_loaded_by_their_path(video, tmp_path, capsys):
    module = videomae()
    write_archive(pretrained(module, normalization=IMAGENET), tmp_path / "out")
    encoder = load_encoder(tmp_path / "out")
    assert (encoder.stride, encoder.fps, encoder.square_pixels, encoder.num_frames) == (4, 0.0, True, 4)
    assert "does not record how frames were sampled: stride=4, fps=0.0, square_pixels=True is assumed" in capsys.readouterr().err
    np.testing.assert_allclose(cvmae.embed(video, tmp_path / "out"), cvmae.embed(video, encoder), atol=1e-6)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    from cvmae.tasks import run
    from tests.tiny_configs import config

    folder = tmp_path_factory.mktemp("run")
    sampling = {"data__stride": 3, "data__fps": 8.0, "data__square_pixels": False}
    run(config(("mse_video",), total="1_steps", eval_every="0_steps", report__pictures=0, **sampling), folder)
    return folder


def test_the_stride_of_a_workdir_is_taken(workdir):
    encoder = load_encoder(workdir)
    assert (encoder.stride, encoder.fps, encoder.square_pixels, encoder.num_frames) == (3, 8.0, False, 4)
    assert encoder(np.zeros((1, 4, 40, 50, 3), np.uint8)).shape == (1, 32)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_an_export_embeds_as_the_workdir_does(workdir, kind, tmp_path, capsys):
    from cvmae.interop import __main__ as command
    from tests.commands import run_own

    wide = tmp_path / "wide.mp4"  # its pixels are twice as wide as high, so that square_pixels matters too
    write_video(wide, 40, aspect=2)
    assert run_own(command, "export", f"--checkpoint={workdir}", f"--to={kind}", f"--out={tmp_path / 'out'}") == 0
    assert run_own(command, "import", f"--weights={tmp_path / 'out'}", f"--out={tmp_path / 'again'}") == 0
    vector = cvmae.embed(wide, workdir)
    for folder in ("out", "again"):
        np.testing.assert_array_equal(cvmae.embed(wide, tmp_path / folder), vector)
    assert "assumed" not in capsys.readouterr().err
    encoder = load_encoder(tmp_path / "out")
    for other in ({"stride": 4}, {"fps": 0.0}, {"square_pixels": True}):
        assert np.abs(cvmae.embed(wide, dataclasses.replace(encoder, **other)) - vector).max() > 1e-5, other


def test_weights_that_do_not_record_their_normalization(video, tmp_path):
    """The message names what the caller has, and what it says works."""
    write_archive(pretrained(videomae(), normalization={}), tmp_path / "bare")
    write_archive(pretrained(videomae(), normalization=IMAGENET), tmp_path / "whole")
    for bare in (tmp_path / "bare", load_encoder(tmp_path / "bare")):
        with pytest.raises(
            ValueError, match=r"take dataclasses.replace\(encoder, preprocessing=.*preprocessor_config.json"
        ) as caught:
            cvmae.embed(video, bare)
    replaced = re.search(r"take (.*?\)\)) with", str(caught.value))[1]
    for name, value in IMAGENET.items():
        replaced = replaced.replace(f"{name}=...", f"{name}={value}")
    encoder = eval(replaced, {"dataclasses": dataclasses, "encoder": load_encoder(tmp_path / "bare")})
    np.testing.assert_array_equal(cvmae.embed(video, encoder), cvmae.embed(video, tmp_path / "whole"))


def test_an_export_to_transformers_records_the_sampling(video, tmp_path, capsys):
    weights = pretrained(videomae(), normalization=IMAGENET, sampling=FrameSampling(1, 12.5, False))
    write_archive(weights, tmp_path / "own")
    write_hf_videomae(weights, tmp_path / "hf")
    encoder = load_encoder(tmp_path / "hf")
    assert (encoder.stride, encoder.fps, encoder.square_pixels) == (1, 12.5, False)
    np.testing.assert_allclose(cvmae.embed(video, encoder), cvmae.embed(video, tmp_path / "own"), rtol=0, atol=1e-6)
    assert "assumed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "frames",
    [np.zeros((4, 8, 8, 3)), *(np.zeros(shape, np.uint8) for shape in ((8, 8, 3), (0, 8, 8, 3), (4, 8, 8, 4)))],
)
def test_frames_of_another_shape_or_dtype_are_named(encoder, frames):
    with pytest.raises(
        ValueError, match=rf"are {frames.dtype} {re.escape(str(list(frames.shape)))}; expected uint8 \[n, H, W, 3\]"
    ):
        cvmae.embed(frames, encoder)


@pytest.mark.parametrize("value", [None, 3, ["a.mp4"], b"weights", True])
def test_an_argument_of_another_type_is_named(encoder, video, value):
    kind, said = type(value).__name__, "give a workdir, a weights file or folder, or a hub id owner/name"
    for load in (load_encoder, cvmae.load):
        with pytest.raises(TypeError, match=rf"^path is {re.escape(repr(value))}, of type {kind}: {said}$"):
            load(value)
    with pytest.raises(TypeError, match=f"^encoder is of type {kind}: give what cvmae.load_encoder returns, or its argument$"):
        cvmae.embed(video, value)
    if not isinstance(value, bytes):
        with pytest.raises(TypeError, match=f"^video is of type {kind}: give a path, the bytes of a file, or frames uint8"):
            cvmae.embed(value, encoder)


@pytest.mark.parametrize("value", ["", " ", "\t "])
def test_an_empty_path_of_weights_is_named(video, value):
    said = f"path is {value!r}, which is empty: give a workdir, a weights file or folder, or a hub id owner/name"
    for load in (load_encoder, cvmae.load, lambda path: cvmae.embed(video, path)):
        with pytest.raises(FileNotFoundError) as caught:
            load(value)
        assert str(caught.value) == said


def test_pooled_is_the_mean_over_tokens_in_float32(encoder):
    clips = np.random.default_rng(0).normal(size=(2, 4, 32, 64, 3)).astype(np.float32)
    output = jax.jit(lambda p, c: encoder.module.apply({"params": p}, c))(encoder.params, clips)
    assert output.pooled.dtype == np.float32
    np.testing.assert_allclose(output.pooled, np.asarray(output.tokens).mean(1), atol=1e-6)
