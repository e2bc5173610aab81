"""Weights in memory: the modules they belong to, their parameters, and the normalization they were trained with."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import traverse_util

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.backbone import Backbone
from cvmae.models.classifier import Classifier, Loss, Pool
from cvmae.models.factorized import BlockEncoder
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, ViTSize
from cvmae.storage.path import AnyPath

LARGEST_TABLE = 1 << 28  # values of a position table, 1 GiB: damaged sizes would take all of the memory
PARTS = ("encoder", "autoencoder", "classifier")

Normalization = Mapping[str, tuple[float, ...]]  # `mean` and `std` by channel (R, G, B), of pixels in 0..1; empty if unknown


class WeightsError(ValueError):
    """Weights that do not fit; `problems` lists every reason, one a line."""

    def __init__(self, source: str, problems: list[str]):
        super().__init__(f"{source} does not fit:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = problems


def first_line(reason) -> str:
    """Returns the first line of an error or a text."""
    return str(reason).strip().partition("\n")[0]


def unreadable(reasons: Mapping[str, str]) -> list[str]:
    """Returns the problems of arrays that cannot be read, {key: why}, one a line; arrays with one reason share a line."""
    keys_of: dict[str, list[str]] = {}
    for key, why in reasons.items():
        keys_of.setdefault(why, []).append(key)
    return [
        f"{keys[0]} cannot be read: {why}"
        if len(keys) == 1
        else f"{len(keys)} arrays cannot be read, the first is {keys[0]}: {why}"
        for why, keys in keys_of.items()
    ]


@dataclasses.dataclass(frozen=True)
class Head:
    """A classifier's head; see `cvmae.Classifier`.

    Attributes:
      classes: their number.
      pool: `mean`, `first` or `attentive`.
      eps: of the norm between pooling and head, or of the pooler's norms.
      names: the classes' names; empty if unknown.
      loss: `softmax`, one class a clip; or `sigmoid`, each class by itself.
      blocks, heads: of the pooler of `attentive`: its blocks of self-attention, and attention heads.
    """

    classes: int
    pool: Pool = "mean"
    eps: float = 1e-6
    names: tuple[str, ...] = ()
    loss: Loss = "softmax"
    blocks: int = 0
    heads: int = 0

    def __post_init__(self):
        if self.pool == "attentive" and not self.heads:
            raise ValueError("pool='attentive' needs the number of its heads")

    def pooler(self, width: int) -> ViTSize | None:
        """Returns the size of the pooler over tokens of a width; None for other pooling."""
        return ViTSize(width, self.blocks, self.heads) if self.pool == "attentive" else None


@dataclasses.dataclass(frozen=True)
class FrameSampling:
    """The sampling of the frames of the clips that an encoder was trained on; see the fields of the same names in config.data.

    Attributes:
      stride: frames from one frame of a clip to the next.
      fps: if above 0, the stride counts frames at this rate, independent of the file's frame rate.
      square_pixels: True if the aspect ratio of a file's pixels was applied.
    """

    stride: int
    fps: float = 0.0
    square_pixels: bool = True

    def __str__(self) -> str:
        return f"stride={self.stride}, fps={self.fps}, square_pixels={self.square_pixels}"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The place that weights were read from, for the model card of an export.

    Attributes:
      hub_id: their id on the Hugging Face hub, as `hf:owner/name` or with `@revision`; empty if they are not from there.
      checkpoint: WORKDIR/checkpoints/STEP, for weights of a run; else None.
      branch: that of a run, `video` or `image`; else empty.
      averaged: True for the moving average of a run.
    """

    hub_id: str = ""
    checkpoint: AnyPath | None = None
    branch: str = ""
    averaged: bool = False


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights of any kind as modules and parameters of this package.

    Attributes:
      name: their source and kind, for messages.
      encoder: the module of `params["encoder"]`, for the grid that it was trained on.
      params: float32 numpy arrays in nested dicts: `encoder`; with a decoder `decoder`; with a head `head` and, if it pools
        the mean, `norm`, if by attention, `pooler`.
      decoder: that of a masked autoencoder, None without one.
      head: that of a classifier, None without one.
      target_norm: the normalization of the decoder's targets (`patches.TARGET_NORMS`); empty if unknown.
      normalization: `mean` and `std` of the frames in 0..1; empty if unknown.
      notes: what was assumed, cast or changed, for the user, one a line.
      ignored: keys of the file that were left out, each with the reason.
      sources: {path of a parameter: the key of the file it came from}; empty for files of this package.
      sampling: that of the training clips; None if unknown.
      reconstructs: False for an encoder of features (DINOv2, SigLIP, VideoPrism), whose branch is not to reconstruct pixels.
      crop: (height, width) of the frames that the image processor beside them makes; None if unknown or the grid's.
      origin: where they were read from.
      license: their id among the licenses of the Hugging Face hub; empty if unknown.
    """

    name: str
    encoder: Backbone
    params: dict
    decoder: DecoderSpec | None = None
    head: Head | None = None
    target_norm: str = ""
    normalization: Normalization = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    sampling: FrameSampling | None = None
    reconstructs: bool = True
    crop: tuple[int, int] | None = None
    origin: Origin = Origin()
    license: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The `PARTS` that these weights have."""
        present = {"encoder": True, "autoencoder": self.decoder is not None, "classifier": self.head is not None}
        return tuple(part for part in PARTS if present[part])

    @property
    def vit(self) -> Encoder:
        """The encoder, for what only a ViT has. Raises: ValueError, see `vit_of`."""
        return vit_of(self.encoder, self.name)

    @property
    def block_encoder(self) -> BlockEncoder:
        """The encoder, for what only stacks of blocks have. Raises: ValueError, see `block_encoder_of`."""
        return block_encoder_of(self.encoder, self.name)

    def take(self, part: str = "") -> tuple[Backbone | Autoencoder | Classifier, dict]:
        """Returns a module and its parameters.

        Args:
          part: one of `parts`; empty takes the classifier if there is a head, else the encoder.

        Raises:
          ValueError: there is no such part; the message names the existing ones.
        """
        part = part or ("classifier" if self.head else "encoder")
        module = self.module(part)
        return module, self.params["encoder"] if part == "encoder" else {key: self.params[key] for key in shapes(module)}

    def module(self, part: str) -> Backbone | Autoencoder | Classifier:
        """Returns the module of one of `parts`. Raises: ValueError, see `take`."""
        if part == "encoder":
            return self.encoder
        if part == "autoencoder" and self.decoder is not None:
            return Autoencoder(self.encoder, Decoder(self.decoder, self.encoder.grid))
        if part == "classifier" and self.head is not None:
            pooler = self.head.pooler(self.block_encoder.trunk.size.width) if self.head.pool == "attentive" else None
            return Classifier(self.encoder, self.head.classes, self.head.pool, eps=self.head.eps, pooler=pooler)
        raise ValueError(f"{self.name} has no part {part!r}, only {', '.join(self.parts)}")

    def only(self, part: str) -> "Pretrained":
        """Returns the weights of one of `parts` alone. Raises: ValueError, see `take`."""
        _, params = self.take(part)
        params = {"encoder": params} if part == "encoder" else params
        decoder = self.decoder if part == "autoencoder" else None
        head = self.head if part == "classifier" else None
        norm = self.target_norm if decoder else ""
        sources = {path: key for path, key in self.sources.items() if path.split("/")[0] in params}
        return dataclasses.replace(self, params=params, decoder=decoder, head=head, target_norm=norm, sources=sources)

    def summary(self) -> list[str]:
        """Lists the source, its parts with their sizes, what was left out, and the notes, one a line."""
        present = [part for part in ("encoder", "decoder", "norm", "pooler", "head") if part in self.params]
        lines = [self.name, *(f"  {part}: {amount(self.params[part])}" for part in present)]
        made = "the image processor beside the weights makes frames of {}x{}: cvmae.load and cvmae.load_encoder take them"
        return lines + self.left_out() + list(self.notes) + ([made.format(*self.crop)] if self.crop else [])

    def left_out(self) -> list[str]:
        """Lists the keys of the file that were left out, with the reason; many keys with one reason are one line."""
        keys: dict[str, list[str]] = {}
        for key, reason in self.ignored.items():
            keys.setdefault(reason, []).append(key)
        lines = []
        for reason, names in keys.items():
            many = f"{names[0]} ... {names[-1]} ({len(names)} keys)"
            lines += [f"left out: {name}, {reason}" for name in (names if len(names) < 5 else [many])]
        return lines

    def template(self) -> dict:
        """Returns the shapes and dtypes that `params` should have."""
        if self.parts == ("encoder",):
            return {"encoder": shapes(self.encoder)}
        wanted: dict = {}
        for part in self.parts[1:]:
            wanted |= shapes(self.module(part))
        return wanted


