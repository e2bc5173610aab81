"""The fields of the config of each task, as the configs of this package have them, and the types of their values.

A flag that names no field is refused where it is parsed. A config file can set and delete any name, and a config can be made for
another task than its field `task` says; `check_schema` refuses these before a field is used.
"""

import fnmatch
import functools
import importlib
import numbers
import re
import sys
from typing import Any

import ml_collections

from cvmae.config import ConfigError, check_key, flatten, nearest, require
from cvmae.objective.terms import find_term
from cvmae.tasks import TASKS
from cvmae.tasks.fields import check_of
from cvmae.tasks.model_fields import UNTRAINED_ENCODER

# Fields that the first version of this package did not have: configs that it recorded lack them, and are read. A new field joins only if
# the code does without it.
ADDED = (
    *("checkpoint_keep_every", "compilation_cache", "optimizer_sharding", "profile", "log.*", "cooldown.*", "monitor.*"),
    *("data.allow_change", "data.cache_*", "data.hf.*", "data.mixture", "data.multi_label", "data.name", "data.pictures"),
    *("data.square_pixels", "data.webdataset.*", "augment.blur", "augment.first_view", "augment.grayscale", "augment.plus_shift"),
    *("augment.solarize", "*_branch.backbone", "*_branch.layer_scale", "*_branch.mlp", "*_branch.registers", "*_branch.softcap"),
    *("*_branch.temporal_blocks", "video_branch.target", "video_branch.teacher.*", "video_branch.train", "contrast.layers"),
    *("loss.latent_video", "loss_warmup.*", "optimizer.schedule", "optimizer.cooldown*", "optimizer.ema_decay"),
    *("probe.clips", "probe.layers", "probe.loss", "head.blocks", "head.heads", "head.loss", "finetune.*"),
)
OF_RUN = (
    "total",
    "seed",
    "optimizer.base_lr",
    "optimizer.ema_decay",
)  # None with the argument phase=cooldown: those of the run that it continues
ANY_TYPE = ("data.workers", "data.threads")  # whole numbers, or auto
KINDS = ((bool, "True or False"), (int, "a whole number"), (float, "a finite number"), (str, "a text"))


def check_schema(config) -> None:
    """Checks that a config has the fields of its task and no others, with values of their types.

    Args:
      config: of any task, before or after `model_fields.fill_fields`. Fields of ADDED may be missing.

    Raises:
      ConfigError: one line that names the field and, for a misspelled one, the nearest.
    """
    require(isinstance(config, ml_collections.ConfigDict), f"config is {config!r:.60}: expected an ml_collections.ConfigDict")
    task = config.get("task")
    known = isinstance(task, str) and task in TASKS
    require(known, f"config.task={task!r} cannot be used: {nearest(str(task), TASKS)}")
    schema = _schema_of(task)
    if task == "ablate":  # its runs are checked one by one, each as the variant makes it
        has_base = isinstance(config.get("pretrain"), ml_collections.ConfigDict)
        config = ml_collections.ConfigDict({**config, **({"pretrain": schema.pretrain} if has_base else {})})
    _check_sections(config, schema, task)
    for field, value in flatten(config).items():
        if field == "video_branch.untrained_variant" or (field.startswith("data.sources.") and value is None):
            continue  # removed where the encoder's fields are filled; as in config.data
        try:
            default = _default_of(re.sub(r"^data\.sources\.[^.]+", "data", field), schema)
        except ConfigError as error:
            if field.startswith("data.sources."):
                continue  # named where the mixture is checked
            raise ConfigError(f"{error} (fields of task={task})") from error
        if task != "ablate":
            _check_type(field, value, default)


def _default_of(field: str, schema):
    """Returns the default of a field. Raises: ConfigError, there is no such field or loss term."""
    section, _, name = field.rpartition(".")
    if section in ("loss", "loss_warmup"):  # which terms of one's own join
        find_term(name, section)
        return 0.0 if section == "loss" else "0_steps"
    check_key(schema, field)
    return functools.reduce(lambda node, part: node[part], field.split("."), schema)


@functools.cache
def _schema_of(task: str) -> ml_collections.ConfigDict:
    """Returns the config of a task with the default of every field."""
    # By name, since the configs import this package's tasks.
    common, downstream, ablate = (importlib.import_module(f"cvmae.configs.{name}") for name in ("common", "downstream", "ablate"))
    if task == "ablate":
        return ablate.get_config("study=masking")
    if task != "pretrain":
        return downstream.base(common.arguments(f"task={task}"), {"B": {"base_lr": 1e-3, "epochs": 1}})
    return common.base()


def _check_sections(config, schema, task: str, prefix: str = "") -> None:
    """Raises ConfigError where a section of the schema is no section of the config, or a field is missing."""
    sections = {name: default for name, default in schema.items() if isinstance(default, ml_collections.ConfigDict)}
    for name, default in {**sections, **schema}.items():
        leaves = flatten(default, f"{prefix}{name}.") if name in sections else {f"{prefix}{name}": default}
        added = all(any(fnmatch.fnmatchcase(leaf, pattern) for pattern in ADDED) for leaf in leaves)
        require(name in config or added, _missing(f"{prefix}{name}", name in sections, task))
    for name, default in sections.items():
        if name in config:
            require(
                isinstance(config[name], ml_collections.ConfigDict),
                f"config.{prefix}{name}={config[name]!r:.60} cannot be used: it is a section, with the fields {', '.join(default)}",
            )
            _check_sections(config[name], default, task, f"{prefix}{name}.")


def _missing(field: str, is_section: bool, task: str) -> str:
    """Returns the message about a field or section that a config lacks."""
    section, _, name = f"config.{field}".rpartition(".")
    by_argument = f"choose the task by the config's argument, task={task}, and not by its field"
    remedy = (
        "set it to 0 to leave the term out"
        if section == "config.loss"
        else f"set it; if the config is of another task, {by_argument}"
    )
    if is_section and section == "config":
        remedy = f"{by_argument}, or set the section"
    return f"{section} has no {'section' if is_section else 'field'} {name!r}, which config.task={task!r} needs: {remedy}"


def _check_type(field: str, value, default) -> None:
    """Raises ConfigError where a value is of another type than the default of its field."""
    name = field.rpartition(".")[2]
    if (value is None and (default is None or field in OF_RUN)) or field in ANY_TYPE:
        return
    default = UNTRAINED_ENCODER[name] if default is None else default
    if _fits(value, default):
        return
    check = check_of(field)
    expected = f": {check[0]}" if check and check[0] != "anything" else ""
    raise ConfigError(f"config.{field}={value!r:.60} cannot be used: it must be {_kind(default)}{expected}")


def _fits(value, default) -> bool:
    """Returns True if a value is of the type of a default, and finite."""
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and all(_fits(item, _item(default)) for item in value)
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(value, bool):
        return False
    if isinstance(default, int):
        return isinstance(value, numbers.Integral)
    number: Any = value
    return isinstance(value, numbers.Real) and bool(abs(number) <= sys.float_info.max)  # NaN is not


def _item(default: tuple) -> Any:
    """Returns the most general entry of a tuple; an empty one is of whole numbers."""
    return next((item for item in default if not isinstance(item, int)), 0)


def _kind(default) -> str:
    if isinstance(default, tuple):
        return {int: "whole numbers", float: "finite numbers", str: "texts"}[type(_item(default))]
    return next(text for kind, text in KINDS if isinstance(default, kind))
