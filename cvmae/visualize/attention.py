"""What an encoder attends to: its own attention weights, or their rollout, read out as one number a patch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from cvmae.models.patches import Grid
from cvmae.models.vit import WEIGHTS, Encoder

MAPS = ("attention", "rollout")
QUERIES = ("mean", "cls", "patch")


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Which attention is drawn.

    Attributes:
      map: `attention`, that of one block; `rollout`, from the input to that block's output (Abnar and Zuidema 2020).
      layer: the number of the block, from 0; -1 the last.
      head: the number of a head, from 0; -1 the mean over heads.
      query: who looks: `mean`, every patch, on average; `cls`, the first token; `patch`, the one at `position`.
      position: (time, row, column) of that patch, as shares of the clip, each from 0 to 1.
    """

    map: str = "attention"
    layer: int = -1
    head: int = -1
    query: str = "mean"
    position: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def check(self, encoder: Encoder) -> None:
        """Raises ValueError, which names the field, where the encoder has nothing of the kind."""
        size = encoder.trunk.size
        for field, known in (("map", MAPS), ("query", QUERIES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r} is unknown: take one of {', '.join(known)}")
        for field, count in (("layer", size.depth), ("head", size.heads)):
            if not -1 <= getattr(self, field) < count:
                raise ValueError(f"{field}={getattr(self, field)} is not there: the encoder has {count}, 0 to {count - 1}; or -1")
        if self.query == "cls" and not encoder.cls_token:
            raise ValueError("query='cls' needs an encoder with a cls token, and this one has none: take mean or patch")

    def place(self, grid: Grid) -> tuple[int, int, int]:
        """The (slot, row, column) of the patch at `position`."""
        return tuple(min(int(share * count), count - 1) for share, count in zip(self.position, grid.shape))

    def describe(self, encoder: Encoder) -> str:
        """In words, for captions."""
        size = encoder.trunk.size
        block = f"block {self.layer % size.depth + 1} of {size.depth}"
        what = f"attention rolled out to {block}" if self.map == "rollout" else f"attention of {block}"
        heads = f"mean of {size.heads} heads" if self.head == -1 else f"head {self.head + 1} of {size.heads}"
        slot, row, column = self.place(encoder.grid)
        when = f"slot {slot + 1}, " if encoder.grid.time_patches > 1 else ""
        marked = f"from the marked patch ({when}row {row + 1}, column {column + 1})"
        return f"{what}, {heads}, { {'mean': 'mean over all queries', 'cls': 'from the cls token', 'patch': marked}[self.query] }"


def attention_of(encoder: Encoder, params, clips) -> list[jax.Array]:
    """The attention weights of every block on whole clips, nothing masked: float32 [B, heads, M, M], rows queries, columns keys.

    M is the number of tokens, with the cls token, where there is one, before the others.

    Args:
      encoder: the module.
      params: its parameters.
      clips: normalized, [B, T, H, W, 3].
    """
    _, kept = encoder.apply({"params": params}, clips, mutable=[WEIGHTS])
    blocks = kept[WEIGHTS]["blocks"]
    return [blocks[f"block{i}"]["attention"]["weights"][0] for i in range(encoder.trunk.size.depth)]


def rollout(layers: list) -> jax.Array:
    """Attention rollout, float32 [B, M, M]: how much of each input token is in each output, residual connections counted.

    Of every block half is its attention and half the identity; blocks are multiplied from the first on.

    Args:
      layers: attention of the blocks, [B, M, M] each, rows summing to 1.
    """
    mixed = jnp.eye(layers[0].shape[-1])[None]
    for weights in layers:
        mixed = (0.5 * weights + 0.5 * jnp.eye(weights.shape[-1])) @ mixed
    return mixed


def attention_map(encoder: Encoder, params, clips, spec: AttentionSpec) -> jax.Array:
    """How much each patch is attended to, float32 [B, T', H/p, W/p], where 1 is an even share of all tokens.

    Args:
      encoder, params, clips: see `attention_of`.
      spec: which attention. Raises: ValueError where the encoder has not got it.
    """
    spec.check(encoder)
    layers = attention_of(encoder, params, clips)[: spec.layer % encoder.trunk.size.depth + 1]
    if spec.map == "attention":
        layers = layers[-1:]
    layers = [weights.mean(1) if spec.head == -1 else weights[:, spec.head] for weights in layers]
    matrix = rollout(layers) if spec.map == "rollout" else layers[-1]
    return read_out(matrix, encoder.grid, encoder.cls_token, spec)


def read_out(matrix, grid: Grid, has_cls: bool, spec: AttentionSpec) -> jax.Array:
    """The map of spec.query out of who attends to whom, [B, M, M] -> [B, T', H/p, W/p], in multiples of 1/M."""
    first = int(has_cls)
    if spec.query == "cls":
        row = matrix[:, 0]
    elif spec.query == "mean":
        row = matrix[:, first:].mean(1)
    else:
        row = matrix[:, first + int(np.ravel_multi_index(spec.place(grid), grid.shape))]
    row = row[:, first:] * matrix.shape[-1]
    return rearrange(row, "b (t h w) -> b t h w", t=grid.time_patches, h=grid.rows)
