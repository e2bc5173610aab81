"""Checks of the fields of config.data, before anything is read."""

from collections.abc import Mapping

from cvmae.config import require
from cvmae.storage.path import expand_user, isdir
from cvmae.tasks.model_fields import is_sigmoid, loss_field


def check_data(config, own: Mapping) -> None:
    """Checks which fields of the data are read together.

    Args:
      config: of a run.
      own: the sections of a mixture by name, see `check_mixture`.

    Raises: ConfigError.
    """
    for section, data in {"data": config.data, **{f"data.sources.{name}": data for name, data in own.items()}}.items():
        check_manifest(section, data)
    folder = config.data.source == "files" and _is_folder(config.data.manifest)
    require(
        not folder or "total" not in config,
        f"config.data.manifest={config.data.manifest!r} is a folder, which has neither splits nor labels to learn from: make a "
        "manifest of it by python -m cvmae.data.prepare --dataset=folder",
    )
    check_multi_label(config)


def check_manifest(section: str, data) -> None:
    """Raises ConfigError where the section of the data names a manifest that its source does not read."""
    require(
        not data.manifest or data.source == "files",
        f"config.{section}.manifest={data.manifest!r} is not read with config.{section}.source={data.source!r} (runlocal sets "
        f"synthetic): add --config.{section}.source=files, or leave the manifest out",
    )


def _is_folder(path: str) -> bool:
    """Returns True for a folder of this machine or of a bucket; a path that cannot be looked at is left to its reader."""
    try:
        return isdir(expand_user(path))
    except OSError:
        return False


def check_multi_label(config) -> None:
    """Checks that clips with several labels come from a manifest, and that a task that learns them has the loss for it."""
    if not config.data.get("multi_label"):
        return
    source, field = config.data.source, loss_field(config)
    remedy = f", or {field}=softmax, which learns one label a video" if field and is_sigmoid(config) else ""
    require(
        source in ("files", "custom"),
        f"config.data.multi_label=True does not go with config.data.source={source!r} (runlocal sets synthetic), whose videos have one "
        f"label: take --config.data.source=files{remedy}",
    )
    require(
        not field or is_sigmoid(config),
        f"config.data.multi_label=True with config.{field}='softmax', which learns one label a video: set --config.{field}=sigmoid",
    )
