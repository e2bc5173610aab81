"""`task=visualize` by the command's own way: from weights to figures.json, and every option changes what is drawn."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from cvmae.config import ConfigError
from cvmae.data import clip_files
from cvmae.evaluation.features import Features
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Pretrained
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.build import build_encoder, video_grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.parallel.mesh import HOST
from cvmae.tasks import run
from cvmae.tasks.validate import validate
from cvmae.tasks.visualize import Visualize
from cvmae.visualize.clips import spread
from cvmae.visualize.gallery import nearest_others, visualize
from tests.interop.models import image_mae, random_params
from tests.tiny_configs import downstream


def load_branches(config):
    """What task=visualize draws from."""
    return Visualize(config, {}, HOST).load()


PIXELS: dict[str, tuple[float, ...]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ONE = {"clips": 1, "ratios": (0.5,), "formats": ("png",), "embedded": 0, "queries": 0}  # one figure alone
WIDE = {"augment__size": (32, 48), "data__frame_size": (40, 56)}


def pictures(**fields):
    """A config whose clips are not square; `fields` of config.visualize, or dotted ones with __ for the dot."""
    fields = {name if "__" in name or name in ("init_from", "seed") else f"visualize__{name}": fields[name] for name in fields}
    return downstream("visualize", **WIDE, **fields)


def autoencoder(c, target_norm="patch") -> Pretrained:
    """Random weights of a video autoencoder for a config."""
    encoder = build_encoder(c, c.video_branch, video_grid(c))
    assert isinstance(encoder, Encoder)
    spec = DecoderSpec(TransformerConfig(ViTSize(32, 1, 2)), "unshuffle", "separable", "own")
    params = random_params(Autoencoder(encoder, Decoder(spec, encoder.grid)))
    return Pretrained("test", encoder, params, spec, target_norm=target_norm, normalization=PIXELS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Exports of a video autoencoder and of an image encoder."""
    folder = tmp_path_factory.mktemp("weights")
    write_archive(autoencoder(pictures()), folder / "video")
    module = image_mae()
    params = {"encoder": random_params(module.encoder, 1)}
    write_archive(Pretrained("image", module.encoder, params, normalization=PIXELS), folder / "image")
    return {"init_from": str(folder / "video"), "image_from": str(folder / "image")}


@functools.cache
def loaded(**fields):
    """Branches by the fields that loading reads; the same for many figures."""
    return load_branches(pictures(**fields))


def drawn(folder, fields) -> dict[str, bytes]:
    """The files that a config leaves, and the list of them as `figures.json`."""
    config = pictures(**fields)
    validate(config)
    read = {name: fields[name] for name in ("init_from", "image_from", "semantic", "target_norm") if name in fields}
    numbers = visualize(config, loaded(**read), folder)
    files = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    listed = json.loads(files["figures.json"])
    assert [set(entry) for entry in listed] == [{"file", "kind", "caption"}] * len(listed)
    assert sorted(entry["file"] for entry in listed) == sorted(set(files) - {"figures.json"}) and numbers["files"] == len(listed)
    return files


def captions(files) -> dict[str, str]:
    return {entry["file"]: entry["caption"] for entry in json.loads(files["figures.json"])}


@pytest.fixture(scope="module")
def usual(weights, tmp_path_factory):
    """What one clip's figure is with the defaults, drawn twice into one folder: the first leaves more files, which go."""
    folder = tmp_path_factory.mktemp("usual")
    drawn(folder, weights | ONE | {"clips": 2})
    return drawn(folder, weights | ONE)


