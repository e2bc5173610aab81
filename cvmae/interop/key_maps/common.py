"""Rows (source, target, transform) that the key maps share: layers of ViT blocks, for `keymap.in_blocks`, and recipes' constants."""

from cvmae.interop.keymap import Rule

# The names of transformers, as save_pretrained writes them.
TRANSFORMERS = (
    ("attention.attention.query.weight", "attention/query/kernel", "linear"),
    ("attention.attention.key.weight", "attention/key/kernel", "linear"),
    ("attention.attention.value.weight", "attention/value/kernel", "linear"),
    ("attention.output.dense.weight", "attention/out/kernel", "linear"),
    ("attention.output.dense.bias", "attention/out/bias", "copy"),
    ("layernorm_before.weight", "norm1/scale", "copy"),
    ("layernorm_before.bias", "norm1/bias", "copy"),
    ("layernorm_after.weight", "norm2/scale", "copy"),
    ("layernorm_after.bias", "norm2/bias", "copy"),
    ("intermediate.dense.weight", "mlp_in/kernel", "linear"),
    ("intermediate.dense.bias", "mlp_in/bias", "copy"),
    ("output.dense.weight", "mlp_out/kernel", "linear"),
    ("output.dense.bias", "mlp_out/bias", "copy"),
)

# The names of timm, which MAE, mae_st and VideoMAE share.
TIMM = (
    ("norm1.weight", "norm1/scale", "copy"),
    ("norm1.bias", "norm1/bias", "copy"),
    ("attn.proj.weight", "attention/out/kernel", "linear"),
    ("attn.proj.bias", "attention/out/bias", "copy"),
    ("norm2.weight", "norm2/scale", "copy"),
    ("norm2.bias", "norm2/bias", "copy"),
    ("mlp.fc1.weight", "mlp_in/kernel", "linear"),
    ("mlp.fc1.bias", "mlp_in/bias", "copy"),
    ("mlp.fc2.weight", "mlp_out/kernel", "linear"),
    ("mlp.fc2.bias", "mlp_out/bias", "copy"),
)
# With query, key and value in one matrix, as in MAE and VideoMAE.
FUSED = ("attn.qkv.weight", tuple(f"attention/{name}/kernel" for name in ("query", "key", "value")), "qkv_linear")
FUSED_BIAS = ("attn.qkv.bias", tuple(f"attention/{name}/bias" for name in ("query", "key", "value")), "qkv_copy")

# Attention heads by width; files do not show them.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16}
UNIT_RANGE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # of pixels that stay in 0..1
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def norm(source: str, target: str) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of a layer norm's weight and bias."""
    return ((f"{source}.weight", f"{target}/scale", "copy"), (f"{source}.bias", f"{target}/bias", "copy"))


def linear(source: str, target: str) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of a linear layer's weight and bias."""
    return ((f"{source}.weight", f"{target}/kernel", "linear"), (f"{source}.bias", f"{target}/bias", "copy"))


def patches(source: str, conv: str) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of the patch embedding's weight and bias; `conv` is `conv2d` or `conv3d`."""
    return ((f"{source}.weight", "encoder/embed/kernel", conv), (f"{source}.bias", "encoder/embed/bias", "copy"))


def in_blocks(source: str, branch: str, rows) -> tuple[Rule, ...]:
    """Returns the rules of a stack of blocks.

    Args:
      source: the prefix of a block's keys in the file, with `{i}`.
      branch: `encoder` or `decoder`.
      rows: (name in the file, path or paths of parameters, transform) for each array inside one block.
    """
    rules = []
    for name, target, transform in rows:
        targets = (target,) if isinstance(target, str) else target
        rules.append(Rule(f"{source}.{name}", tuple(f"{branch}/blocks/block{{i}}/{path}" for path in targets), transform))
    return tuple(rules)
