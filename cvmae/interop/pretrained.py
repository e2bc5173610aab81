"""What any weights hold once they are read: which model they make, its parameters in our tree, and what clips it was fed."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import traverse_util

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.classifier import Classifier
from cvmae.models.vit import Encoder

PARTS = ("encoder", "autoencoder", "classifier")


class WeightsError(ValueError):
    """Weights that do not fit; `problems` lists every reason, one a line."""

    def __init__(self, source: str, problems: list[str]):
        super().__init__(f"{source} does not fit:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = problems


@dataclasses.dataclass(frozen=True)
class Head:
    """What a classifier has beside its encoder; see `cvmae.Classifier`.

    Attributes:
      classes: how many.
      pool: `mean` or `first`.
      eps: of the norm between pooling and head.
      names: of the classes; empty where nobody says.
    """

    classes: int
    pool: str = "mean"
    eps: float = 1e-6
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights from anywhere, in our terms.

    Attributes:
      name: where they are from and of which kind, for messages.
      encoder: the module of `params["encoder"]`, for the grid that it was trained on.
      params: float32 numpy arrays in nested dicts: `encoder`; with a decoder `decoder`; with a head `head` and, where it pools
        the mean, `norm`.
      decoder: of a masked autoencoder, None without one.
      head: of a classifier, None without one.
      target_norm: what the decoder learned to say (`patches.TARGET_NORMS`); empty where that is not known.
      pixels: `mean` and `std` that frames in 0..1 were normalized with, where known.
      notes: what a user should know (what was assumed, cast or changed), one a line.
      ignored: keys of the file that were left out, each with the reason.
      sources: {our path: the key of the file it came from}, where keys differ from our paths.
    """

    name: str
    encoder: Encoder
    params: dict
    decoder: DecoderSpec | None = None
    head: Head | None = None
    target_norm: str = ""
    pixels: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `PARTS` these weights can be."""
        there = {"encoder": True, "autoencoder": self.decoder is not None, "classifier": self.head is not None}
        return tuple(part for part in PARTS if there[part])

    def take(self, part: str = "") -> tuple[Encoder | Autoencoder | Classifier, dict]:
        """A module and its parameters.

        Args:
          part: one of `parts`; empty takes the classifier where there is a head, else the encoder.

        Raises:
          ValueError: there is no such part; the message names those that there are.
        """
        module = self.module(part or ("classifier" if self.head else "encoder"))
        if isinstance(module, Encoder):
            return module, self.params["encoder"]
        return module, {key: self.params[key] for key in shapes(module)}

    def module(self, part: str) -> Encoder | Autoencoder | Classifier:
        """The module of one of `parts`. Raises: ValueError, see `take`."""
        if part not in self.parts:
            raise ValueError(f"{self.name} has no part {part!r}, only {', '.join(self.parts)}")
        if part == "encoder":
            return self.encoder
        if part == "autoencoder":
            return Autoencoder(self.encoder, Decoder(self.decoder, self.encoder.grid))
        return Classifier(self.encoder, self.head.classes, self.head.pool, eps=self.head.eps)

    def only(self, part: str) -> "Pretrained":
        """These weights without what is not of one of `parts`. Raises: ValueError, see `take`."""
        _, params = self.take(part)
        params = {"encoder": params} if part == "encoder" else params
        decoder, head = (value if part == wanted else None for value, wanted in ((self.decoder, PARTS[1]), (self.head, PARTS[2])))
        norm = self.target_norm if decoder else ""
        sources = {path: key for path, key in self.sources.items() if path.split("/")[0] in params}
        return dataclasses.replace(self, params=params, decoder=decoder, head=head, target_norm=norm, sources=sources)

    def summary(self) -> list[str]:
        """Lines that say what is there, from where, what is left out, and what a user should know."""
        there = [part for part in ("encoder", "decoder", "norm", "head") if part in self.params]
        lines = [self.name, *(f"  {part}: {amount(self.params[part])}" for part in there)]
        return lines + [f"left out: {key}, {reason}" for key, reason in self.ignored.items()] + list(self.notes)

    def template(self) -> dict:
        """Shapes and dtypes that `params` should have."""
        if self.parts == ("encoder",):
            return {"encoder": shapes(self.encoder)}
        wanted = {}
        for part in self.parts[1:]:
            wanted |= shapes(self.module(part))
        return wanted


def amount(params: dict) -> str:
    """How much of weights there is."""
    arrays = traverse_util.flatten_dict(params).values()
    return f"{len(arrays)} arrays, {sum(a.size for a in arrays) / 1e6:.2f} M values"


def shapes(module: Encoder | Autoencoder | Classifier) -> dict:
    """Shapes and dtypes of a module's parameters, without making them."""
    grid = module.grid if isinstance(module, Encoder) else module.encoder.grid
    inputs = [jax.ShapeDtypeStruct((1, grid.num_frames, grid.height, grid.width, 3), jnp.float32)]
    if isinstance(module, Autoencoder):
        inputs.append(jax.eval_shape(lambda: masking.from_noise(jnp.zeros((1, grid.tokens)), max(1, grid.tokens // 2))))
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def differences(params: dict, template: dict, sources: dict[str, str] | None = None) -> list[str]:
    """What is missing, left over or mis-shaped in `params` against a template of shapes, one a line.

    Args:
      params: arrays in nested dicts.
      template: leaves with a shape.
      sources: {our path: the key of the file}, for messages.
    """
    found, wanted = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (params, template))
    problems, sources = [], sources or {}
    for path, leaf in wanted.items():
        array, key = found.get(path), f"{sources[path]} for {path}" if path in sources else path
        if array is None:
            problems.append(f"missing: nothing there for {path} {list(leaf.shape)}")
        elif tuple(array.shape) != tuple(leaf.shape):
            problems.append(f"mis-shaped: {key} is {list(array.shape)} in our layout, the model has {list(leaf.shape)}")
    for path in found.keys() - wanted.keys():
        key = f"{sources[path]} belongs at {path}" if path in sources else path
        problems.append(f"left over: {key} {list(found[path].shape)}, which the model does not have")
    return sorted(problems)
