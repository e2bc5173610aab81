"""The rows that every ViT block of transformers has in files, whatever its biases: for `keymap.in_blocks`."""

BLOCK = (
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
