"""Inflates an image encoder to a video encoder: its patch embedding over a tubelet's frames, its positions over time patches."""

import dataclasses

import einops
import numpy as np

from cvmae.interop.pretrained import Pretrained
from cvmae.models.patches import Grid
from cvmae.models.positions import Positions

KINDS = ("none", "mean", "center", "centre")  # `centre`: the spelling of configs before 0.2


def inflate(source: Pretrained, grid: Grid, kind: str) -> Pretrained:
    """Makes a video encoder with separable positions of an image encoder; its decoder and head are dropped.

    A clip of one frame repeated gets in every time patch the embeddings of that frame: the new temporal positions are zero.

    Args:
      source: weights of an image encoder.
      grid: the number of frames and tubelet of the clips; height and width stay those of the image encoder.
      kind: `mean` gives every frame of a tubelet the image's weights divided by their number (I3D, arXiv 1705.07750);
        `center`, or `centre`, gives them to the middle frame and zeros to the others (ViViT's central frame, arXiv 2103.15691).

    Raises:
      ValueError: the kind is unknown, or the weights are those of a video encoder already.
    """
    if kind not in KINDS[1:]:
        raise ValueError(f"inflate is {kind!r}; expected one of {', '.join(KINDS)}")
    old = source.vit
    if old.grid.num_frames > 1:
        raise ValueError(f"{source.name} is a video encoder of {old.grid.num_frames} frames already: leave inflate at 'none'")
    if old.positions == "rope3d":
        raise ValueError(f"{source.name} has rotary positions, which no table over space can start from: leave inflate at 'none'")
    new_grid = dataclasses.replace(old.grid, num_frames=grid.num_frames, tubelet=grid.tubelet)
    encoder = old.clone(grid=new_grid, positions="separable")
    params = dict(source.params["encoder"])
    module = Positions(old.positions, old.grid, old.trunk.size.width, old.cls_token)
    table, cls = (np.asarray(a) for a in module.apply({"params": params.get("positions", {})}))
    params["positions"] = {"space": table, "time": np.zeros((new_grid.time_patches, table.shape[1]), np.float32)}
    if old.cls_token:
        params["positions"]["cls"] = cls
    kernel = _spread(params["embed"]["kernel"], grid.tubelet, kind)
    params["embed"] = params["embed"] | {"kernel": kernel}
    note = f"image encoder inflated ({kind}) over tubelets of {grid.tubelet} frames and {new_grid.time_patches} time patches"
    return dataclasses.replace(
        source,
        name=f"{source.name}, inflated",
        encoder=encoder,
        params={"encoder": params},
        decoder=None,
        head=None,
        target_norm="",
        notes=(*source.notes, note),
    )


def _spread(kernel: np.ndarray, tubelet: int, kind: str) -> np.ndarray:
    """Spreads a kernel [(p p C), D] over the frames of a tubelet: [(t p p C), D]."""
    fraction = np.full(tubelet, 1 / tubelet) if kind == "mean" else np.eye(tubelet)[tubelet // 2]
    return einops.rearrange(fraction[:, None, None] * kernel, "t pixels d -> (t pixels) d").astype(kernel.dtype)
