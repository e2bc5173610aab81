"""Loading of the weights that figures are drawn from."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax

from cvmae.config import UNTRAINED, config_errors, require
from cvmae.interop import hub
from cvmae.interop.adapt import InitFrom, adapt_encoder
from cvmae.interop.compatible import check_compatible
from cvmae.interop.hints import ModelHints
from cvmae.interop.inflate import inflate
from cvmae.interop.load import read
from cvmae.interop.own_checkpoint import has_branch
from cvmae.interop.pretrained import Pretrained, amount
from cvmae.interop.resize import LEARNED, adapt_decoder, decoder_at
from cvmae.interop.saved_run import is_workdir
from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig
from cvmae.parallel.processes import log_once
from cvmae.storage.path import is_remote
from cvmae.visualize.reconstruction import Predicted


@flax.struct.dataclass
class Branch:
    """A branch of the model.

    Attributes:
      params: `encoder`, and `decoder` if there is one.
      encoder: the module, for the grid of the clips that are drawn; those of the image branch have one frame.
      decoder: the spec of the decoder; None without one.
      norm: the normalization of the decoder's targets, one of `reconstruction.NORMS`.
      mean: the mean that pixels were normalized by when the decoder was trained.
      std: the standard deviation that pixels were normalized by when the decoder was trained.
      missing: the reason why there is no decoder, for captions.
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
        """The space of the decoder's predictions. Raises: ValueError without a decoder."""
        return Predicted(self._decoder, self.encoder.grid, self.norm, self.mean, self.std)

    def predict(self, params, clips, mask: masking.Mask) -> jax.Array:
        """Predicts the masked patches of normalized clips, float32 [B, N - K, P]; `params` as the attribute.

        Raises:
          ValueError: there is no decoder.
        """
        module = Autoencoder(self.encoder, Decoder(self._decoder, self.encoder.grid))
        _, predictions = module.bind({"params": params})(clips, mask)
        return predictions

    @property
    def _decoder(self) -> DecoderSpec:
        if self.decoder is None:
            raise ValueError(f"the branch has no decoder: {self.missing}")
        return self.decoder


@flax.struct.dataclass
class Branches:
    """Both branches; without an image branch in the weights, `image` stays None."""

    video: Branch
    image: Branch | None = None


def load_video_branch(start: InitFrom, encoder: Encoder, config) -> tuple[Pretrained, list[str]]:
    """Loads a video encoder for the grid of `encoder`, with the weights' decoder if there is one, of any size.

    Args:
      start: the weights.
      encoder: the encoder that the config describes; other encoders are refused, with the flags to set.
      config: config of the run; see `adapt.load_encoder`.

    Returns:
      Weights for the grid of `encoder`, and notes for the user, one a line.

    Raises:
      ValueError, FileNotFoundError: see `adapt.load_encoder`.
    """
    source = read(start.path, branch=start.branch, hints=ModelHints(encoder.trunk.size.heads, recorded_first=True))
    if start.inflate != "none":
        source = inflate(source, encoder.grid, start.inflate)
    check_compatible(source, encoder, None, start.branch)
    return _fitted(source, encoder, config, start.branch)


def load_image_branch(path: str, config, like: TransformerConfig) -> tuple[Pretrained, list[str]]:
    """Loads an image encoder for frames of config.augment.size, with the kernels and dtypes of `like`.

    Raises:
      ValueError: the encoder takes more than one frame, or the frame size is not a multiple of its patch size; see also
        `adapt.load_encoder`.
    """
    source = read(path, branch="image", hints=ModelHints(like.size.heads, decoder=False, recorded_first=True))
    if source.encoder.grid.num_frames > 1:
        raise ValueError(
            f"{source.name} is an encoder of {source.encoder.grid.num_frames} frames: give an image encoder's weights"
        )
    height, width = config.augment.size
    grid = Grid(1, height, width, 1, source.encoder.grid.patch)
    source = dataclasses.replace(source, decoder=None, head=None)
    encoder = source.vit.clone(grid=grid, trunk=_computing_like(source.vit.trunk, like))
    return _fitted(source, encoder, config, "image")


