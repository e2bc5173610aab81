"""The weights that a run starts from, and what is said of them: which went where, and what was changed on the way."""

from cvmae.config import UNTRAINED, config_errors
from cvmae.interop.adapt import InitFrom, load_branch, load_classifier, load_encoder, match_template
from cvmae.models.autoencoder import LATENT_HEAD, Autoencoder
from cvmae.models.backbone import Backbone
from cvmae.models.classifier import Classifier
from cvmae.parallel.processes import log_once


def load_video_encoder(config, template, encoder: Backbone) -> dict | None:
    """Returns the encoder of config.init_from, for tasks that have no decoder; None where that is `untrained`.

    Args:
      config: of the task.
      template: the encoder's parameters; leaves need only shape and dtype.
      encoder: its module.

    Raises:
      ConfigError: what is there does not fit; the message lists the flags or arrays.
    """
    if config.init_from == UNTRAINED:
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
        # No weights have a head to the features of this run's teacher.
        decoder = module.decoder.spec if module.decoder is not None and module.decoder.pixels else None
        params, notes = load_branch(start, module.encoder, decoder, config)
        wanted = {part: {key: leaf for key, leaf in template[part].items() if key != LATENT_HEAD} for part in params}
        params = match_template(params, wanted, branch.init_from)
    fresh = [part for part in template if part not in params]
    log_once(*notes, *(f"{name}_branch {part} starts untrained" for part in fresh))
    return params
