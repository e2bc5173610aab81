"""The weights that a run starts from, and what is said of them: which went where, and what was changed on the way."""

from collections.abc import Callable

from cvmae.config import require
from cvmae.interop.adapt import InitFrom, load_branch, load_classifier, load_encoder, match_template
from cvmae.interop.own_checkpoint import has_branch, is_workdir
from cvmae.interop.pretrained import Pretrained
from cvmae.models.autoencoder import Autoencoder
from cvmae.models.classifier import Classifier
from cvmae.models.vit import Encoder
from cvmae.parallel.processes import log_once
from cvmae.tasks.validate import config_errors
from cvmae.visualize.weights import Branch, Branches, load_image_branch, load_whole


def load_video_encoder(config, template, encoder: Encoder) -> dict | None:
    """The encoder of config.init_from, for tasks that have no decoder; None where that is empty.

    Args:
      config: of the task.
      template: the encoder's parameters; leaves need only shape and dtype.
      encoder: its module.

    Raises:
      ConfigError: what is there does not fit; the message lists the flags or arrays.
    """
    if not config.init_from:
        return None
    with config_errors("init_from"):
        start = InitFrom(config.init_from, inflate=config.video_branch.inflate)
        params, notes = load_encoder(start, encoder, config)
        params = match_template(params, template, config.init_from)
    log_once(*notes)
    return params


def load_video_classifier(config, template, classifier: Classifier, names: tuple[str, ...]) -> dict:
    """Encoder, norm and head of the classifier of config.init_from.

    Args:
      config: of fine-tuning.
      template: the classifier's parameters; leaves need only shape and dtype.
      classifier: its module.
      names: of the data's classes; where the weights have names too, others are refused.

    Raises:
      ConfigError: what is there is no classifier, or not of this one; the message lists the flags, names or arrays.
    """
    with config_errors("init_from"):
        start = InitFrom(config.init_from, inflate=config.video_branch.inflate)
        params, notes = load_classifier(start, classifier, names, config)
        params = match_template(params, template, config.init_from)
    log_once(*notes)
    return params


def load_pretraining_branch(config, name: str, template, module: Autoencoder) -> dict | None:
    """The encoder of config.NAME_branch.init_from, and the decoder where both sides have one; None where the field is empty.

    Args:
      config: of pre-training.
      name: `video` or `image`.
      template: the branch's parameters; leaves need only shape and dtype.
      module: the branch.

    Raises:
      ConfigError: what is there does not fit; the message lists the flags or arrays.
    """
    branch = config[f"{name}_branch"]
    if not branch.init_from:
        return None
    with config_errors(f"{name}_branch.init_from"):
        start = InitFrom(branch.init_from, name, branch.init_decoder, branch.get("inflate", "none"))
        params, notes = load_branch(start, module.encoder, module.decoder and module.decoder.spec, config)
        params = match_template(params, {part: template[part] for part in params}, branch.init_from)
    fresh = [part for part in template if part not in params]
    log_once(*notes, *(f"{name}_branch {part} starts untrained" for part in fresh))
    return params


def load_branches(config, encoder: Encoder, untrained: Callable[[], dict]) -> Branches:
    """All that pictures are drawn from: the video branch of config.init_from with the decoder that it has, and the image branch.

    The image branch is that of config.visualize.image_from, or else of config.init_from where that is a workdir with one.

    Args:
      config: of task=visualize.
      encoder: the video encoder that it describes.
      untrained: makes that encoder's parameters, where config.init_from is empty.

    Raises:
      ConfigError: what is there does not fit; the message lists the flags or arrays.
    """
    if not config.init_from:
        log_once("init_from is empty: pictures of an untrained encoder")
        video = Branch({"encoder": untrained()}, encoder, missing="an untrained encoder has no decoder")
    else:
        with config_errors("init_from"):
            found, notes = load_whole(InitFrom(config.init_from, inflate=config.video_branch.inflate), encoder, config)
        log_once(*notes)
        video = _video_branch(found, config)
    if video.missing:
        log_once(f"no reconstruction is drawn: {video.missing}")
    return Branches(video, _image_branch(config, encoder))


def _video_branch(found: Pretrained, config) -> Branch:
    """The decoder is left behind where nobody says what it predicts."""
    norm = found.target_norm if config.visualize.target_norm == "auto" else config.visualize.target_norm
    if found.decoder is None or not norm:
        missing = "these weights have no decoder"
        if found.decoder is not None:
            missing = "the weights do not say what their decoder predicts; config.visualize.target_norm may"
        return Branch({"encoder": found.params["encoder"]}, found.encoder, missing=missing)
    pixels = {name: tuple(found.pixels.get(name, config.augment[name])) for name in ("mean", "std")}
    return Branch(found.params, found.encoder, found.decoder, norm, **pixels)


def _image_branch(config, encoder: Encoder) -> Branch | None:
    """None where there is none, or the semantic row does not want it."""
    path, field, wanted = config.visualize.image_from, "visualize.image_from", config.visualize.semantic
    if wanted == "pca":
        return None
    if not path and config.init_from and is_workdir(config.init_from):
        with config_errors("init_from"):
            path, field = (config.init_from if has_branch(config.init_from, "image") else ""), "init_from"
    if not path:
        require(
            wanted != "image", f"config.visualize.semantic='image', but {config.init_from} has no image branch: take auto or pca"
        )
        return None
    with config_errors(field):
        found, notes = load_image_branch(path, config, encoder.trunk)
    log_once(*notes)
    return Branch(found.params, found.encoder)
