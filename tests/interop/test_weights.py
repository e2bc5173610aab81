"""The loader: every key of a file is used, checked or ignored with a reason, and every problem is named at once."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from cvmae.interop import WeightsError, load_autoencoder
from cvmae.interop.weights import KEY_MAPS, convert
from cvmae.models import masking, positions
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, Size, Trunk


def videomae(depth: int = 2, final_norm: bool = True) -> Autoencoder:
    grid = Grid(4, 16, 16, 2, 8)
    encoder = Encoder(Trunk(Size(16, depth, 2), "qv"), grid, "sincos1d", final_norm=final_norm)
    return Autoencoder(encoder, Decoder(DecoderSpec(Trunk(Size(8, 1, 2), "qv"), "concat", "sincos1d", embed_bias=False), grid))


def image_mae(**changes) -> Autoencoder:
    grid = Grid(1, 24, 24, 1, 8)
    encoder = Encoder(Trunk(Size(16, 2, 2)), grid, **{"positions": "sincos2d", "cls_token": True, **changes})
    return Autoencoder(encoder, Decoder(DecoderSpec(Trunk(Size(8, 1, 2)), "unshuffle", "sincos2d", "encoder"), grid))


def make_params(module: Autoencoder, seed: int = 0):
    """Random parameters of a module, as numpy."""
    grid = module.encoder.grid
    clip = jnp.zeros((1, grid.num_frames, grid.height, grid.width, 3))
    mask = masking.from_noise(jnp.zeros((1, grid.tokens)), 2)
    template = jax.eval_shape(module.init, jax.random.key(0), clip, mask)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), template)


def as_theirs(params, kind: str, module: Autoencoder) -> dict[str, np.ndarray]:
    """Our parameters as a file of `kind` would hold them: the tables read backward."""
    grid = module.encoder.grid
    sides = dict(t=grid.tubelet, h=grid.patch, w=grid.patch)
    back = {
        "copy": lambda a: a,
        "linear": lambda a: a.T,
        "token": lambda a: a[None, None],
        "conv": lambda a: einops.rearrange(a, "(t h w c) d -> d c t h w", **sides),
    }
    keys = {}
    for path, array in traverse_util.flatten_dict(params, sep="/").items():
        for rule in KEY_MAPS[kind].rules:
            for i in range(3):
                if rule.ours.format(i=i) == path and path not in keys:
                    keys[path] = rule.theirs.format(i=i), np.ascontiguousarray(back[rule.transform](array))
    arrays = dict(keys.values())
    if kind == "hf-vit-mae":
        embed = "vit.embeddings.patch_embeddings.projection.weight"
        arrays[embed] = arrays[embed][:, :, 0]
        for table, width in (("vit.embeddings.position_embeddings", 16), ("decoder.decoder_pos_embed", 8)):
            arrays[table] = np.concatenate([np.zeros((1, width)), positions.sincos2d(3, 3, width)])[None].astype(np.float32)
    return arrays


@pytest.fixture
def video_file(tmp_path):
    module = videomae()
    params = make_params(module)
    file = tmp_path / "model.safetensors"
    save_file(as_theirs(params, "hf-videomae", module), file)
    return module, params, file


@pytest.fixture
def image_file(tmp_path):
    module = image_mae()
    params = make_params(module)
    file = tmp_path / "model.safetensors"
    save_file(as_theirs(params, "hf-vit-mae", module), file)
    return module, params, file


def rewrite(file, change):
    """Applies `change` to the arrays of a file in place."""
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)


@pytest.mark.parametrize("fixture", ["video_file", "image_file"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_round_trip(fixture, as_folder, request):
    module, params, file = request.getfixturevalue(fixture)
    loaded = load_autoencoder(file.parent if as_folder else str(file), "auto", params, module)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize("fixture", ["video_file", "image_file"])
def test_encoder_alone(fixture, request):
    module, params, file = request.getfixturevalue(fixture)
    loaded = load_autoencoder(file, "auto", {"encoder": params["encoder"]}, Autoencoder(module.encoder))
    assert list(loaded) == ["encoder"]
    jax.tree.map(np.testing.assert_array_equal, loaded["encoder"], params["encoder"])


def test_dtypes_follow_the_template(video_file):
    _, params, file = video_file
    rewrite(file, lambda arrays: arrays.update({k: a.astype(np.float16) for k, a in arrays.items()}))
    loaded = load_autoencoder(file, "hf-videomae", params)
    assert {a.dtype for a in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), loaded, params)


def test_every_problem_is_listed_at_once(video_file):
    _, params, file = video_file

    def damage(arrays):
        del arrays["decoder.head.bias"]
        del arrays["videomae.encoder.layer.1.attention.attention.q_bias"]
        arrays["mask_token"] = np.zeros((1, 1, 9), np.float32)
        arrays["encoder_to_decoder.weight"] = np.zeros((1, 8, 16), np.float32)
        arrays["videomae.encoder.layer.7.output.dense.bias"] = np.zeros(16, np.float32)
        arrays["something.else"] = np.zeros(1, np.float32)
        key = "videomae.encoder.layer.0.attention.attention"
        arrays[f"{key}.query.bias"] = arrays[f"{key}.q_bias"]

    rewrite(file, damage)
    with pytest.raises(WeightsError) as caught:
        load_autoencoder(file, "hf-videomae", params)
    expected = (
        ("missing", "decoder/predict/bias"),
        ("missing", "encoder/blocks/block1/attention/query/bias"),
        ("mis-shaped", "mask_token"),
        ("mis-shaped", "encoder_to_decoder.weight"),
        ("left over", "encoder.layer.7"),
        ("left over", "something.else"),
        ("twice", "encoder/blocks/block0/attention/query/bias"),
    )
    assert len(caught.value.problems) == len(expected)
    for kind, name in expected:
        assert any(p.startswith(kind) and name in p for p in caught.value.problems), (kind, name)
        assert name in str(caught.value)


def test_a_final_norm_that_one_side_lacks(video_file):
    _, _, file = video_file
    with pytest.raises(WeightsError, match="left over: videomae.layernorm"):
        load_autoencoder(file, "hf-videomae", make_params(videomae(final_norm=False)))
    rewrite(file, lambda arrays: [arrays.pop(f"videomae.layernorm.{k}") for k in ("weight", "bias")])
    with pytest.raises(WeightsError, match="missing: nothing in the file for encoder/norm"):
        load_autoencoder(file, "hf-videomae", make_params(videomae()))


def test_ignored_keys(video_file):
    _, params, file = video_file
    rewrite(file, lambda arrays: arrays.update({"classifier.weight": np.zeros((4, 16), np.float32)}))
    load_autoencoder(file, "hf-videomae", params)
    for key_map in KEY_MAPS.values():
        assert all(len(reason) > 20 for reason in key_map.ignored.values())


@pytest.mark.parametrize("key", ["vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"])
def test_fixed_tables_are_checked(image_file, key):
    _, params, file = image_file
    good = load_file(file)[key]
    wrong = {
        "zeros": np.zeros_like(good),
        "halves swapped": np.roll(good, good.shape[-1] // 2, axis=-1),
        "cls row": good + np.eye(good.shape[1], 1, dtype=np.float32)[None],
        "not a number": np.full_like(good, np.nan),
    }
    for name, table in wrong.items():
        rewrite(file, lambda arrays: arrays.update({key: np.ascontiguousarray(table)}))
        with pytest.raises(WeightsError, match=f"other positions: {key}"):
            load_autoencoder(file, "hf-vit-mae", params)
            pytest.fail(name)
    rewrite(file, lambda arrays: arrays.update({key: np.ascontiguousarray(good[:, :-1])}))
    with pytest.raises(WeightsError, match=f"mis-shaped: {key}"):
        load_autoencoder(file, "hf-vit-mae", params)
    rewrite(file, lambda arrays: arrays.update({key: good + np.float32(1e-6)}))
    load_autoencoder(file, "hf-vit-mae", params)


def test_settings_that_parameters_cannot_show(image_file):
    _, params, file = image_file
    with pytest.raises(WeightsError, match="encoder.positions is 'sincos3d'; hf-vit-mae needs 'sincos2d'"):
        load_autoencoder(file, "hf-vit-mae", params, image_mae(positions="sincos3d"))
    encoder = Autoencoder(image_mae(cls_token=False).encoder)
    with pytest.raises(WeightsError, match="encoder.cls_token is False"):
        load_autoencoder(file, "hf-vit-mae", {"encoder": params["encoder"]}, encoder)


def test_learned_positions_are_missing_from_such_a_file(image_file):
    _, _, file = image_file
    with pytest.raises(WeightsError, match="missing: nothing in the file for encoder/positions/space"):
        load_autoencoder(file, "hf-vit-mae", make_params(image_mae(positions="separable")))


def test_wrong_or_unknown_kind(video_file, tmp_path):
    _, params, file = video_file
    with pytest.raises(ValueError, match="expected one of auto, hf-videomae, hf-vit-mae"):
        load_autoencoder(file, "videomae", params)
    with pytest.raises(WeightsError, match="is not a key of hf-vit-mae"):
        load_autoencoder(file, "hf-vit-mae", params)
    save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="none of the known kinds"):
        load_autoencoder(tmp_path / "other.safetensors", "auto", params)


def test_no_file_or_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="save_pretrained writes safetensors"):
        load_autoencoder(tmp_path, "auto", {})
    (tmp_path / "model.safetensors").write_bytes(b"not this")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_autoencoder(tmp_path, "auto", {})


def test_convert_takes_any_arrays_under_the_same_keys():
    module = videomae()
    params = make_params(module, seed=1)
    ours, problems = convert(as_theirs(params, "hf-videomae", module), KEY_MAPS["hf-videomae"], params)
    assert not problems
    jax.tree.map(np.testing.assert_array_equal, ours, params)
