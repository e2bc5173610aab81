"""The part of a model that learns: all of it, the last blocks of its encoder, or low-rank updates beside frozen weights (LoRA)."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Key

# The query and value projections, which Hu et al. (arXiv 2106.09685) adapt in nearly all of their experiments.
LORA_TARGETS = re.compile(r"/attention/(query|value)/kernel$")


def layer_of(path: str, depth: int, temporal: int = 0) -> int:
    """Returns the layer of a classifier's parameter, as MAE and VideoMAE number them.

    0 is the embedding with its positions, cls and register tokens, i + 1 is block i, depth + 1 everything after the blocks. The temporal
    blocks of a factorized encoder, the last `temporal` of `depth`, are numbered on; the norm before them is of the block that it follows.
    """
    block = re.match(r"/encoder/(blocks|temporal)/block(\d+)/", path)
    if block:
        return int(block[2]) + 1 + (depth - temporal if block[1] == "temporal" else 0)
    if path.startswith("/encoder/space_norm/"):
        return depth - temporal
    return 0 if re.match(r"/encoder/(embed|positions|cls|registers)(/|$)", path) else depth + 1


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """The parameters that learn, of an encoder with what stands on it; the others are frozen.

    Attributes:
      kind: `all`; `last`, the last blocks and all that follows them; `lora`, low-rank updates of the queries and values of every block,
        and all that follows the encoder.
      number: of the blocks, or the rank of the updates; 0 for `all`.
      temporal: number of the encoder's blocks that are temporal, the last ones of a factorized encoder.
    """

    kind: str = "all"
    number: int = 0
    temporal: int = 0

    @classmethod
    def parse(cls, text: str, depth: int, width: int = 0, temporal: int = 0) -> "TrainedPart":
        """Reads `all`, `last:4` or `lora:8`.

        Args:
          text: of the config.
          depth: blocks of the encoder.
          width: of the encoder, the largest rank; 0 refuses `lora`.
          temporal: of the attributes.

        Raises:
          ValueError: it has another form, or the encoder has no such part.
        """
        kind, _, number = text.partition(":")
        forms = "all, last:BLOCKS such as last:4" + (", or lora:RANK such as lora:8" if width else "")
        if text == "all":
            return cls()
        largest = {"last": depth, "lora": width}.get(kind, 0)
        if not largest or not number.isascii() or not number.isdigit():
            raise ValueError(f"{text!r} is no part to train: give {forms}")
        if not 1 <= int(number) <= largest:
            what = f"the number of its blocks, of {depth}," if kind == "last" else f"the rank of updates of {width} x {width}"
            raise ValueError(f"{text!r}: {what} must be from 1 to {largest}")
        return cls(kind, int(number), temporal)

    def is_trained(self, path: str, depth: int) -> bool:
        """Returns True if the parameter of a path such as `/encoder/embed/kernel` or `/head/bias` learns; of updates it is False."""
        if self.kind == "last":
            return layer_of(path, depth, self.temporal) > depth - self.number
        return self.kind == "all" or not path.startswith("/encoder/")

    def divide(self, key: Key[Array, ""], params: dict, depth: int) -> tuple[dict, dict | None]:
        """Returns the parameters that learn, new updates among them, and those that are frozen; None where none is.

        Args:
          key: of the updates.
          params: all parameters, in nested dicts.
          depth: blocks of the encoder.
        """
        if self.kind == "all":
            return params, None
        trained, frozen = split(params, lambda path: self.is_trained(path, depth))
        if self.kind == "lora":
            trained = join(trained, init_lora(key, frozen, self.number))
        return trained, frozen


def split(params: dict, holds: Callable[[str], bool]) -> tuple[dict, dict]:
    """Returns nested dicts of the parameters for whose path a condition holds, and of the others."""
    parts: tuple[dict, dict] = {}, {}
    for keys, leaf in traverse_util.flatten_dict(params).items():
        parts[not holds("/" + "/".join(keys))][keys] = leaf
    one, other = map(traverse_util.unflatten_dict, parts)
    return one, other


def join(one: dict, other: dict | None) -> dict:
    """Returns nested dicts that hold the leaves of two that share none; of None as the other, the first."""
    joined = dict(one)
    for key, value in (other or {}).items():
        joined[key] = join(joined[key], value) if key in joined else value
    return joined


def init_lora(key: Key[Array, ""], params: dict, rank: int) -> dict:
    """Returns new low-rank updates, `lora_a` [D, rank] and `lora_b` [rank, D], under the paths of the LORA_TARGETS of `params`.

    `lora_b` is zero, so that the model is at first that of its weights; `lora_a` is uniform in ±1 / √D, as in the code of Hu et al.

    Raises:
      ValueError: there are no such parameters: the encoder is no ViT of this package.
    """
    flat = traverse_util.flatten_dict(params)
    targets = [keys for keys in sorted(flat) if LORA_TARGETS.search("/" + "/".join(keys))]
    if not targets:
        raise ValueError("lora adapts the queries and values of a ViT, and this encoder has none: train all or last:BLOCKS")
    init, updates = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"), {}
    for number, keys in enumerate(targets):
        kernel = flat[keys]
        updates[(*keys[:-1], "lora_a")] = init(jax.random.fold_in(key, number), (kernel.shape[0], rank), kernel.dtype)
        updates[(*keys[:-1], "lora_b")] = jnp.zeros((rank, kernel.shape[1]), kernel.dtype)
    return traverse_util.unflatten_dict(updates)


def merge_lora(params: dict, alpha: float) -> dict:
    """Returns the parameters of a model whose kernels have their updates added: kernel + alpha / rank · lora_a lora_b.

    The kernels of a run are made so in every step, so that modules need no code for updates, and merged weights are those that were
    trained, but for the rounding of one program against another.

    Args:
      params: nested dicts, with or without updates.
      alpha: the strength of the updates, which their rank divides.
    """
    merged: dict[str, Any] = {
        key: merge_lora(value, alpha) if isinstance(value, dict) else value for key, value in params.items()
    }
    if "lora_a" not in merged:
        return merged
    a, b = merged.pop("lora_a"), merged.pop("lora_b")
    # Weights that were read are on the host, and stay there.
    product = a @ b if isinstance(a, np.ndarray) else jnp.matmul(a, b, precision="highest")
    return merged | {"kernel": merged["kernel"] + product * np.float32(alpha / a.shape[1])}