FIGURE, TOKENS = "clip00_masked50.png", "tokens.png"
CHANGES = {
    "map": "rollout", "layer": 0, "head": 1, "query": "cls", "mask": "tube", "columns": 2, "semantic": "pca", "image_from": "",
    "target_norm": "none", "records": (5,), "seed": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_every_option_of_the_figure_changes_it(field, weights, usual, tmp_path):
    files = drawn(tmp_path, weights | ONE | {field: CHANGES[field]})
    assert files.keys() == usual.keys() and files[FIGURE] != usual[FIGURE]
    # Tokens are those of the layer and of the clips, whatever attention is drawn.
    assert (files[TOKENS] != usual[TOKENS]) == (field in ("layer", "records"))


def test_the_figure_is_the_same_every_time_and_says_what_it_shows(weights, usual, tmp_path):
    assert drawn(tmp_path, weights | ONE) == usual
    said = captions(usual)
    assert set(said) == {FIGURE, TOKENS}
    for part in ("class 0, synthetic/val/0: 50 % of patches masked (random)", "attention of block 2 of 2, mean of 2 heads",
                 "Semantic map: image branch's attention", "from the cls token; each frame separately", "Reconstruction: visible"):  # fmt: skip
        assert part in said[FIGURE]
    pca = captions(drawn(tmp_path, weights | ONE | {"semantic": "pca"}))[FIGURE]
    assert "Semantic map: PCA of the video's tokens." in pca


def test_a_caption_says_whether_a_patch_has_its_true_mean(weights, usual, tmp_path):
    true = "masked patches are predicted, with the true mean and standard deviation of each."
    assert true in captions(usual)[FIGURE]
    for norm in ("patch", "patch_channel"):
        assert true in captions(drawn(tmp_path / norm, weights | ONE | {"target_norm": norm}))[FIGURE]
    for norm in ("none", "pixels"):
        said = captions(drawn(tmp_path / norm, weights | ONE | {"target_norm": norm}))[FIGURE]
        assert "masked patches are predicted, brightness and contrast too." in said


def test_a_query_patch_has_a_position(weights, usual, tmp_path):
    first = drawn(tmp_path, weights | ONE | {"query": "patch"})
    other = drawn(tmp_path, weights | ONE | {"query": "patch", "position": (0.0, 0.9, 0.9)})
    assert len({files[FIGURE] for files in (usual, first, other)}) == 3
    assert "(temporal position 2, row 2, column 2)" in captions(first)[FIGURE]
    assert "(temporal position 1, row 2, column 3)" in captions(other)[FIGURE]


def test_ratios_formats_and_speed(weights, tmp_path):
    some = weights | ONE | {"image_from": "", "ratios": (0.5, 0.75)}
    files = drawn(tmp_path, some | {"formats": ("gif", "mp4")})
    stems = [f"clip00_masked{ratio}" for ratio in (50, 75)]
    assert set(files) == {"figures.json", TOKENS} | {f"{stem}.{suffix}" for stem in stems for suffix in ("gif", "mp4")}
    with Image.open(tmp_path / "figures" / f"{stems[0]}.gif") as gif:
        assert gif.n_frames == 4 and gif.info["duration"] == 250 and gif.size[0] > 3 * 200
    assert files[f"{stems[0]}.gif"] != files[f"{stems[1]}.gif"]
    drawn(tmp_path, some | {"formats": ("gif",), "fps": 10.0})
    with Image.open(tmp_path / "figures" / f"{stems[0]}.gif") as gif:
        assert gif.info["duration"] == 100


def test_without_a_decoder_no_reconstruction_is_drawn_and_it_is_said_why(weights, usual, tmp_path, capsys):
    write_archive(autoencoder(pictures()).only("encoder"), tmp_path / "encoder")
    write_archive(autoencoder(pictures(), target_norm=""), tmp_path / "unknown")
    sizes = {"whole": Image.open(_written(tmp_path, usual)).size[1]}
    unknown = "the weights do not record the target normalization of their decoder: set config.visualize.target_norm"
    for name, why in (("encoder", "these weights have no decoder"), ("unknown", unknown)):
        files = drawn(tmp_path / name, weights | ONE | {"init_from": str(tmp_path / name)})
        assert f"no reconstruction is drawn: {why}" in capsys.readouterr().err
        assert f"No reconstruction: {why}." in captions(files)[FIGURE]
        sizes[name] = Image.open(_written(tmp_path, files)).size[1]
    assert all(sizes["whole"] - sizes[name] > 60 for name in ("encoder", "unknown"))  # a row less
    files = drawn(tmp_path / "told", weights | ONE | {"init_from": str(tmp_path / "unknown"), "target_norm": "patch"})
    assert files[FIGURE] == usual[FIGURE]


def _written(folder, files):
    (folder / "figure.png").write_bytes(files[FIGURE])
    return folder / "figure.png"


EMBEDDED = {"clips": 0, "embedded": 12, "queries": 0}
RETRIEVED = {"clips": 0, "embedded": 0, "queries": 3, "gallery": 12}


@pytest.mark.parametrize(
    "base, file, change",
    [
        (EMBEDDED, "embedding.png", {"embedding": "pca"}),
        (EMBEDDED, "embedding.png", {"perplexity": 2.0}),
        (EMBEDDED, "embedding.png", {"embedded": 9}),
        (RETRIEVED, "retrieval.png", {"neighbours": 2}),
        (RETRIEVED, "retrieval.png", {"gallery": 7}),
        (RETRIEVED, "retrieval.png", {"queries": 2}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) and len(value) == 1 else "",
)
def test_options_of_embeddings_and_retrieval_change_them(base, file, change, sheets, tmp_path):
    weights, usual = sheets
    files = drawn(tmp_path, weights | base | change)
    assert set(files) == {file, "figures.json"} and files[file] != usual[file]


@pytest.fixture(scope="module")
def sheets(weights, tmp_path_factory):
    """Weights without an image branch, and both sheets by the fields of EMBEDDED and RETRIEVED."""
    weights = weights | {"image_from": ""}
    return weights, drawn(tmp_path_factory.mktemp("sheets"), weights | EMBEDDED | RETRIEVED | {"embedded": 12})


def test_captions_of_sheets(sheets):
    said = captions(sheets[1])
    assert "12 clips, t-SNE" in said["embedding.png"] and "colored by label" in said["embedding.png"]
    assert "the 5 nearest of 12 clips of 'train'" in said["retrieval.png"] and "of the query's class" in said["retrieval.png"]


def test_no_clip_finds_itself():
    values = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [1, 0]])
    gallery = Features(values, np.zeros(4, int), np.array([10, 20, 30, 40]))
    queries = Features(values[:2], np.zeros(2, int), np.array([10, 99]))
    index, alike = nearest_others(queries, gallery, 2, same=True)
    assert gallery.index[index].tolist() == [[40, 20], [20, 10]] and alike[0, 0] == 1
    assert gallery.index[nearest_others(queries, gallery, 1, same=False)[0]].tolist() == [[10], [20]]


