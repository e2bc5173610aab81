"""Weights that were trained on pixels of another mean and deviation take the difference over into their patch embedding."""

import numpy as np

Pixels = dict[str, tuple[float, ...]]


def differ(one: Pixels, other: Pixels) -> bool:
    """Whether two standardisations, each `mean` and `std` of a channel, are not the same."""
    return any(not np.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in ("mean", "std"))


def fold(embed: dict, theirs: Pixels, ours: Pixels) -> dict:
    """The patch embedding that gives for pixels standardised our way what the old one gave for theirs.

    Exact but for rounding: (p - mean) / std is an affine map of every pixel, and so is the embedding. Means and deviations are of
    pixels in 0..1.

    Args:
      embed: `kernel` [(t p p C), D] and `bias` [D].
      theirs: what the embedding was trained on.
      ours: what it will be given.
    """
    mean, std, our_mean, our_std = (np.asarray(a, np.float64) for a in (theirs["mean"], theirs["std"], ours["mean"], ours["std"]))
    by_channel = embed["kernel"].astype(np.float64).reshape(-1, len(mean), embed["kernel"].shape[-1])
    kernel = by_channel * (our_std / std)[:, None]
    bias = embed["bias"] + np.einsum("xcd,c->d", by_channel, (our_mean - mean) / std)
    return {
        "kernel": kernel.reshape(embed["kernel"].shape).astype(embed["kernel"].dtype),
        "bias": bias.astype(embed["bias"].dtype),
    }
