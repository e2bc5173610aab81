"""Weights from anywhere into the parameters that a run has: what may differ is fitted, what may not is refused with the flags."""

import dataclasses
import shlex

import numpy as np
from flax import traverse_util

from cvmae.interop.infer_modules import ModelHints
from cvmae.interop.inflate import inflate
from cvmae.interop.load import read
from cvmae.interop.pretrained import Pretrained, WeightsError, amount, differences
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.classifier import Classifier
from cvmae.models.positions import Positions, interpolate_params
from cvmae.models.vit import VIT_SIZES, Encoder

# What must be the same for parameters to mean the same, by the branch's field. The number and size of frames may differ.
ENCODER_FIELDS = {
    "variant": lambda encoder: (encoder.trunk.size, encoder.grid.patch),
    "tubelet": lambda encoder: encoder.grid.tubelet,
    "positions": lambda encoder: encoder.positions,
    "cls_token": lambda encoder: encoder.cls_token,
    "qkv_bias": lambda encoder: encoder.trunk.qkv_bias,
    "eps": lambda encoder: encoder.trunk.eps,
}
# Layouts of the decoder give the same predictions.
DECODER_FIELDS = {
    "decoder.width": lambda decoder: decoder.trunk.size.width,
    "decoder.depth": lambda decoder: decoder.trunk.size.depth,
    "decoder.heads": lambda decoder: decoder.trunk.size.heads,
    "decoder.positions": lambda decoder: decoder.positions,
    "decoder.cls": lambda decoder: decoder.cls,
    "decoder.embed_bias": lambda decoder: decoder.embed_bias,
    "decoder.norm_eps": lambda decoder: decoder.norm_eps,
}


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """What a branch of a run starts from.

    Attributes:
      path: see `read.read`.
      branch: `video` or `image`: the config's branch, and which one of a workdir is taken.
      decoder: whether the decoder is taken too, where both sides have one.
      inflate: how an image encoder becomes the video branch's; see `inflate.KINDS`.
    """

    path: str
    branch: str = "video"
    decoder: bool = True
    inflate: str = "none"


def load_encoder(start: InitFrom, encoder: Encoder, config=None) -> tuple[dict, list[str]]:
    """A video or image encoder's parameters, for the grid of `encoder`.

    Learned positions of another grid are interpolated; fixed ones are computed for the new one, and `positions='learned'`
    takes a table of any kind, interpolated, as its start. The last norm is left out where `encoder` has none.

    Args:
      start: where from.
      encoder: the encoder to fill.
      config: the config of the run; if given, weights trained on other pixels than its augment.mean and augment.std are fitted
        to these.

    Returns:
      float32 numpy arrays in nested dicts, and what a user should know, one a line.

    Raises:
      ValueError: the encoder there was built otherwise; the message lists the fields as flags to copy. WorkdirError or
        WeightsError: what is there is damaged or does not fit.
      FileNotFoundError: there is nothing.
    """
    params, notes = load_branch(start, encoder, None, config)
    return params["encoder"], notes


def load_branch(start: InitFrom, encoder: Encoder, decoder: DecoderSpec | None, config=None) -> tuple[dict, list[str]]:
    """The parameters of a masked autoencoder: `encoder`, and `decoder` where the weights have one and it is wanted.

    Args, Returns, Raises: see `load_encoder`; `decoder`: the decoder to fill, None for none.
    """
    if not start.decoder:
        decoder = None
    hints = ModelHints(encoder.trunk.size.heads, decoder.trunk.size.heads if decoder else 0, decoder=decoder is not None)
    source = read(start.path, branch=start.branch, hints=hints)
    if start.inflate != "none":
        source = inflate(source, encoder.grid, start.inflate)
    decoder = decoder if source.decoder else None
    check_compatible(source, encoder, decoder, start.branch)
    params, notes = adapt_encoder(source, encoder, config)
    lines = [f"{start.branch}_branch encoder from {source.name}: {amount(params)}", *source.notes, *notes]
    lines += [f"left out: {key}, {reason}" for key, reason in source.ignored.items()]
    if decoder is None:
        return {"encoder": params}, lines
    filled, notes = adapt_decoder(source, encoder, decoder)
    lines += [f"{start.branch}_branch decoder from the same: {amount(filled)}", *notes]
    return {"encoder": params, "decoder": filled}, lines


