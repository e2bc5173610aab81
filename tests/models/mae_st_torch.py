"""A plain torch statement of SpatioTemporalMAE's forward pass and loss, as its paper and code are described in words.

Written for these tests from the description alone: convolution for the patches, full position tables repeated and then
gathered, argsort twice, mask tokens appended and unshuffled. It takes our parameter tree, so that nothing but the
arithmetic is compared.
"""

import numpy as np
import torch
from torch.nn import functional as F

EPS = 1e-6


def _linear(x, p):
    return x @ p["kernel"] + p["bias"]


def _norm(x, p):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], EPS)


def _blocks(x, p, heads: int):
    for i in range(len(p)):
        block = p[f"block{i}"]
        y = _norm(x, block["norm1"])
        split = (*y.shape[:2], heads, y.shape[2] // heads)
        q, k, v = (_linear(y, block["attention"][n]).reshape(split).transpose(1, 2) for n in ("query", "key", "value"))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + _linear(mixed, block["attention"]["out"])
        x = x + _linear(F.gelu(_linear(_norm(x, block["norm2"]), block["mlp_in"])), block["mlp_out"])
    return x


def _table(p):
    """[N, D]: the spatial table repeated for every time patch, plus each row of the temporal one repeated over space."""
    space, time = p["space"], p["time"]
    return space.repeat(len(time), 1) + time.repeat_interleave(len(space), dim=0)


def _gather(x, index):
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[2]))


def patchify(frames, u: int, p: int):
    """[B, 3, T, H, W] -> [B, N, u·p·p·3], values in the order (u, p, q, c)."""
    b, _, t, h, w = frames.shape
    x = frames.reshape(b, 3, t // u, u, h // p, p, w // p, p)
    return torch.einsum("nctuhpwq->nthwupqc", x).reshape(b, (t // u) * (h // p) * (w // p), u * p * p * 3)


def encode(p, video, noise, tubelet: int, patch: int, kept: int, heads: int):
    """Latent visible tokens [B, K, D] without cls, and ids_restore."""
    width = p["embed"]["bias"].shape[0]
    kernel = p["embed"]["kernel"].reshape(tubelet, patch, patch, 3, width).permute(4, 3, 0, 1, 2)
    x = F.conv3d(video, kernel, p["embed"]["bias"], stride=(tubelet, patch, patch)).flatten(2).transpose(1, 2)
    shuffle = torch.argsort(noise, dim=1)
    keep, restore = shuffle[:, :kept], torch.argsort(shuffle, dim=1)
    x = _gather(x, keep) + _table(p["positions"])[keep]
    cls = (p["cls"] + p["positions"]["cls"]).expand(len(x), 1, width)
    x = _norm(_blocks(torch.cat([cls, x], dim=1), p["blocks"], heads), p["norm"])
    return x[:, 1:], restore


def decode(p, latent, restore, heads: int):
    """Predictions [B, N, P] for every patch, cls dropped."""
    x = _linear(latent, p["embed"])
    b, kept, width = x.shape
    x = torch.cat([x, p["mask_token"].expand(b, restore.shape[1] - kept, width)], dim=1)
    x = _gather(x, restore)
    x = torch.cat([p["cls"].expand(b, 1, width), x], dim=1)
    x = x + torch.cat([p["positions"]["cls"][None], _table(p["positions"])])
    x = _norm(_blocks(x, p["blocks"], heads), p["norm"])
    return _linear(x, p["predict"])[:, 1:]


def loss(video, predictions, restore, kept: int, target_frames: int, tubelet: int, patch: int):
    """The masked, normalized pixel loss."""
    frames = video.shape[2]
    u = tubelet * target_frames // frames
    index = torch.linspace(0, frames - 1, target_frames).long()
    target = patchify(torch.index_select(video, 2, index), u, patch)
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    mask = (restore >= kept).float()
    return (((predictions - target) ** 2).mean(-1) * mask).sum() / mask.sum()


def to_torch(tree):
    """Our parameters as torch leaves that take gradients."""
    if isinstance(tree, dict):
        return {k: to_torch(v) for k, v in tree.items()}
    return torch.tensor(np.asarray(tree), requires_grad=True)


def gradients(tree):
    """The gradients of such leaves, as numpy."""
    return {k: gradients(v) for k, v in tree.items()} if isinstance(tree, dict) else tree.grad.numpy()
