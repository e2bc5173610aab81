"""Fits weights to the modules of a run: position tables, normalization, dtypes; refuses other models with the flags to set."""

import dataclasses
import shlex

import numpy as np
from flax import traverse_util

from cvmae.interop.infer_modules import ModelHints
from cvmae.interop.inflate import inflate
from cvmae.interop.load import read
from cvmae.interop.pretrained import Normalization, Pretrained, WeightsError, amount, differences, vit_of
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.backbone import Backbone
from cvmae.models.classifier import Classifier
from cvmae.models.positions import Positions, interpolate_params
from cvmae.models.vit import VIT_SIZES, Encoder, ViTSize, decode_variant

# Fields of a branch that must agree for parameters to mean the same. The number and size of frames may differ.
ENCODER_FIELDS = {
    "variant": lambda encoder: (encoder.trunk.size, encoder.grid.patch),
    "tubelet": lambda encoder: encoder.grid.tubelet,
    "positions": lambda encoder: encoder.positions,
    "cls_token": lambda encoder: encoder.cls_token,
    "qkv_bias": lambda encoder: encoder.trunk.qkv_bias,
    "eps": lambda encoder: encoder.trunk.eps,
    "mlp": lambda encoder: encoder.trunk.mlp,
}
# The decoder's layout may differ: all layouts give the same predictions.
DECODER_FIELDS = {
    "decoder.width": lambda decoder: decoder.trunk.size.width,
    "decoder.depth": lambda decoder: decoder.trunk.size.depth,
    "decoder.heads": lambda decoder: decoder.trunk.size.heads,
    "decoder.positions": lambda decoder: decoder.positions,
    "decoder.cls": lambda decoder: decoder.cls,
    "decoder.embed_bias": lambda decoder: decoder.embed_bias,
    "mlp": lambda decoder: decoder.trunk.mlp,  # one field of both
    "decoder.norm_eps": lambda decoder: decoder.norm_eps,
}


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """The weights that a branch of a run starts from.

    Attributes:
      path: see `load.read`.
      branch: `video` or `image`: the config's branch, and the branch to take from a workdir.
      decoder: True to take the decoder too, if both sides have one.
      inflate: how an image encoder becomes the video branch's; see `inflate.KINDS`.
    """

    path: str
    branch: str = "video"
    decoder: bool = True
    inflate: str = "none"


def load_encoder(start: InitFrom, encoder: Backbone, config=None) -> tuple[dict, list[str]]:
    """Loads the parameters of a video or image encoder, adapted to the grid of `encoder`.

    Learned positions of another grid are interpolated; fixed ones are computed for the new grid, and `positions='learned'`
    starts from a table of any kind, interpolated. The last norm is dropped if `encoder` has none.

    Args:
      start: the weights.
      encoder: the encoder to fill.
      config: the config of the run; if given, the patch embedding of weights that were trained with another normalization than
        augment.mean and augment.std is adapted to these.

    Returns:
      float32 numpy arrays in nested dicts, and notes for the user, one a line.

    Raises:
      ValueError: the weights are of another kind of encoder, and the message lists the fields as flags to copy; or `encoder` is
        no ViT. WorkdirError or WeightsError: the weights are damaged or do not fit.
      FileNotFoundError: there are no such weights.
    """
    params, notes = load_branch(start, encoder, None, config)
    return params["encoder"], notes


def encoder_fields(start: InitFrom, variant: str = "") -> dict:
    """Returns the fields of a branch that describe the encoder of some weights, as a config has them.

    Args:
      start: the weights; with `inflate`, the encoder is the video encoder that they become, of the default tubelet.
      variant: the size if it is known: some files do not record their number of attention heads.

    Raises:
      ValueError: no variant has the size of the encoder; else see `load_encoder`.
    """
    heads = decode_variant(variant)[0].heads if variant else 0
    source = read(start.path, branch=start.branch, hints=ModelHints(heads, decoder=False))
    fields = {field: get(source.vit) for field, get in ENCODER_FIELDS.items()}
    fields |= {"variant": _variant(*fields["variant"]), "final_norm": source.vit.final_norm}
    if source.vit.trunk.size not in VIT_SIZES.values():
        raise ValueError(f"the encoder in {source.name} is of {fields['variant']}")
    if start.inflate != "none":
        del fields["tubelet"], fields["positions"]
    return fields


def load_branch(start: InitFrom, encoder: Backbone, decoder: DecoderSpec | None, config=None) -> tuple[dict, list[str]]:
    """Loads the parameters of a masked autoencoder: `encoder`, and `decoder` if the weights have one and it is wanted.

    Args, Returns, Raises: see `load_encoder`; `decoder`: the decoder to fill, None for none.
    """
    if not start.decoder:
        decoder = None
    vit = vit_of(encoder, f"{start.branch}_branch")
    hints = ModelHints(vit.trunk.size.heads, decoder.trunk.size.heads if decoder else 0, decoder=decoder is not None)
    source = read(start.path, branch=start.branch, hints=hints)
    if start.inflate != "none":
        source = inflate(source, vit.grid, start.inflate)
    decoder = decoder if source.decoder else None
    check_compatible(source, vit, decoder, start.branch)
    params, notes = adapt_encoder(source, vit, config)
    lines = [f"{start.branch}_branch encoder from {source.name}: {amount(params)}", *source.notes, *notes]
    lines += [f"left out: {key}, {reason}" for key, reason in source.ignored.items()]
    if decoder is None:
        return {"encoder": params}, lines
    decoder_params, notes = adapt_decoder(source, vit, decoder)
    lines += [f"{start.branch}_branch decoder from the same: {amount(decoder_params)}", *notes]
    return {"encoder": params, "decoder": decoder_params}, lines