def _fitted(source: Pretrained, encoder: Encoder, config, branch: str) -> tuple[Pretrained, list[str]]:
    """Adapts the encoder and the decoder of `source` to `encoder`; returns them with notes for the user, one a line."""
    encoder_params, notes = adapt_encoder(source, encoder, config)
    params, decoder = {"encoder": encoder_params}, source.decoder
    lines = [f"{branch} encoder from {source.name}: {amount(encoder_params)}", *source.notes, *notes]
    if decoder is not None:
        decoder = dataclasses.replace(
            decoder_at(decoder, source.encoder.grid, encoder.grid), trunk=_computing_like(decoder.trunk, encoder.trunk)
        )
        params["decoder"], notes = adapt_decoder(source, encoder, decoder, LEARNED)
        lines += [f"{branch} decoder from the same: {amount(params['decoder'])}", *notes]
    return dataclasses.replace(source, encoder=encoder, params=params, decoder=decoder, head=None), lines


def _computing_like(trunk: TransformerConfig, like: TransformerConfig) -> TransformerConfig:
    """Copies from `like` the fields of `trunk` that change how it computes, but not its parameters."""
    return dataclasses.replace(trunk, **{name: getattr(like, name) for name in ("attention", "dtype", "remat", "scan", "rules")})


def load_branches(config, encoder: Encoder, untrained: Callable[[], dict]) -> Branches:
    """Loads the video branch of config.init_from, with its decoder if there is one, and the image branch.

    The image branch is that of config.visualize.image_from, or else of config.init_from if that is a workdir with an image branch.

    Args:
      config: config of task=visualize.
      encoder: the video encoder that it describes.
      untrained: initializes the parameters of that encoder, if config.init_from is `untrained`.

    Raises:
      ConfigError: the weights do not fit; the message lists the flags or arrays.
    """
    if config.init_from == UNTRAINED:
        log_once("figures of an untrained encoder")
        video = Branch({"encoder": untrained()}, encoder, missing="an untrained encoder has no decoder")
    else:
        with config_errors("init_from"):
            start = InitFrom(config.init_from, inflate=config.video_branch.inflate)
            weights, notes = load_video_branch(start, encoder, config)
        log_once(*notes)
        video = _video_branch(weights, config)
    if video.missing:
        log_once(f"no reconstruction is drawn: {video.missing}")
    return Branches(video, _image_branch(config, encoder))


def _video_branch(weights: Pretrained, config) -> Branch:
    """Makes a branch of weights; the decoder is dropped if the normalization of its targets is unknown."""
    norm = weights.target_norm if config.visualize.target_norm == "auto" else config.visualize.target_norm
    if weights.decoder is None or not norm:
        missing = "these weights have no decoder"
        if weights.decoder is not None:
            missing = "the weights do not record the target normalization of their decoder: set config.visualize.target_norm"
        return Branch({"encoder": weights.params["encoder"]}, weights.vit, missing=missing)
    mean, std = (tuple(weights.normalization.get(name, config.augment[name])) for name in ("mean", "std"))
    return Branch(weights.params, weights.vit, weights.decoder, norm, mean, std)


def _image_branch(config, encoder: Encoder) -> Branch | None:
    """Loads the image branch; None for weights without one, or if config.visualize.semantic is `pca`."""
    path, field, wanted = config.visualize.image_from, "visualize.image_from", config.visualize.semantic
    if wanted == "pca":
        return None
    with config_errors("init_from"):
        own = "" if path or config.init_from == UNTRAINED else config.init_from
        own = str(hub.resolve(own)) if is_remote(own) else own
        if own and is_workdir(own):
            path, field = (own if has_branch(own, "image") else ""), "init_from"
    if not path:
        require(
            wanted != "image",
            f"config.visualize.semantic='image', but {config.init_from} has no image branch: set image_from, or take auto or pca",
        )
        return None
    with config_errors(field):
        weights, notes = load_image_branch(path, config, encoder.trunk)
    log_once(*notes)
    return Branch(weights.params, weights.vit)
