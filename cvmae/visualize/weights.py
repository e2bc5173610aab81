"""The weights that pictures are drawn from."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax

from cvmae.config import UNTRAINED, config_errors, require
from cvmae.interop.adapt import InitFrom, adapt_decoder, adapt_encoder, check_compatible
from cvmae.interop.infer_modules import ModelHints
from cvmae.interop.inflate import inflate
from cvmae.interop.load import read
from cvmae.interop.own_checkpoint import has_branch, is_workdir
from cvmae.interop.pretrained import Pretrained, amount
from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig
from cvmae.parallel.processes import log_once
from cvmae.visualize.reconstruction import Predicted


@flax.struct.dataclass
class Branch:
    """One branch of the method.

    Attributes:
      params: `encoder`, and `decoder` where there is one.
      encoder: the module, for the clips (or frames: one frame a clip) that are drawn.
      decoder: what the decoder is; None without one.
      norm: what it says, one of `reconstruction.NORMS`.
      mean, std: what pixels were normalized with where it learned that.
      missing: why there is no decoder, for captions.
    """

    params: dict
    encoder: Encoder = flax.struct.field(pytree_node=False)
    decoder: DecoderSpec | None = flax.struct.field(pytree_node=False, default=None)
    norm: str = flax.struct.field(pytree_node=False, default="")
    mean: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    std: tuple[float, ...] = flax.struct.field(pytree_node=False, default=())
    missing: str = flax.struct.field(pytree_node=False, default="")

    @property
    def predicted(self) -> Predicted:
        """What the decoder's predictions are."""
        return Predicted(self.decoder, self.encoder.grid, self.norm, self.mean, self.std)

    def predict(self, params, clips, mask: masking.Mask) -> jax.Array:
        """The decoder's predictions for normalized clips, float32 [B, N - K, P]; `params` as the attribute."""
        module = Autoencoder(self.encoder, Decoder(self.decoder, self.encoder.grid))
        return module.apply({"params": params}, clips, mask)[1]


@flax.struct.dataclass
class Branches:
    """Both branches, the image's only where the weights have one."""

    video: Branch
    image: Branch | None = None


def load_whole(start: InitFrom, encoder: Encoder, config) -> tuple[Pretrained, list[str]]:
    """A video encoder, and the decoder that the weights have, whatever its size, for the grid of `encoder`.

    Args:
      start: where from.
      encoder: the module that a config describes; weights of another are refused, with the flags to give.
      config: of the run; see `fit.load_encoder`.

    Returns:
      Weights whose grid is that of `encoder`, and what a user should know, one a line.

    Raises:
      ValueError, FileNotFoundError: see `fit.load_encoder`.
    """
    source = read(start.path, branch=start.branch, hints=ModelHints(encoder.trunk.size.heads))
    if start.inflate != "none":
        source = inflate(source, encoder.grid, start.inflate)
    check_compatible(source, encoder, None, start.branch)
    return _fitted(source, encoder, config, start.branch)


def load_image_branch(path: str, config, like: TransformerConfig) -> tuple[Pretrained, list[str]]:
    """An image encoder as the weights describe it, for frames of config.augment.size, computing as the blocks of `like` do.

    Raises:
      ValueError: it takes no single frames, or the frames are no whole patches; else see `fit.load_encoder`.
    """
    source = read(path, branch="image", hints=ModelHints(like.size.heads, decoder=False))
    if source.encoder.grid.num_frames > 1:
        raise ValueError(
            f"{source.name} is an encoder of {source.encoder.grid.num_frames} frames: give an image encoder's weights"
        )
    grid = Grid(1, *config.augment.size, 1, source.encoder.grid.patch)
    source = dataclasses.replace(source, decoder=None, head=None)
    encoder = source.vit.clone(grid=grid, trunk=_computing_like(source.vit.trunk, like))
    return _fitted(source, encoder, config, "image")


def _fitted(source: Pretrained, encoder: Encoder, config, branch: str) -> tuple[Pretrained, list[str]]:
    found, notes = adapt_encoder(source, encoder, config)
    params, decoder = {"encoder": found}, source.decoder
    lines = [f"{branch} encoder from {source.name}: {amount(found)}", *source.notes, *notes]
    if decoder is not None:
        frames = decoder.target_tubelet(source.encoder.grid) * encoder.grid.time_patches
        decoder = dataclasses.replace(
            decoder,
            trunk=_computing_like(decoder.trunk, encoder.trunk),
            target_frames=0 if frames == encoder.grid.num_frames else frames,
        )
        params["decoder"], notes = adapt_decoder(source, encoder, decoder)
        lines += [f"{branch} decoder from the same: {amount(params['decoder'])}", *notes]
    return dataclasses.replace(source, encoder=encoder, params=params, decoder=decoder, head=None), lines


def _computing_like(trunk: TransformerConfig, like: TransformerConfig) -> TransformerConfig:
    """A trunk with another's way to compute, which changes no parameter's meaning."""
    return dataclasses.replace(trunk, **{name: getattr(like, name) for name in ("attention", "dtype", "remat", "scan", "rules")})


def load_branches(config, encoder: Encoder, untrained: Callable[[], dict]) -> Branches:
    """All that pictures are drawn from: the video branch of config.init_from with the decoder that it has, and the image branch.

    The image branch is that of config.visualize.image_from, or else of config.init_from where that is a workdir with one.

    Args:
      config: of task=visualize.
      encoder: the video encoder that it describes.
      untrained: makes that encoder's parameters, where config.init_from is `untrained`.

    Raises:
      ConfigError: what is there does not fit; the message lists the flags or arrays.
    """
    if config.init_from == UNTRAINED:
        log_once("pictures of an untrained encoder")
        video = Branch({"encoder": untrained()}, encoder, missing="an untrained encoder has no decoder")
    else:
        with config_errors("init_from"):
            found, notes = load_whole(InitFrom(config.init_from, inflate=config.video_branch.inflate), encoder, config)
        log_once(*notes)
        video = _video_branch(found, config)
    if video.missing:
        log_once(f"no reconstruction is drawn: {video.missing}")
    return Branches(video, _image_branch(config, encoder))


def _video_branch(found: Pretrained, config) -> Branch:
    """The decoder is left behind where nobody says what it predicts."""
    norm = found.target_norm if config.visualize.target_norm == "auto" else config.visualize.target_norm
    if found.decoder is None or not norm:
        missing = "these weights have no decoder"
        if found.decoder is not None:
            missing = "the weights do not say what their decoder predicts; config.visualize.target_norm may"
        return Branch({"encoder": found.params["encoder"]}, found.vit, missing=missing)
    pixels = {name: tuple(found.normalization.get(name, config.augment[name])) for name in ("mean", "std")}
    return Branch(found.params, found.vit, found.decoder, norm, **pixels)


def _image_branch(config, encoder: Encoder) -> Branch | None:
    """None where there is none, or the semantic row does not want it."""
    path, field, wanted = config.visualize.image_from, "visualize.image_from", config.visualize.semantic
    if wanted == "pca":
        return None
    if not path and config.init_from != UNTRAINED and is_workdir(config.init_from):
        with config_errors("init_from"):
            path, field = (config.init_from if has_branch(config.init_from, "image") else ""), "init_from"
    if not path:
        require(
            wanted != "image", f"config.visualize.semantic='image', but {config.init_from} has no image branch: take auto or pca"
        )
        return None
    with config_errors(field):
        found, notes = load_image_branch(path, config, encoder.trunk)
    log_once(*notes)
    return Branch(found.params, found.vit)
