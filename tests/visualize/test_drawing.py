"""From numbers to pixels to files: maps the right way up, cells whole and at their place, and files that read back."""

import av
import numpy as np
import pytest
from PIL import Image

from cvmae.visualize import canvas
from cvmae.visualize.animation import write_gif, write_mp4, write_png
from cvmae.visualize.canvas import Bar, Cell, Row, compose, fitted_size, resized
from cvmae.visualize.heatmap import color, overlay, scaled, upsample
from cvmae.visualize.pca import as_colors, principal_components


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 0), (1, 1)])
def test_maps_stay_the_right_way_up_and_where_they_are(place):
    maps = np.zeros((3, 2, 3), np.float32)
    maps[1][place] = 5
    found = upsample(maps, (40, 60))
    assert found.shape == (3, 40, 60) and found.max() == 5 and found.min() == 0 and not found[[0, 2]].any()
    row, column = np.unravel_index(found[1].argmax(), (40, 60))
    assert (row // 20, column // 20) == place
    inside = found[1][20 * place[0] : 20 * place[0] + 20, 20 * place[1] : 20 * place[1] + 20]
    assert inside.mean() > 3 and (found[1].sum() - inside.sum()) / 2000 < 0.4


def test_maps_are_smooth_between_centers_and_keep_these():
    ramp = np.tile(np.arange(4.0), (3, 1))
    found = upsample(ramp, (9, 12))
    np.testing.assert_allclose(found[:, 1::3], np.tile(np.arange(4.0), (9, 1)), atol=0.1)
    assert (np.diff(found, axis=1) >= 0).all() and np.ptp(found, axis=0).max() < 1e-6


def test_scales_and_colors():
    np.testing.assert_allclose(scaled([[2.0, 4.0], [3.0, 6.0]]), [[0, 0.5], [0.25, 1]])
    assert not scaled(np.full((2, 2), 7.0)).any()
    assert color([0.0, 1.0], "gray").tolist() == [[0, 0, 0], [255, 255, 255]]
    frames = np.full((1, 2, 2, 3), 100, np.uint8)
    found = overlay(frames, np.array([[[0.0, 1.0], [0.5, 1.0]]]), "gray", most=0.5)
    assert found[0, :, :, 0].tolist() == [[100, 178], [107, 178]]


def components_by_svd(rows, count):
    """The first principal components and their fractions of the variance, from numpy's singular value decomposition."""
    centered = rows - rows.mean(0)
    _, singular_values, axes = np.linalg.svd(centered, full_matrices=False)
    return (centered @ axes.T)[:, :count], (singular_values**2 / (singular_values**2).sum())[:count]


@pytest.mark.parametrize("shape", [(50, 6), (4, 30), (400, 3)])
def test_components_are_those_of_a_singular_value_decomposition(shape):
    draw = np.random.default_rng(0)
    rows = draw.normal(size=shape) @ draw.normal(size=(shape[1], shape[1])) + 7
    components, fractions = principal_components(rows, 3)
    expected, expected_fractions = components_by_svd(rows, 3)
    np.testing.assert_allclose(fractions, expected_fractions, rtol=1e-6)
    np.testing.assert_allclose(np.abs(components), np.abs(expected), atol=1e-8)


def test_signs_of_components_are_the_same_for_reflected_rows():
    rows = np.random.default_rng(0).normal(size=(50, 6)) * [6, 5, 4, 3, 2, 1]
    components, _ = principal_components(rows, 3)
    np.testing.assert_allclose(principal_components(-rows, 3)[0], -components, atol=1e-8)  # the axes keep their signs
    for number in range(3):  # axis i is nearly coordinate i, whose entry is above 0
        assert np.corrcoef(components[:, number], rows[:, number])[0, 1] > 0.5


@pytest.mark.parametrize("rows", [np.ones((1, 4)), np.ones((5, 4))])
def test_equal_rows_have_components_of_zero(rows):
    components, fractions = principal_components(rows, 3)
    assert components.shape == (len(rows), 3) and not components.any() and fractions.tolist() == [0, 0, 0]


def test_missing_components_are_zero():
    components, fractions = principal_components(np.random.default_rng(0).normal(size=(2, 6)), 3)
    assert components.shape == (2, 3) and not components[:, 2].any() and fractions[2] == 0 and abs(fractions[0] - 1) < 1e-12


def test_colors_are_the_components():
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(200, 3)) * [9, 3, 1]
    found, fractions = as_colors(rows)
    assert found.dtype == np.float32 and found.min() == 0 and found.max() == 1 and fractions.sum() > 0.999
    for channel in range(3):
        assert abs(np.corrcoef(found[:, channel], rows[:, channel])[0, 1]) > 0.98


