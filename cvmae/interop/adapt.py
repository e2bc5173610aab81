"""Fits weights to the modules of a run: positions, normalization, dtypes; refuses other models with the flags to set."""

import dataclasses

import numpy as np
from flax import traverse_util

from cvmae.interop.compatible import ENCODER_FIELDS, check_compatible, refusal, variant_of
from cvmae.interop.hints import ModelHints
from cvmae.interop.inflate import inflate
from cvmae.interop.load import read
from cvmae.interop.own_checkpoint import has_branch
from cvmae.interop.preprocessing import fold_normalization, normalizations_differ
from cvmae.interop.pretrained import Head, Pretrained, WeightsError, amount, block_encoder_of, differences
from cvmae.interop.resize import LEARNED, adapt_decoder, adapt_positions
from cvmae.interop.saved_run import is_workdir
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.backbone import Backbone
from cvmae.models.classifier import Classifier
from cvmae.models.factorized import BlockEncoder
from cvmae.models.vit import decode_variant


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """The weights that a branch of a run starts from.

    Attributes:
      path: see `load.read`.
      branch: `video` or `image`: the config's branch.
      decoder: True to take the decoder too, if both sides have one.
      inflate: how an image encoder becomes the video branch's; see `inflate.KINDS`.
    """

    path: str
    branch: str = "video"
    decoder: bool = True
    inflate: str = "none"

    @property
    def stored_branch(self) -> str:
        """The branch to take from a workdir: that of images where they are to be inflated, and the workdir has no other."""
        only_image = self.inflate != "none" and is_workdir(self.path) and not has_branch(self.path, self.branch)
        return "image" if only_image else self.branch


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
        neither a ViT nor a factorized encoder. WorkdirError or WeightsError: the weights are damaged or do not fit.
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
    source = read(start.path, branch=start.stored_branch, hints=ModelHints(heads, decoder=False, recorded_first=True))
    fields = {field: get(source.block_encoder) for field, get in ENCODER_FIELDS.items()}
    fields |= {"variant": variant_of(source.name, *fields["variant"]), "final_norm": source.encoder.final_norm}
    if start.inflate != "none":
        del fields["tubelet"], fields["positions"]
    return fields


def load_branch(start: InitFrom, encoder: Backbone, decoder: DecoderSpec | None, config=None) -> tuple[dict, list[str]]:
    """Loads the parameters of a masked autoencoder: `encoder`, and `decoder` if the weights have one and it is wanted.

    Args, Returns, Raises: see `load_encoder`; `decoder`: the decoder to fill, None for none.
    """
    target = block_encoder_of(encoder, f"{start.branch}_branch")
    reconstructs, decoder = decoder is not None, decoder if start.decoder else None
    decoder_heads = decoder.trunk.size.heads if decoder else 0
    hints = ModelHints(target.trunk.size.heads, decoder_heads, decoder=decoder is not None, recorded_first=True)
    source = read(start.path, branch=start.stored_branch, hints=hints)
    if reconstructs and not source.reconstructs:
        remedy = f"leave the reconstruction of its branch out by --config.loss.mse_{start.branch}=0"
        raise ValueError(f"{source.name} is an encoder of features, with no decoder to pixels: {remedy}")
    if start.inflate != "none":
        source = inflate(source, target.grid, start.inflate)
    return adapt_branch(source, target, decoder if source.decoder else None, start.branch, config)


def adapt_branch(
    source: Pretrained, encoder: BlockEncoder, decoder: DecoderSpec | None, branch: str, config
) -> tuple[dict, list[str]]:
    """Adapts weights to an encoder, and to a decoder if one is given, which the weights then have.

    Args:
      source: the weights.
      encoder, decoder: to fill.
      branch: `video` or `image`, for messages.
      config, Returns, Raises: see `load_encoder`.
    """
    check_compatible(source, encoder, decoder, branch)
    params, notes = adapt_encoder(source, encoder, config)
    lines = [f"{branch}_branch encoder from {source.name}: {amount(params)}", *source.notes, *notes]
    lines += source.left_out()
    if decoder is None:
        return {"encoder": params}, lines
    decoder_params, notes = adapt_decoder(source, encoder, decoder, LEARNED)
    lines += [f"{branch}_branch decoder from the same: {amount(decoder_params)}", *notes]
    return {"encoder": params, "decoder": decoder_params}, lines