def load_classifier(start: InitFrom, classifier: Classifier, names: tuple[str, ...] = (), config=None) -> tuple[dict, list[str]]:
    """Loads the parameters of a classifier: `encoder`, `norm` if it has one, and `head`.

    Args:
      start: the weights.
      classifier: the module to fill.
      names: the names of its classes, in order; compared with those of the weights, if these record any.
      config: see `load_encoder`.

    Returns, Raises: see `load_encoder`; also ValueError if the weights have no head, or one of other classes.
    """
    encoder = vit_of(classifier.encoder, f"{start.branch}_branch")
    source = read(start.path, hints=ModelHints(encoder.trunk.size.heads, decoder=False))
    head = source.head
    if head is None:
        raise ValueError(f"{source.name} has no head: give a classifier's weights, or config.head.init=new")
    pairs = {"head.pool": (head.pool, classifier.pool), "head.eps": (head.eps, classifier.eps)}
    flags = {field: source_value for field, (source_value, value) in pairs.items() if source_value != value}
    if flags:
        raise ValueError(_refusal(source, flags))
    if head.classes != classifier.classes:
        raise ValueError(
            f"the head in {source.name} has {head.classes} classes, the data {classifier.classes}: take head.init=new"
        )
    other = [f"{i}: {a!r} there, {b!r} here" for i, (a, b) in enumerate(zip(head.names, names)) if a != b]
    if head.names and names and other and not _are_placeholders(head.names) and not _are_placeholders(names):
        raise ValueError(f"the classes of {source.name} are not the data's, first {', '.join(other[:3])}: number them alike")
    check_compatible(source, encoder, None, start.branch)
    params, notes = adapt_encoder(source, encoder, config)
    lines = [f"classifier of {head.classes} classes from {source.name}: {amount(source.params)}", *source.notes, *notes]
    return {"encoder": params} | {part: source.params[part] for part in ("norm", "head") if part in source.params}, lines


def _are_placeholders(names: tuple[str, ...]) -> bool:
    """Returns True if class names only count: the default names of transformers, or the data's numbers."""
    return all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(names))


def check_compatible(source: Pretrained, encoder: Encoder, decoder: DecoderSpec | None, branch: str) -> None:
    """Raises ValueError, with the flags to copy, if weights belong to other modules than those to fill."""
    flags = _differing(ENCODER_FIELDS, source.vit, encoder)
    if encoder.positions == "learned":
        flags.pop("positions", None)
    # A fine-tuned classifier that pools the mean has no last norm, whatever its config says.
    if encoder.final_norm and not source.encoder.final_norm:
        flags["final_norm"] = False
    if source.encoder.grid.time_patches == 1 and encoder.grid.time_patches > 1 and source.encoder.grid.tubelet == 1:
        raise ValueError(
            f"{source.name} is an encoder of images: give config.{branch}_branch.inflate (mean or center) to start a video encoder from it"
        )
    if decoder is not None:
        assert source.decoder is not None  # the caller asks for none where the weights have none
        flags |= _differing(DECODER_FIELDS, source.decoder, decoder)
        tubelet = source.decoder.target_tubelet(source.encoder.grid)
        if tubelet != decoder.target_tubelet(encoder.grid):
            flags["decoder.target_frames"] = tubelet * encoder.grid.time_patches
    if flags:
        or_not = f" - or leave its decoder out by --config.{branch}_branch.init_decoder=False" if _of_decoder(flags) else ""
        flags = {f"{branch}_branch.{field}": value for field, value in flags.items()}
        raise ValueError(f"{_refusal(source, flags)}{or_not}")


def _refusal(source: Pretrained, flags: dict) -> str:
    text = " ".join(shlex.quote(f"--config.{field}={_flag_value(field, value)}") for field, value in flags.items())
    return f"the model in {source.name} was trained with other settings: give other weights, or these flags: {text}"


def _of_decoder(flags) -> bool:
    return any(field.startswith("decoder.") for field in flags)


def _differing(fields: dict, source_module, module) -> dict:
    """Returns {field: its value in the weights' module} for the fields in which the two modules differ."""
    return {field: get(source_module) for field, get in fields.items() if get(source_module) != get(module)}


def _flag_value(field: str, value) -> str:
    """Writes a setting as the command line takes it."""
    return _variant(*value) if field.endswith("_branch.variant") else str(value)


def _variant(size: ViTSize, patch: int) -> str:
    names = [name for name, known in VIT_SIZES.items() if known == size]
    return f"{names[0] if names else f'<{size}, which no variant has>'}/{patch}"