def noise(height=24, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def places_of(sheet, image):
    """Where a sheet holds an image, pixel by pixel: [(top, left)]."""
    corners = np.argwhere((sheet[: -image.shape[0] + 1, : -image.shape[1] + 1] == image[0, 0]).all(-1))
    return [(y, x) for y, x in corners.tolist() if (sheet[y : y + image.shape[0], x : x + image.shape[1]] == image).all()]


def test_cells_are_whole_in_order_and_on_a_grid():
    images = [[noise(seed=3 * row + column) for column in range(3)] for row in range(2)]
    rows = [
        Row([Cell(image, "one\ntwo") for image in line], "a name\nand more of it", Bar("viridis", 0.01, 20)) for line in images
    ]
    sheet = compose(rows, "title", ("1", "2", "3"), "a long note " * 30)
    assert sheet.dtype == np.uint8 and not sheet.shape[0] % 2 and not sheet.shape[1] % 2
    found = [[places_of(sheet, image) for image in line] for line in images]
    assert all(len(places) == 1 for line in found for places in line)
    tops, lefts = ([[places[0][axis] for places in line] for line in found] for axis in (0, 1))
    assert len(set(map(tuple, lefts))) == 1 and all(len(set(line)) == 1 for line in tops)
    assert np.diff(lefts[0]).tolist() == [44, 44] and tops[1][0] - tops[0][0] == 24 + canvas.GAP + 2 * canvas.LINE + 5
    # The bar of the first row, right of its last cell: the high end on top.
    strip = sheet[tops[0][0] : tops[0][0] + 24, lefts[0][2] + 40 + 6]
    np.testing.assert_array_equal(strip, color(np.linspace(1, 0, 24), "viridis"))
    # Nothing is cut off: the margin is paper.
    for edge in (sheet[: canvas.MARGIN - 2], sheet[-canvas.MARGIN + 4 :], sheet[:, : canvas.MARGIN - 2], sheet[:, -4:]):
        assert (edge == 255).all()


def test_a_row_without_words_takes_no_space_for_them():
    assert compose([Row([Cell(noise())])]).shape == (24 + 2 * canvas.MARGIN, 40 + 2 * canvas.MARGIN, 3)
    framed = compose([Row([Cell(noise(), border=(1, 2, 3))])])[canvas.MARGIN : -canvas.MARGIN, canvas.MARGIN : -canvas.MARGIN]
    inside = (slice(canvas.BORDER, -canvas.BORDER),) * 2
    np.testing.assert_array_equal(framed[inside], noise()[inside])
    assert (framed[0] == (1, 2, 3)).all() and (framed[:, -1] == (1, 2, 3)).all()


def test_words_fit():
    for text in ("short", "a name that is far too long for its place", "ä" * 80):
        line = canvas.shortened(text, 100, 13)
        assert canvas.width_of(line, 13) <= 100 and (line == text or line.endswith("…"))
        assert all(canvas.width_of(line, 13) <= 100 for line in canvas.wrapped(text, 100, 13))
    assert " ".join(canvas.wrapped("one two three four five", 60, 13)) == "one two three four five"
    assert canvas.wrapped("first\nsecond", 500, 13) == ["first", "second"] and canvas.wrapped("", 50, 13) == []


def test_small_frames_grow_by_whole_pixels_and_large_ones_shrink():
    assert fitted_size(32, 32) == (128, 128) and fitted_size(16, 64, 96) == (48, 192) and fitted_size(224, 224) == (128, 128)
    assert fitted_size(100, 100) == (128, 128) and fitted_size(4000, 1, 10)[1] == 1
    frames = noise(2, 3)[None]
    np.testing.assert_array_equal(resized(frames, (8, 12)), frames.repeat(4, 1).repeat(4, 2))
    assert abs(float(resized(noise(64, 64)[None], (16, 16)).mean()) - noise(64, 64).mean()) < 3


def ramps(count, height, width):
    """Frames of one gray each, darker to lighter, with a white corner at the top left."""
    frames = np.stack([np.full((height, width, 3), 20 + 30 * t, np.uint8) for t in range(count)])
    frames[:, :8, :8] = 255
    return frames


def check_frames(found, frames, tolerance):
    assert found.shape == frames.shape
    assert np.abs(found[:, 16:].astype(int) - frames[:, 16:]).mean() < tolerance
    assert (found[:, 2:6, 2:6].mean((1, 2, 3)) > 240).all()  # the right way up


def test_files_read_back(tmp_path):
    frames = ramps(6, 48, 62)
    write_png(tmp_path / "a.png", frames[0])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), frames[0])
    write_gif(tmp_path / "a.gif", frames, 5)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6 and gif.info["duration"] == 200 and gif.info["loop"] == 0
        pictures = []
        for number in range(6):
            gif.seek(number)
            pictures.append(np.asarray(gif.convert("RGB")))
    check_frames(np.stack(pictures), frames, 3)
    write_mp4(tmp_path / "a.mp4", frames, 5)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].average_rate == 5 and file.streams.video[0].codec_context.pix_fmt == "yuv420p"
        check_frames(np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]), frames, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.mp4", "a.png"]


def test_a_side_of_odd_length_loses_a_line_in_mp4(tmp_path):
    write_mp4(tmp_path / "a.mp4", ramps(2, 33, 49), 2.5)
    with av.open(str(tmp_path / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.height, stream.width, float(stream.average_rate)) == (32, 48, 2.5)


def test_files_are_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        write_gif(tmp_path / f"{name}.gif", ramps(3, 32, 32), 4)
        write_mp4(tmp_path / f"{name}.mp4", ramps(3, 32, 32), 4)
    for suffix in ("gif", "mp4"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
