"""transformers' models as oracles: random weights, saved by them and loaded by this package; needs the test extra `parity`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from cvmae.interop.convert import import_arrays
from cvmae.interop.key_maps.mae import HF_VIT_MAE
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE
from cvmae.interop.pretrained import differences
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec, make_targets
from cvmae.models.patches import AnyArray, Grid
from cvmae.models.vit import Encoder, QKVBias, TransformerConfig, ViTSize
from cvmae.objective.losses import masked_mse
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.parity import torch, transformers

MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # ImageNet's, as transformers un-normalizes with
STD = np.array([0.229, 0.224, 0.225], np.float32)
build_2d_sinusoidal_position_embedding = transformers.models.vit_mae.modeling_vit_mae.build_2d_sinusoidal_position_embedding
transformers.logging.set_verbosity_error()


@dataclasses.dataclass
class Run:
    """The outputs of one implementation.

    Attributes:
      hidden: states after each encoder block.
      encoded: the encoder's output, cls first if there is one.
      predictions: for masked patches, in the order of the mask.
      everywhere: for all patches; None where the implementation does not give them.
      loss: the loss.
      gradients: as a tree of this package's parameters; None if they were not taken.
    """

    hidden: list
    encoded: AnyArray
    predictions: AnyArray
    everywhere: AnyArray | None
    loss: float
    gradients: dict | None


def shake(model, seed: int):
    """Adds noise to every trained parameter, so that no bias is 0 and no scale 1 (which would hide a swap)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def with_tables(model):
    """The model with the position tables of published weights, which transformers 5 leaves at zero in a fresh model."""
    embeddings, decoder = model.vit.embeddings, model.decoder
    for table in (embeddings.position_embeddings, decoder.decoder_pos_embed):
        side, width = round((table.shape[1] - 1) ** 0.5), table.shape[2]
        rows = build_2d_sinusoidal_position_embedding(side, side, width, cls_token=True)
        # Published weights have the column's half first; transformers' own initialization swaps the halves likewise.
        table.data.copy_(torch.cat([rows[:, width // 2 :], rows[:, : width // 2]], dim=1)[None])
    return model


def stored(folder) -> dict[str, np.ndarray]:
    """The arrays that save_pretrained wrote."""
    return load_file(folder / "model.safetensors")


def gradients_by_file_key(model) -> dict[str, np.ndarray]:
    """The gradients of a model that was run backward, under the keys of its parameters."""
    return {name: p.grad.numpy() for name, p in model.named_parameters() if p.requires_grad}


def trunk(config, prefix: str, qkv_bias: QKVBias) -> TransformerConfig:
    """The trunk for the encoder (prefix '') or decoder (prefix 'decoder_') of a transformers config."""
    width = getattr(config, f"{prefix}hidden_size")
    ratio = getattr(config, f"{prefix}intermediate_size") / width
    size = ViTSize(width, getattr(config, f"{prefix}num_hidden_layers"), getattr(config, f"{prefix}num_attention_heads"), ratio)
    return TransformerConfig(size, qkv_bias, eps=config.layer_norm_eps)


def videomae_module(config) -> Autoencoder:
    """The module for a VideoMAEConfig."""
    grid = Grid(config.num_frames, config.image_size, config.image_size, config.tubelet_size, config.patch_size)
    bias: QKVBias = "qv" if config.qv_bias else "none"
    encoder = Encoder(trunk(config, "", bias), grid, "sincos1d", final_norm=not config.use_mean_pooling)
    spec = DecoderSpec(trunk(config, "decoder_", bias), "concat", "sincos1d", embed_bias=False, norm_eps=1e-5)
    return Autoencoder(encoder, Decoder(spec, grid))


def vit_mae_module(config) -> Autoencoder:
    """The module for a ViTMAEConfig."""
    grid = Grid(1, config.image_size, config.image_size, 1, config.patch_size)
    bias: QKVBias = "qkv" if config.qkv_bias else "none"
    encoder = Encoder(trunk(config, "", bias), grid, "sincos2d", cls_token=True)
    spec = DecoderSpec(trunk(config, "decoder_", bias), "unshuffle", "sincos2d", "encoder", norm_eps=config.layer_norm_eps)
    return Autoencoder(encoder, Decoder(spec, grid))


def run_module(
    module: Autoencoder, params, clip, target_clip, mask, norm: str, predict_all: bool = False, backward: bool = True
) -> Run:
    """The module's forward pass and, if wanted, the backward one, in one compiled program; `predict_all` fills `Run.everywhere`."""

    def loss_of(params):
        (encoded, predictions), state = module.apply({"params": params}, clip, mask, mutable=["intermediates"])
        targets = make_targets(target_clip, mask, module.decoder.spec, module.encoder.grid, norm).values
        everywhere = module.apply({"params": params}, encoded, mask, True, method="decode") if predict_all else None
        hidden = state["intermediates"]["encoder"]["blocks"]["hidden"]
        return masked_mse(predictions, targets).mean(), (hidden, encoded, predictions, everywhere)

    run = jax.value_and_grad(loss_of, has_aux=True) if backward else lambda params: (loss_of(params), None)
    (loss, aux), gradients = jax.jit(run)(params)
    hidden, encoded, predictions, everywhere = aux
    tokens = encoded.tokens if encoded.cls is None else jnp.concatenate([encoded.cls[:, None], encoded.tokens], axis=1)
    return Run(hidden, tokens, predictions, everywhere, float(loss), gradients)


def compare(actual: Run, reference: Run, name: str):
    """Asserts that states, predictions, loss and, where it was taken, the whole gradient agree."""
    assert len(actual.hidden) == len(reference.hidden)
    assert_close(f"{name} encoder states", max(map(relative, actual.hidden, reference.hidden)))
    assert_close(f"{name} encoder output", relative(actual.encoded, reference.encoded))
    assert_close(f"{name} predictions", relative(actual.predictions, reference.predictions))
    if reference.everywhere is not None:
        assert_close(f"{name} predictions for visible patches too", relative(actual.everywhere, reference.everywhere))
    assert_close(f"{name} loss", abs(actual.loss - reference.loss) / reference.loss)
    if reference.gradients is None:
        return
    errors = tree_errors(actual.gradients, reference.gradients)
    worst = max(errors, key=lambda name: errors[name])
    assert_close(f"{name} gradients (worst: {worst} of {len(errors)})", errors[worst])


def tree_of(model, key_map, template):
    """The gradients of a transformers model as a tree of this package's parameters, through the key map that reads its weights."""
    converted = import_arrays(gradients_by_file_key(model), key_map)
    problems = converted.problems + differences(converted.tree, template)
    assert not problems, problems
    return converted.tree


def forward_backward(model, base, key_map, template, backward, *args, **kwargs):
    """Runs a transformers model; gives its output and (states, encoder output, gradients as a tree or None)."""
    kept = []
    handle = base.register_forward_hook(lambda module, inputs, output: kept.append(output.last_hidden_state))
    out = model(*args, output_hidden_states=True, **kwargs)
    handle.remove()
    if backward:
        out.loss.backward()
    states = [h.detach().numpy() for h in out.hidden_states[1:]]
    return out, (states, kept[0].detach().numpy(), tree_of(model, key_map, template) if backward else None)


def videomae_run(model, clip, hidden_tokens, template, backward: bool = True) -> Run:
    """transformers' forward and backward pass on clip [B, T, H, W, 3], ImageNet-normalized; hidden_tokens bool [B, N]."""
    pixels = torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 1, 4, 2, 3)))
    hidden_tokens = torch.from_numpy(np.array(hidden_tokens))
    out, (states, encoded, gradients) = forward_backward(
        model, model.videomae, HF_VIDEOMAE, template, backward, pixels, bool_masked_pos=hidden_tokens
    )
    return Run(states, encoded, out.logits.detach().numpy(), None, out.loss.item(), gradients)


def vit_mae_run(model, image, noise, template, backward: bool = True) -> tuple[Run, np.ndarray]:
    """transformers' pass on image [B, H, W, 3] with noise [B, N]: the run, and ids_restore [B, N]."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    out, (states, encoded, gradients) = forward_backward(
        model, model.vit, HF_VIT_MAE, template, backward, pixels, noise=torch.from_numpy(noise)
    )
    everywhere, restore = out.logits.detach().numpy(), out.ids_restore.numpy()
    kept = int((out.mask[0] == 0).sum())
    np.testing.assert_array_equal(out.mask.numpy() == 1, restore >= kept)
    masked = np.argsort(restore, axis=1)[:, kept:]
    predictions = np.take_along_axis(everywhere, masked[..., None], axis=1)
    return Run(states, encoded, predictions, everywhere, out.loss.item(), gradients), restore