def adapt_encoder(source: Pretrained, encoder: Encoder, config=None) -> tuple[dict, list[str]]:
    """Adapts the encoder's arrays to another grid and to a config's normalization; returns them, and notes on what changed."""
    params, notes = dict(source.params["encoder"]), []
    positions, position_notes = adapt_positions(params.pop("positions", {}), source.vit, encoder)
    if positions:
        params["positions"] = positions
    if not encoder.final_norm and params.pop("norm", None) is not None:
        notes.append("norm left out: an encoder with final_norm=False has no last norm")
    target = None if config is None else {name: tuple(config["augment"][name]) for name in ("mean", "std")}
    if target and not source.normalization:
        notes.append("the weights do not record their normalization: taken to be augment.mean and augment.std")
    elif target and normalizations_differ(source.normalization, target):
        params["embed"] = fold_normalization(params["embed"], source.normalization, target)
        values = ", ".join(f"{name} {value}" for name, value in source.normalization.items())
        notes.append(f"patch embedding fitted to this config's augment.mean and augment.std (trained on {values}): same outputs")
    return params, notes + position_notes


def adapt_decoder(source: Pretrained, encoder: Encoder, decoder: DecoderSpec) -> tuple[dict, list[str]]:
    """Adapts the decoder's arrays to another grid; returns them, and notes on what changed."""
    assert source.decoder is not None  # the caller asks for none where the weights have none
    params = dict(source.params["decoder"])
    old, new = (
        Encoder(spec.trunk, grid, spec.positions, spec.cls != "none")
        for spec, grid in ((source.decoder, source.encoder.grid), (decoder, encoder.grid))
    )
    positions, notes = adapt_positions(params.pop("positions", {}), old, new)
    return params | ({"positions": positions} if positions else {}), [f"decoder {note}" for note in notes]


def adapt_positions(params: dict, source: Encoder, target: Encoder) -> tuple[dict, list[str]]:
    """Adapts the parameters of `Positions` of one encoder to another encoder; returns them, and notes on what changed."""
    old, new, notes = source.grid, target.grid, []
    shapes = ["x".join(map(str, grid.shape)) for grid in (old, new)]
    if target.positions == "learned" and source.positions != "learned":
        module = Positions(source.positions, old, source.trunk.size.width, source.cls_token)
        table, cls = module.apply({"params": params})
        params = {"table": np.asarray(table)} | ({"cls": np.asarray(cls)} if target.cls_token else {})
        notes.append(f"positions {source.positions} become the start of learned ones")
    if old.shape == new.shape:
        return params, notes
    if not params:
        computed = f"positions {source.positions} {shapes[0]} -> {shapes[1]} computed for the new grid, not interpolated"
        return params, [*notes, f"{computed} (--config.video_branch.positions=learned starts from the old ones, interpolated)"]
    spans = {
        "time": (f"{old.time_patches} -> {new.time_patches} time patches", old.time_patches != new.time_patches),
        "space": (f"{old.rows}x{old.columns} -> {new.rows}x{new.columns}", old.shape[1:] != new.shape[1:]),
        "table": (" -> ".join(shapes), True),
    }
    changed = [(key, spans[key][0]) for key in params if key in spans and spans[key][1]]
    return interpolate_params(params, old, new), notes + [f"positions/{key} {span} interpolated" for key, span in changed]


def match_template(arrays: dict, template, name: str) -> dict:
    """Orders arrays as the template has them and casts them to its dtypes. Raises: WeightsError, which lists all that differs."""
    problems = differences(arrays, template)
    if problems:
        raise WeightsError(name, problems)
    flat, wanted = (traverse_util.flatten_dict(tree, sep="/") for tree in (arrays, template))
    return traverse_util.unflatten_dict({k: np.asarray(flat[k], wanted[k].dtype) for k in wanted}, sep="/")


def normalizations_differ(one: Normalization, other: Normalization) -> bool:
    """Returns True if two normalizations differ by more than rounding."""
    return any(not np.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in ("mean", "std"))


def fold_normalization(embed: dict, source: Normalization, target: Normalization) -> dict:
    """Rewrites a patch embedding so that frames normalized by `target` give what those normalized by `source` gave.

    Exact but for rounding: (p - mean) / std is an affine map of every pixel, and so is the embedding.

    Args:
      embed: `kernel` [(t p p C), D] and `bias` [D].
      source: the normalization that the embedding was trained with, of pixels in 0..1.
      target: the normalization of the frames that it will be applied to.
    """
    mean, std = (np.asarray(source[name], np.float64) for name in ("mean", "std"))
    new_mean, new_std = (np.asarray(target[name], np.float64) for name in ("mean", "std"))
    by_channel = embed["kernel"].astype(np.float64).reshape(-1, len(mean), embed["kernel"].shape[-1])
    kernel = by_channel * (new_std / std)[:, None]
    bias = embed["bias"] + np.einsum("xcd,c->d", by_channel, (new_mean - mean) / std)
    return {
        "kernel": kernel.reshape(embed["kernel"].shape).astype(embed["kernel"].dtype),
        "bias": bias.astype(embed["bias"].dtype),
    }