def test_pictures_of_a_folder_of_videos(sheets, tmp_path, capsys):
    """Both splits are the folder then: no clip is its own neighbor. One that cannot be read is left out, and named."""
    (tmp_path / "videos").mkdir()
    for number in range(3):
        frames = np.random.default_rng(number).integers(0, 256, (6, 40, 56, 3), np.uint8)
        clip_files.write(tmp_path / "videos" / f"{number}.mp4", frames, fps=10, quantizer=20)
    (tmp_path / "videos" / "1b.mp4").write_bytes(b"no video")
    fields = {"data__source": "files", "data__manifest": str(tmp_path / "videos"), "formats": ("png",), "ratios": (0.5,)}
    files = drawn(tmp_path, sheets[0] | fields | {"clips": 4, "embedded": 4, "queries": 4})
    assert set(files) == {"figures.json", TOKENS, "embedding.png", "retrieval.png"} | {
        f"clip{i:02d}_masked50.png" for i in range(3)
    }
    assert "left out of the figures:" in (said := capsys.readouterr().err) and "1b.mp4" in said
    said = captions(files)
    assert "none of them labeled" in said["embedding.png"] and said["clip02_masked50.png"].startswith("2.mp4: 50 % of patches")
    assert "the 2 nearest of 3 clips" in said["retrieval.png"] and "no labels to compare" in said["retrieval.png"]


