"""Attention maps of an encoder: its attention weights, or their rollout, as one value per patch."""

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
    """The choice of an attention map.

    Attributes:
      map: `attention`, the weights of one block; `rollout`, from the input to that block's output (Abnar and Zuidema 2020).
      layer: index of the block, from 0; -1 is the last.
      head: index of a head, from 0; -1 is the mean over heads.
      query: the query tokens: `mean`, the average over all patches; `cls`, the cls token; `patch`, the one at `position`.
      position: (time, row, column) of that patch, as fractions of the clip, each from 0 to 1.
    """

    map: str = "attention"
    layer: int = -1
    head: int = -1
    query: str = "mean"
    position: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def check(self, encoder: Encoder) -> None:
        """Raises ValueError naming the field if the encoder lacks the layer, head or query."""
        size = encoder.trunk.size
        for field, known in (("map", MAPS), ("query", QUERIES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}={getattr(self, field)!r} is unknown: take one of {', '.join(known)}")
        for field, count in (("layer", size.depth), ("head", size.heads)):
            if not -1 <= getattr(self, field) < count:
                raise ValueError(f"{field}={getattr(self, field)} does not exist: expected -1, or 0 to {count - 1} of {count}")
        if self.query == "cls" and not encoder.cls_token:
            raise ValueError("query='cls' needs an encoder with a cls token, and this one has none: take mean or patch")

    def patch_index(self, grid: Grid) -> tuple[int, int, int]:
        """Returns (time, row, column), in patches, of the patch at `position`."""
        time, row, column = (min(int(part * count), count - 1) for part, count in zip(self.position, grid.shape))
        return time, row, column

    def describe(self, encoder: Encoder) -> str:
        """Returns a description for captions."""
        size = encoder.trunk.size
        block = f"block {self.layer % size.depth + 1} of {size.depth}"
        what = f"attention rolled out to {block}" if self.map == "rollout" else f"attention of {block}"
        heads = f"mean of {size.heads} heads" if self.head == -1 else f"head {self.head + 1} of {size.heads}"
        time, row, column = self.patch_index(encoder.grid)
        when = f"temporal position {time + 1}, " if encoder.grid.time_patches > 1 else ""
        marked = f"from the marked patch ({when}row {row + 1}, column {column + 1})"
        return f"{what}, {heads}, { {'mean': 'mean over all queries', 'cls': 'from the cls token', 'patch': marked}[self.query] }"


def attention_weights(encoder: Encoder, params, clips) -> list[jax.Array]:
    """Returns the attention weights of every block on unmasked clips, float32 [B, heads, M, M] each: rows queries, columns keys.

    M is the number of tokens; the cls token, if there is one, is the first, and registers stand behind it.

    Args:
      encoder: the module.
      params: its parameters.
      clips: normalized, [B, T, H, W, 3].
    """
    _, captured = encoder.apply({"params": params}, clips, mutable=[WEIGHTS])
    blocks = captured[WEIGHTS]["blocks"]
    return [blocks[f"block{i}"]["attention"]["weights"][0] for i in range(encoder.trunk.size.depth)]


def rollout(layers: list) -> jax.Array:
    """Attention rollout, float32 [B, M, M]: the contribution of each input token to each output, with residual connections.

    Each block contributes half its attention and half the identity; the blocks are multiplied from the first to the last.

    Args:
      layers: attention of the blocks, [B, M, M] each; rows sum to 1.
    """
    mixed = jnp.eye(layers[0].shape[-1])[None]
    for weights in layers:
        mixed = (0.5 * weights + 0.5 * jnp.eye(weights.shape[-1])) @ mixed
    return mixed


def attention_map(encoder: Encoder, params, clips, spec: AttentionSpec) -> jax.Array:
    """Attention to each patch, float32 [B, T', H/p, W/p], relative to uniform: 1 is the weight 1/M that each of M tokens would get.

    Args:
      encoder: see `attention_weights`, as for `params` and `clips`.
      spec: the map to compute.

    Raises:
      ValueError: the encoder lacks the layer, head or query of `spec`.
    """
    spec.check(encoder)
    layers = attention_weights(encoder, params, clips)[: spec.layer % encoder.trunk.size.depth + 1]
    if spec.map == "attention":
        layers = layers[-1:]
    layers = [weights.mean(1) if spec.head == -1 else weights[:, spec.head] for weights in layers]
    matrix = rollout(layers) if spec.map == "rollout" else layers[-1]
    return map_of_query(matrix, encoder.grid, encoder.prefix, spec)


def map_of_query(matrix, grid: Grid, first: int, spec: AttentionSpec) -> jax.Array:
    """Selects the map of spec.query from attention weights: [B, M, M] -> [B, T', H/p, W/p], in multiples of 1/M.

    Args:
      matrix: the weights.
      grid: of the patches.
      first: number of the first patch's token, behind cls and registers.
      spec: the query.
    """
    if spec.query == "cls":
        row = matrix[:, 0]
    elif spec.query == "mean":
        row = matrix[:, first:].mean(1)
    else:
        row = matrix[:, first + int(np.ravel_multi_index(spec.patch_index(grid), grid.shape))]
    row = row[:, first:] * matrix.shape[-1]
    return rearrange(row, "b (t h w) -> b t h w", t=grid.time_patches, h=grid.rows)