def load_classifier(start: InitFrom, classifier: Classifier, names: tuple[str, ...] = (), config=None) -> tuple[dict, list[str]]:
    """The parameters of a whole classifier: `encoder`, `norm` where it has one, and `head`.

    Args:
      start: where from.
      classifier: what to fill.
      names: of its classes, compared where the weights name theirs too; order counts.
      config: see `load_encoder`.

    Returns, Raises: see `load_encoder`; also ValueError where the weights have no head, or one of other classes.
    """
    source = read(start.path, hints=ModelHints(classifier.encoder.trunk.size.heads, decoder=False))
    head = source.head
    if head is None:
        raise ValueError(f"{source.name} has no head: give a classifier's weights, or config.head.init=new")
    there = {"head.pool": (head.pool, classifier.pool), "head.eps": (head.eps, classifier.eps)}
    flags = {field: theirs for field, (theirs, ours) in there.items() if theirs != ours}
    if flags:
        raise ValueError(_refusal(source, flags))
    if head.classes != classifier.classes:
        raise ValueError(
            f"the head in {source.name} has {head.classes} classes, the data {classifier.classes}: take head.init=new"
        )
    other = [f"{i}: {a!r} there, {b!r} here" for i, (a, b) in enumerate(zip(head.names, names)) if a != b]
    if head.names and names and other and not _unnamed(head.names) and not _unnamed(names):
        raise ValueError(f"the classes of {source.name} are not the data's, first {', '.join(other[:3])}: number them alike")
    check_compatible(source, classifier.encoder, None, start.branch)
    params, notes = adapt_encoder(source, classifier.encoder, config)
    lines = [f"classifier of {head.classes} classes from {source.name}: {amount(source.params)}", *source.notes, *notes]
    return {"encoder": params} | {part: source.params[part] for part in ("norm", "head") if part in source.params}, lines


def _unnamed(names: tuple[str, ...]) -> bool:
    """Whether names only count: what transformers writes where nobody gave names, or the data's numbers."""
    return all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(names))


def check_compatible(source: Pretrained, encoder: Encoder, decoder: DecoderSpec | None, branch: str) -> None:
    """Raises ValueError, with the flags to copy, where weights are of modules built otherwise than those to fill."""
    there = _other(ENCODER_FIELDS, source.encoder, encoder)
    if encoder.positions == "learned":
        there.pop("positions", None)
    # A fine-tuned classifier that pools the mean has none, whatever its config says.
    if encoder.final_norm and not source.encoder.final_norm:
        there["final_norm"] = False
    if source.encoder.grid.time_patches == 1 and encoder.grid.time_patches > 1 and source.encoder.grid.tubelet == 1:
        raise ValueError(
            f"{source.name} is an encoder of images: give config.{branch}_branch.inflate (mean or center) to start a video encoder from it"
        )
    if decoder is not None:
        there |= _other(DECODER_FIELDS, source.decoder, decoder)
        theirs, ours = source.decoder.target_tubelet(source.encoder.grid), decoder.target_tubelet(encoder.grid)
        if theirs != ours:
            there["decoder.target_frames"] = theirs * encoder.grid.time_patches
    flags = {f"{branch}_branch.{field}": value for field, value in there.items()}
    if flags:
        or_not = f" - or leave its decoder out by --config.{branch}_branch.init_decoder=False" if _of_decoder(flags) else ""
        raise ValueError(f"{_refusal(source, flags)}{or_not}")


def _refusal(source: Pretrained, flags: dict) -> str:
    text = " ".join(shlex.quote(f"--config.{field}={_text(field, value)}") for field, value in flags.items())
    return f"the model in {source.name} was trained otherwise: give another one, or these flags: {text}"


def _of_decoder(flags) -> bool:
    return any("_branch.decoder." in field for field in flags)


def _other(fields: dict, theirs, ours) -> dict:
    """{field: their value} where they differ."""
    return {field: get(theirs) for field, get in fields.items() if get(theirs) != get(ours)}


def _text(field: str, value) -> str:
    """A setting as it is written on the command line."""
    if not field.endswith("_branch.variant"):
        return str(value)
    size, patch = value
    names = [name for name, known in VIT_SIZES.items() if known == size]
    return f"{names[0] if names else f'<{size}, which no variant has>'}/{patch}"


