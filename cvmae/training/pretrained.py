"""The encoder that downstream tasks start from."""

import sys

from cvmae.interop.encoder import load_encoder
from cvmae.models.vit import Encoder
from cvmae.training.validate import config_errors


def load_video_encoder(config, template, encoder: Encoder) -> dict | None:
    """The encoder of config.init_from, or None where that is empty; what was changed on the way is printed.

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
        params, notes = load_encoder(config.init_from, template, encoder, config)
    print(*notes, sep="\n", file=sys.stderr)
    return params