def vit_of(encoder: Backbone, name: str) -> Encoder:
    """Returns an encoder that is a ViT.

    Raises:
      ValueError: it is another backbone; the message begins with `name`.
    """
    if not isinstance(encoder, Encoder):
        kind = type(encoder).__name__
        raise ValueError(
            f"{name} has the encoder {kind}: blocks are read, drawn, inflated and exported for the backbone vit alone"
        )
    return encoder


def block_encoder_of(encoder: Backbone, name: str) -> BlockEncoder:
    """Returns an encoder whose weights other projects have: a ViT or a factorized encoder. Raises: ValueError, as `vit_of`."""
    if not isinstance(encoder, BlockEncoder):
        kind = type(encoder).__name__
        raise ValueError(f"{name} has the encoder {kind}: weights are adapted for the backbones vit and factorized alone")
    return encoder


def amount(params: dict) -> str:
    """Returns the number of arrays and values, in words."""
    arrays = traverse_util.flatten_dict(params).values()
    return f"{len(arrays)} arrays, {sum(a.size for a in arrays) / 1e6:.2f} M values"


def too_large(grid: Grid, width: int) -> str:
    """Returns why a position table of the tokens of a grid cannot be made; empty if it can."""
    if grid.tokens * width <= LARGEST_TABLE:
        return ""
    clip = f"{grid.num_frames} frames of {grid.height}x{grid.width} in patches of {grid.patch}"
    return f"{clip} make {grid.tokens} tokens of width {width}, more than fit in memory"