def adapt_encoder(source: Pretrained, encoder: Encoder, config=None) -> tuple[dict, list[str]]:
    """The encoder's arrays for another grid and for a config's pixels, and what was changed."""
    params, notes = dict(source.params["encoder"]), []
    found, about = adapt_positions(params.pop("positions", {}), source.encoder, encoder)
    if found:
        params["positions"] = found
    if not encoder.final_norm and params.pop("norm", None) is not None:
        notes.append("norm left out: an encoder with final_norm=False has no last norm")
    ours = None if config is None else {name: tuple(config["augment"][name]) for name in ("mean", "std")}
    if ours and not source.pixels:
        notes.append("nobody says what pixels were normalized with: taken to be augment.mean and augment.std")
    elif ours and normalizations_differ(source.pixels, ours):
        params["embed"] = fold_normalization(params["embed"], source.pixels, ours)
        there = ", ".join(f"{name} {value}" for name, value in source.pixels.items())
        notes.append(f"patch embedding fitted to this config's augment.mean and augment.std (trained on {there}): same outputs")
    return params, notes + about


def adapt_decoder(source: Pretrained, encoder: Encoder, decoder: DecoderSpec) -> tuple[dict, list[str]]:
    """The decoder's arrays for another grid, and what was changed."""
    params = dict(source.params["decoder"])
    theirs, ours = (
        Encoder(spec.trunk, grid, spec.positions, spec.cls != "none")
        for spec, grid in ((source.decoder, source.encoder.grid), (decoder, encoder.grid))
    )
    found, notes = adapt_positions(params.pop("positions", {}), theirs, ours)
    return params | ({"positions": found} if found else {}), [f"decoder {note}" for note in notes]


def adapt_positions(params: dict, theirs: Encoder, ours: Encoder) -> tuple[dict, list[str]]:
    """The parameters of `Positions` of one encoder for another one, and notes on what was changed."""
    old, new, notes = theirs.grid, ours.grid, []
    whole = ["x".join(map(str, grid.shape)) for grid in (old, new)]
    if ours.positions == "learned" and theirs.positions != "learned":
        module = Positions(theirs.positions, old, theirs.trunk.size.width, theirs.cls_token)
        table, cls = module.apply({"params": params})
        params = {"table": np.asarray(table)} | ({"cls": np.asarray(cls)} if ours.cls_token else {})
        notes.append(f"positions {theirs.positions} become the start of learned ones")
    if old.shape == new.shape:
        return params, notes
    if not params:
        changed = f"positions {theirs.positions} {whole[0]} -> {whole[1]} computed for the new grid, not interpolated"
        return params, [*notes, f"{changed} (--config.video_branch.positions=learned starts from the old ones, interpolated)"]
    spans = {
        "time": (f"{old.time_patches} -> {new.time_patches} slots", old.time_patches != new.time_patches),
        "space": (f"{old.rows}x{old.columns} -> {new.rows}x{new.columns}", old.shape[1:] != new.shape[1:]),
        "table": (" -> ".join(whole), True),
    }
    changed = [(key, spans[key][0]) for key in params if key in spans and spans[key][1]]
    return interpolate_params(params, old, new), notes + [f"positions/{key} {span} interpolated" for key, span in changed]


def match_template(arrays: dict, template, name: str) -> dict:
    """The arrays as the template has them, in its dtypes. Raises: WeightsError, which lists all that does not fit."""
    problems = differences(arrays, template)
    if problems:
        raise WeightsError(name, problems)
    found, wanted = (traverse_util.flatten_dict(tree, sep="/") for tree in (arrays, template))
    return traverse_util.unflatten_dict({k: np.asarray(found[k], wanted[k].dtype) for k in wanted}, sep="/")


Normalization = dict[str, tuple[float, ...]]


def normalizations_differ(one: Normalization, other: Normalization) -> bool:
    """Whether two normalizations, each `mean` and `std` of a channel, are not the same."""
    return any(not np.allclose(one[name], other[name], rtol=0, atol=1e-6) for name in ("mean", "std"))


def fold_normalization(embed: dict, theirs: Normalization, ours: Normalization) -> dict:
    """The patch embedding that gives for pixels normalized our way what the old one gave for theirs.

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