def load_classifier(start: InitFrom, classifier: Classifier, names: tuple[str, ...] = (), config=None) -> tuple[dict, list[str]]:
    """Loads the parameters of a classifier: `encoder`, `norm` or `pooler` if it has one, and `head`.

    Args:
      start: the weights.
      classifier: the module to fill.
      names: the names of its classes, in order; compared with those of the weights, if these record any.
      config: see `load_encoder`.

    Returns, Raises: see `load_encoder`; also ValueError if the weights have no head, or one of other classes.
    """
    encoder = block_encoder_of(classifier.encoder, f"{start.branch}_branch")
    source = read(start.path, hints=ModelHints(encoder.trunk.size.heads, decoder=False, recorded_first=True))
    head = source.head
    if head is None:
        raise ValueError(f"{source.name} has no head: give a classifier's weights, or config.head.init=new")
    pairs: dict = {"head.pool": (head.pool, classifier.pool), "head.eps": (head.eps, classifier.eps)}
    if head.pool == "attentive":
        pooler = classifier.pooler
        pairs["head.blocks"] = head.blocks, pooler.depth if pooler else 0
        pairs["head.heads"] = head.heads, pooler.heads if pooler else 0
    flags = {field: source_value for field, (source_value, value) in pairs.items() if source_value != value}
    if flags:
        raise ValueError(refusal(source, flags))
    _check_classes(source.name, head, classifier.classes, names)
    check_compatible(source, encoder, None, start.branch)
    params, notes = adapt_encoder(source, encoder, config)
    lines = [f"classifier of {head.classes} classes from {source.name}: {amount(source.params)}", *source.notes, *notes]
    lines += _head_notes(source.name, head, names, config)
    return {"encoder": params} | {
        part: source.params[part] for part in ("norm", "pooler", "head") if part in source.params
    }, lines


def _check_classes(source: str, head: Head, classes: int, names: tuple[str, ...]) -> None:
    """Raises ValueError where the classes of a head are not the data's: other ones, or in another order."""
    by_file = "a classes.csv beside the manifest that lists the names in the order of the weights"
    if head.classes != classes:
        raise ValueError(
            f"the head in {source} has {head.classes} classes, the data {classes}: take head.init=new, or, where the data has only "
            f"some of them, {by_file}"
        )
    other = [f"{i}: {a!r} there, {b!r} here" for i, (a, b) in enumerate(zip(head.names, names)) if a != b]
    if other and _are_named(head.names) and _are_named(names):
        raise ValueError(
            f"the classes of {source} are not the data's, first {', '.join(other[:3])}: number them alike, with {by_file}"
        )


def _head_notes(source: str, head: Head, names: tuple[str, ...], config) -> list[str]:
    """Returns lines about what a head and the data do not show to be the same: the order of classes, and the loss."""
    notes = []
    named, numbered = (source, "the data") if _are_named(head.names) else ("the data", source)
    if _are_named(head.names) != _are_named(names):
        notes.append(
            f"note: the classes of {named} have names, those of {numbered} only numbers: whether number i is the same class in both "
            "cannot be checked"
        )
    if config is not None and head.loss != config.head.loss:
        notes.append(
            f"note: the classifier in {source} was trained with head.loss={head.loss}, and this task takes probabilities as for "
            f"head.loss={config.head.loss}"
        )
    return notes


def _are_named(names: tuple[str, ...]) -> bool:
    """Returns False without names, or if they only count: the default names of transformers, or the data's numbers."""
    return not all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(names))


def adapt_encoder(source: Pretrained, encoder: BlockEncoder, config=None) -> tuple[dict, list[str]]:
    """Adapts the encoder's arrays to another grid and to a config's normalization; returns them, and notes on what changed."""
    params, notes = dict(source.params["encoder"]), []
    positions, position_notes = adapt_positions(params.pop("positions", {}), source.block_encoder, encoder, LEARNED)
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


def match_template(arrays: dict, template, name: str) -> dict:
    """Orders arrays as the template has them and casts them to its dtypes. Raises: WeightsError, which lists all that differs."""
    problems = differences(arrays, template)
    if problems:
        raise WeightsError(name, problems)
    flat, wanted = (traverse_util.flatten_dict(tree, sep="/") for tree in (arrays, template))
    return traverse_util.unflatten_dict({k: np.asarray(flat[k], wanted[k].dtype) for k in wanted}, sep="/")
