"""mae_st's files (facebookresearch's SpatioTemporalMAE, `.pth`): separate query, key and value, learned positions."""

from cvmae.interop.key_maps.common import HEADS, TIMM, in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule

_BLOCK = (
    *TIMM,
    *linear("attn.q", "attention/query"),
    *linear("attn.k", "attention/key"),
    *linear("attn.v", "attention/value"),
)
_NORMALIZATION = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}


def _separable(prefix: str, branch: str) -> tuple[Rule, ...]:
    """Separate tables over space and time, the recipe's `sep_pos_embed`."""
    return (
        Rule(f"{prefix}pos_embed_spatial", f"{branch}/positions/space", "rows"),
        Rule(f"{prefix}pos_embed_temporal", f"{branch}/positions/time", "rows"),
        Rule(f"{prefix}pos_embed_class", f"{branch}/positions/cls", "token"),
    )


def _joint(prefix: str, branch: str) -> tuple[Rule, ...]:
    """A single table over all tokens, cls first."""
    paths = (f"{branch}/positions/cls", f"{branch}/positions/table")
    return (Rule(f"{prefix}pos_embed", paths, "token_and_rows"),)


def _joint_without_cls(prefix: str, branch: str) -> tuple[Rule, ...]:
    return (Rule(f"{prefix}pos_embed", f"{branch}/positions/table", "rows"),)


def _encoder(positions) -> tuple[Rule, ...]:
    rows = (("cls_token", "encoder/cls", "token"), *patches("patch_embed.proj", "conv3d"))
    return (*(Rule(*row) for row in rows), *in_blocks("blocks.{i}", "encoder", _BLOCK), *positions("", "encoder"))


def _pretraining(layout: str, signature: tuple[str, ...], positions) -> KeyMap:
    rows = (
        *norm("norm", "encoder/norm"),
        *linear("decoder_embed", "decoder/embed"),
        ("mask_token", "decoder/mask_token", "token"),
        ("decoder_cls_token", "decoder/cls", "token"),
        *norm("decoder_norm", "decoder/norm"),
        *linear("decoder_pred", "decoder/predict"),
    )
    blocks = in_blocks("decoder_blocks.{i}", "decoder", _BLOCK)
    return KeyMap(
        kind="mae_st",
        layout=layout,
        signature=("patch_embed.proj.", "blocks.0.attn.q.", "!head.", *signature),
        rules=(*_encoder(positions), *(Rule(*row) for row in rows), *blocks, *positions("decoder_", "decoder")),
        encoder={"eps": 1e-6},
        decoder={"layout": "unshuffle", "norm_eps": 1e-6},
        heads=HEADS,
        decoder_heads={512: 16},
        normalization=_NORMALIZATION,
        target_norm="patch",
    )


def _classifier(layout: str, signature: tuple[str, ...], positions) -> KeyMap:
    """The fine-tuned model pools the mean, cls left out, before the norm that was the encoder's last."""
    return KeyMap(
        kind="mae_st",
        layout=layout,
        signature=("patch_embed.proj.", "blocks.0.attn.q.", "head.", *signature),
        rules=(*_encoder(positions), *(Rule(*row) for row in (*norm("norm", "norm"), *linear("head", "head")))),
        encoder={"cls_token": True, "eps": 1e-6},
        head={"eps": 1e-6},
        heads=HEADS,
        normalization=_NORMALIZATION,
    )


_POSITIONS = {
    "separable positions": (("pos_embed_spatial",), _separable),
    "one table of positions": (("pos_embed", "cls_token", "!pos_embed_"), _joint),
    "one table of positions, no cls": (("pos_embed", "!cls_token", "!pos_embed_"), _joint_without_cls),
}
MAE_ST = (
    *(_pretraining(f"pre-training, {name}", *args) for name, args in _POSITIONS.items()),
    # Without a cls token the original's classifier leaves out the first patch instead, which `Classifier` does not.
    *(
        _classifier(f"fine-tuned, {name}", ("cls_token", *signature), positions)
        for name, (signature, positions) in _POSITIONS.items()
        if positions is not _joint_without_cls
    ),
)
