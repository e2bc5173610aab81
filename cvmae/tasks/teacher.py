"""The frozen teacher of video_branch.target=latent: what its fields need, and its weights."""

from cvmae.config import config_errors, require
from cvmae.interop.adapt import InitFrom, load_encoder, match_template
from cvmae.models.backbone import Backbone
from cvmae.objective.terms import LATENT_VIDEO
from cvmae.parallel.processes import log_once


def check_teacher(config) -> None:
    """Checks that video_branch.target, the weight of its term and the teacher's weights go together."""
    target = config.video_branch.get("target", "pixels")
    path = config.video_branch.get("teacher", {}).get("init_from", "")
    if target != "latent":
        require(
            not path,
            f"config.video_branch.teacher.init_from={path!r} is not read with config.video_branch.target={target!r}: add "
            "--config.video_branch.target=latent, or leave the teacher out",
        )
        return
    require(
        bool(config.loss.get(LATENT_VIDEO.name)),
        "config.video_branch.target='latent' with config.loss.latent_video=0 predicts no features: set --config.loss.latent_video=1",
    )
    require(
        bool(path),
        "config.video_branch.target='latent' has no teacher: give config.video_branch.teacher.init_from, a workdir, a weights file or "
        "folder, or a hub id owner/name",
    )


def load_teacher(config, template, encoder: Backbone) -> dict:
    """Returns the encoder of config.video_branch.teacher.init_from, adapted to the clips of the run.

    Args:
      config: of pre-training, with video_branch.target=latent.
      template: the encoder's parameters; leaves need only shape and dtype.
      encoder: its module.

    Raises:
      ConfigError: what is there does not fit; the message lists the arrays.
    """
    path = config.video_branch.teacher.init_from
    with config_errors("video_branch.teacher.init_from"):
        params, notes = load_encoder(InitFrom(path), encoder, config)
        params = match_template(params, template, path)
    log_once(*(f"teacher: {note.removeprefix('video_branch ')}" for note in notes))
    return params