def shapes(module: Backbone | Autoencoder | Classifier) -> dict:
    """Returns the shapes and dtypes of a module's parameters, without making them."""
    grid = module.encoder.grid if isinstance(module, Autoencoder | Classifier) else module.grid
    inputs = [jax.ShapeDtypeStruct((1, grid.num_frames, grid.height, grid.width, 3), jnp.float32)]
    if isinstance(module, Autoencoder):
        inputs.append(jax.eval_shape(lambda: masking.from_noise(jnp.zeros((1, grid.tokens)), max(1, grid.tokens // 2))))
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def differences(params: dict, template: dict, sources: dict[str, str] | None = None) -> list[str]:
    """Lists what is missing, left over or mis-shaped in `params` against a template of shapes, one a line.

    Args:
      params: arrays in nested dicts.
      template: leaves with a shape.
      sources: {path: the key of the file}, for messages.
    """
    flat, wanted = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (params, template))
    problems, sources = [], sources or {}
    for path, leaf in wanted.items():
        array, key = flat.get(path), f"{sources[path]} for {path}" if path in sources else path
        if array is None:
            problems.append(f"missing: nothing there for {path} {list(leaf.shape)}")
        elif tuple(array.shape) != tuple(leaf.shape):
            problems.append(
                f"mis-shaped: {key} is {list(array.shape)} in this package's layout, the model has {list(leaf.shape)}"
            )
    for path in flat.keys() - wanted.keys():
        key = f"{sources[path]} belongs at {path}" if path in sources else path
        problems.append(f"left over: {key} {list(flat[path].shape)}, which the model does not have")
    return sorted(problems)