def test_numbers_are_spread_from_end_to_end():
    assert spread(10, 4).tolist() == [0, 3, 6, 9] and spread(3, 9).tolist() == [0, 1, 2] and spread(9, 1).tolist() == [0]
    assert len(spread(5, 0)) == 0 and len(set(spread(1001, 1000))) == 1000


def test_weights_for_other_clips_and_with_one_frame_targets(weights, tmp_path):
    """mae_st predicts a frame of two; frames of clips that are longer than in training are predicted likewise."""
    source = autoencoder(pictures())
    assert source.decoder is not None
    spec = DecoderSpec(source.decoder.trunk, "unshuffle", "separable", "own", target_frames=2)
    params = random_params(Autoencoder(source.encoder, Decoder(spec, source.encoder.grid)))
    write_archive(Pretrained("test", source.encoder, params, spec, target_norm="patch", normalization=PIXELS), tmp_path / "w")
    config = pictures(**weights | ONE | {"init_from": str(tmp_path / "w"), "data__num_frames": 8})
    loaded = load_branches(config)
    assert loaded.video.decoder.target_frames == 4 and loaded.video.encoder.grid.num_frames == 8
    assert loaded.image.encoder.grid.shape == (1, 4, 6)
    numbers = visualize(config, loaded, tmp_path)
    assert numbers == {"clips": 1, "files": 2}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"layer": 2}, "layer=2 is not there"),
        ({"head": 2}, "config.visualize: head=2 does not exist: expected -1, or 0 to 1 of 2"),
        ({"query": "cls", "video_branch__cls_token": False}, "config.visualize: query='cls' needs an encoder with a cls token"),
        ({"query": "dog"}, "config.visualize.query='dog' cannot be used: it must be one of mean, cls, patch"),
        ({"map": "x"}, "config.visualize.map='x'"),
        ({"semantic": "x"}, "config.visualize.semantic='x'"),
        ({"semantic": "image"}, "config.visualize.semantic='image' needs an image branch"),
        ({"target_norm": "x"}, "must be one of auto, patch, patch_channel, none, pixels"),
        ({"formats": ("png", "webm")}, "must be one or more of png, gif, mp4"),
        ({"formats": ()}, "config.visualize.formats"),
        ({"ratios": (0.5, 1.0)}, "config.visualize.ratios"),
        ({"ratios": (0.01,)}, "config.visualize.ratios: a masking ratio of 0.01 leaves 12 of 12"),
        ({"position": (0.5, 2.0, 0.5)}, r"must be \(time, row, column\), each from 0 to 1"),
        ({"records": (-1,)}, "config.visualize.records"),
        ({"embedding": "umap"}, "must be one of tsne, pca"),
        ({"fps": 0.0}, "config.visualize.fps"),
        ({"neighbours": 0}, "config.visualize.neighbours"),
        ({"image_from": "nowhere"}, "config.visualize.image_from='nowhere' does not exist"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_field(fields, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(pictures(**fields), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_the_weights_have_not_got_is_refused(weights, tmp_path):
    with pytest.raises(ConfigError, match="visualize.image_from: .* is an encoder of 4 frames: give an image encoder's"):
        load_branches(pictures(**weights | {"image_from": weights["init_from"]}))
    with pytest.raises(ConfigError, match="has no image branch: set image_from, or take auto or pca"):
        load_branches(pictures(init_from=weights["init_from"], semantic="image"))
    with pytest.raises(ConfigError, match=r"records \[64\] of 64 videos: give indices from 0 to 63"):
        visualize(pictures(**ONE, records=(64,)), load_branches(pictures()), tmp_path)
    with pytest.raises(ConfigError, match="video_branch.variant=test/16"):
        load_branches(pictures(**weights | {"video_branch__variant": "test/8"}))
    assert jax.tree.leaves(load_branches(pictures(**weights | {"semantic": "pca"})).image) == []
