"""mae_st's written properties, one by one, then a plain torch statement of it; and VideoMAE's where the two differ.

No package of mae_st exists. The sizes are those of its recipe: 16 frames of 224 pixels, tubelets of 2 x 16 x 16, masking
0.9, eight predicted frames, a decoder with its own cls token.
"""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec, make_targets
from cvmae.models.backbone import EncoderOutput
from cvmae.models.patches import Grid, normalize_targets, patchify, target_frames
from cvmae.models.positions import Positions
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.objective.losses import masked_mse
from tests.requirements import missing

FULL = Grid(16, 224, 224, 2, 16)
SMALL = Grid(16, 32, 32, 2, 16)


def build(grid: Grid, depth: int = 1) -> Autoencoder:
    encoder = Encoder(TransformerConfig(ViTSize(32, depth, 2)), grid, "separable", cls_token=True)
    return Autoencoder(encoder, Decoder(DecoderSpec(TransformerConfig(ViTSize(16, depth, 4)), cls="own", target_frames=8), grid))


def make_params(model: Autoencoder, seed: int = 0):
    """Random parameters, none at an initial 0 or 1."""
    grid, rng = model.encoder.grid, np.random.default_rng(seed)
    clip = jnp.zeros((1, grid.num_frames, grid.height, grid.width, 3))
    mask = masking.from_noise(jnp.zeros((1, grid.tokens)), grid.tokens // 2)
    template = jax.eval_shape(model.init, jax.random.key(0), clip, mask)["params"]
    noise = traverse_util.path_aware_map(lambda path, a: float(path[-1] == "scale") + 0.1 * rng.normal(size=a.shape), template)
    return jax.tree.map(lambda a: a.astype(np.float32), noise)


def test_156_of_1568_tokens_are_kept():
    assert masking.visible_count(1568, 0.9, "down") == 156 == int(1568 * (1 - 0.9))
    mask = masking.draw(jax.random.split(jax.random.key(0), 2), FULL, "random", 0.9, "down")
    assert mask.ids_keep.shape == (2, 156) and mask.masked.shape == (2, 1412)


def test_masking_knows_neither_space_nor_time():
    """The 156 tokens spread over all time patches, at other positions in each."""
    mask = masking.draw(jax.random.split(jax.random.key(0), 1), FULL, "random", 0.9, "down")
    time_patches, positions = np.divmod(np.asarray(mask.ids_keep[0]), FULL.spatial_patches)
    counts = np.bincount(time_patches, minlength=8)
    assert (counts > 5).all() and len(set(counts)) > 1
    assert len(set(positions)) > 80


def test_ids_by_two_argsorts_of_the_noise():
    noise = np.random.default_rng(0).uniform(size=(2, 1568)).astype(np.float32)
    mask = masking.from_noise(jnp.asarray(noise), 156)
    shuffle = np.argsort(noise, axis=1)
    np.testing.assert_array_equal(mask.ids_keep, shuffle[:, :156])
    np.testing.assert_array_equal(mask.ids_restore, np.argsort(shuffle, axis=1))
    ones = np.concatenate([np.zeros((2, 156)), np.ones((2, 1412))], axis=1)
    np.testing.assert_array_equal(mask.hidden, np.take_along_axis(ones, np.argsort(shuffle, axis=1), axis=1))


def test_target_frames_truncate_and_end_in_15():
    np.testing.assert_array_equal(target_frames(16, 8), [0, 2, 4, 6, 8, 10, 12, 15])
    spec = build(FULL).decoder.spec
    assert spec.target_tubelet(FULL) == 1 == 2 * 8 // 16
    frames = np.arange(16, dtype=np.float32)[None, :, None, None, None]
    video = np.broadcast_to(frames, (1, 16, 224, 224, 3))
    targets = make_targets(video, None, spec, FULL, "none").values
    assert targets.shape == (1, 1568, 768)
    np.testing.assert_array_equal(targets[0, ::196, 0], [0, 2, 4, 6, 8, 10, 12, 15])


def test_values_of_a_patch_lie_in_the_order_u_p_q_c():
    video = np.random.default_rng(0).normal(size=(2, 4, 32, 48, 3)).astype(np.float32)
    for u in (1, 2):
        cut = np.moveaxis(video, -1, 1).reshape(2, 3, 4 // u, u, 2, 16, 3, 16)
        expected = np.einsum("nctuhpwq->nthwupqc", cut).reshape(2, (4 // u) * 6, u * 16 * 16 * 3)
        np.testing.assert_array_equal(patchify(video, u, 16), expected)


def test_variance_is_unbiased_over_all_768_values_and_eps_is_inside_the_root():
    channels = np.tile([1e-3, 2e-3, 5e-3], 256)  # unequal, so that a variance by channel would differ; small, so that eps shows
    patch = (np.random.default_rng(0).normal(size=(1, 1, 768)) * channels).astype(np.float32)
    values, mean, std = normalize_targets(patch, "patch")
    assert mean.shape == std.shape == (1, 1, 1)
    exact = patch.astype(np.float64)
    variance = np.square(exact - exact.mean()).sum() / 767
    np.testing.assert_allclose(std.item(), np.sqrt(variance + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(values, (exact - exact.mean()) / np.sqrt(variance + 1e-6), rtol=1e-4, atol=1e-4)


def test_positions_are_space_repeated_plus_time_interleaved():
    module = Positions("separable", SMALL, 8, has_cls=True)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape) for name, shape in (("space", (4, 8)), ("time", (8, 8)), ("cls", (8,)))}
    table, cls = module.apply({"params": params})
    expected = np.tile(params["space"], (8, 1)) + np.repeat(params["time"], 4, axis=0)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
    for t, s in np.ndindex(8, 4):
        np.testing.assert_allclose(table[t * 4 + s], params["space"][s] + params["time"][t], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cls, params["cls"], rtol=1e-6)


def test_positions_after_masking_equal_positions_before_dropping():
    """Without blocks, so that only the embedding is compared."""
    encoder = Encoder(TransformerConfig(ViTSize(32, 0, 2)), SMALL, "separable", cls_token=True, final_norm=False)
    params = make_params(Autoencoder(encoder, build(SMALL).decoder))["encoder"]
    clip = np.random.default_rng(0).normal(size=(2, 16, 32, 32, 3)).astype(np.float32)
    mask = masking.draw(jax.random.split(jax.random.key(0), 2), SMALL, "random", 0.75, "down")
    encode = jax.jit(encoder.apply)
    visible, everything = encode({"params": params}, clip, mask), encode({"params": params}, clip)
    kept = np.take_along_axis(np.asarray(everything.tokens), np.asarray(mask.ids_keep)[..., None], axis=1)
    np.testing.assert_allclose(visible.tokens, kept, rtol=1e-5, atol=1e-4)
    cls = params["cls"] + params["positions"]["cls"]
    np.testing.assert_allclose(visible.cls, np.tile(cls, (2, 1)), rtol=1e-6)


def test_cls_is_dropped_before_a_decoder_that_has_its_own():
    model = build(SMALL)
    params = make_params(model)
    assert params["encoder"]["cls"].shape == (32,) and params["decoder"]["cls"].shape == (16,)
    mask = masking.draw(jax.random.split(jax.random.key(0), 2), SMALL, "random", 0.75, "down")
    clip = np.random.default_rng(0).normal(size=(2, 16, 32, 32, 3)).astype(np.float32)
    encoded = jax.jit(lambda p: model.apply({"params": p}, clip, mask, method="encode"))(params)
    assert encoded.tokens.shape == (2, 8, 32) and encoded.cls.shape == (2, 32)
    decode = jax.jit(lambda p, e: model.apply({"params": p}, e, mask, method="decode"))
    reference = decode(params, encoded)
    assert reference.shape == (2, 24, 768)
    np.testing.assert_array_equal(decode(params, encoded.replace(cls=encoded.cls[::-1])), reference)
    other = {**params, "decoder": {**params["decoder"], "cls": params["decoder"]["cls"][::-1]}}
    assert np.abs(decode(other, encoded) - reference).max() > 1e-3


def test_recipe_of_the_published_size():
    """ViT-L encoder and a decoder of 512 x 4 that predicts 768 values a token, with its own learned positions."""
    trunk = TransformerConfig(ViTSize(1024, 24, 16))
    decoder = Decoder(DecoderSpec(TransformerConfig(ViTSize(512, 4, 16)), cls="own", target_frames=8), FULL)
    model = Autoencoder(Encoder(trunk, FULL, "separable", cls_token=True), decoder)
    mask = jax.eval_shape(lambda: masking.from_noise(jnp.zeros((1, 1568)), 156))
    clip = jax.ShapeDtypeStruct((1, 16, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), clip, mask)["params"]
    assert params["encoder"]["positions"]["space"].shape == (196, 1024)
    assert params["encoder"]["positions"]["time"].shape == (8, 1024)
    assert params["decoder"]["positions"]["space"].shape == (196, 512)
    assert params["decoder"]["embed"]["bias"].shape == (512,)
    assert params["decoder"]["predict"]["kernel"].shape == (512, 768)


def test_videomae_keeps_160_in_tubes_and_never_unshuffles():
    mask = masking.draw(jax.random.split(jax.random.key(0), 2), FULL, "tube", 0.9)
    assert mask.num_visible == 160 == 8 * (196 - int(0.9 * 196))
    tubes = np.asarray(mask.hidden).reshape(2, 8, 196)
    assert (tubes == tubes[:, :1]).all()
    spec = DecoderSpec(TransformerConfig(ViTSize(16, 1, 2)), "concat", "sincos1d", embed_bias=False)
    decoder = Decoder(spec, FULL)
    tokens = jax.ShapeDtypeStruct((2, 160, 32), jnp.float32)

    def run(tokens):
        return decoder.init_with_output(jax.random.key(0), EncoderOutput(tokens, None), mask)

    lowered = jax.jit(run).lower(tokens).as_text()
    predictions, _ = jax.eval_shape(run, tokens)
    assert predictions.shape == (2, 1408, 1536)
    # The only gathers are those of the position table: [1568, 16] by visible and by hidden tokens.
    gathers = [line for line in lowered.splitlines() if '"stablehlo.gather"' in line]
    assert gathers and all("tensor<1568x16xf32>" in line for line in gathers)


def test_against_a_torch_statement():
    """Predictions, loss and every gradient, on a small grid."""
    if not importlib.util.find_spec("torch"):
        missing("parity", "torch comes with the extra: pip install '.[parity]'")
    import torch

    from tests.interop.comparison import assert_close, relative, tree_errors
    from tests.models import mae_st_torch as statement

    model = build(SMALL, depth=2)
    params = make_params(model)
    rng = np.random.default_rng(1)
    clip = rng.normal(size=(2, 16, 32, 32, 3)).astype(np.float32)
    noise = rng.uniform(size=(2, SMALL.tokens)).astype(np.float32)
    kept = masking.visible_count(SMALL.tokens, 0.9, "down")
    mask = masking.from_noise(jnp.asarray(noise), kept)

    def loss_of(params):
        _, predictions = model.apply({"params": params}, clip, mask)
        targets = make_targets(clip, mask, model.decoder.spec, SMALL, "patch").values
        return masked_mse(predictions, targets).mean(), predictions

    (loss, predictions), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)

    torch_params = statement.to_torch(params)
    video = torch.from_numpy(np.moveaxis(clip, -1, 1).copy())
    latent, restore = statement.encode(torch_params["encoder"], video, torch.from_numpy(noise), 2, 16, kept, heads=2)
    everywhere = statement.decode(torch_params["decoder"], latent, restore, heads=4)
    torch_loss = statement.loss(video, everywhere, restore, kept, 8, 2, 16)
    torch_loss.backward()

    np.testing.assert_array_equal(mask.ids_restore, restore.numpy())
    hidden = np.take_along_axis(everywhere.detach().numpy(), np.asarray(mask.masked)[..., None], axis=1)
    assert_close("mae_st predictions", relative(predictions, hidden))
    assert_close("mae_st loss", abs(float(loss) / torch_loss.item() - 1))
    errors = tree_errors(gradients, statement.gradients(torch_params))
    worst = max(errors, key=errors.get)
    assert_close(f"mae_st gradients (worst: {worst} of {len(errors)})", errors[worst])
