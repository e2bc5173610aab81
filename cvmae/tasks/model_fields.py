"""Fields of a config that others decide: the encoder's, which are those of the weights, and data.multi_label, set by the loss."""

from cvmae.config import UNTRAINED, config_errors, require

RUNLOCAL_SIZE = (32, 32)  # height and width of the frames of the argument `runlocal`
# An encoder of random weights, and the type of each field: the defaults of pre-training's video branch in configs/common.py.
UNTRAINED_ENCODER = {
    "backbone": "vit",
    "variant": "B/16",
    "tubelet": 2,
    "positions": "separable",
    "cls_token": True,
    "qkv_bias": "qkv",
    "eps": 1e-6,
    "mlp": "gelu",
    "layer_scale": False,
    "registers": 0,
    "softcap": 0.0,
    "temporal_blocks": 0,
    "final_norm": True,
}


def loss_field(config) -> str:
    """Returns the field with the loss of the classes, `head.loss` or `probe.loss`; empty for a task that learns none.

    A config that an earlier version made lacks the field; its loss is softmax.
    """
    return next((f"{name}.loss" for name in ("head", "probe") if "loss" in config.get(name, {})), "")


def is_sigmoid(config) -> bool:
    """Returns True if the classes are learned each by itself, by binary cross-entropy, so that a clip can have several labels."""
    field = loss_field(config)
    return bool(field) and config[field.partition(".")[0]].loss == "sigmoid"


def fill_fields(config):
    """Sets the fields that others decide, see the other `fill` functions here and `cooldown.fill_cooldown`.

    Args:
      config: of any task, locked or not.

    Returns:
      (a locked copy of the config with every field set, or the config itself if nothing was open; notes for the user).

    Raises:
      ConfigError: see `fill_encoder_fields`, `fill_teacher_fields` and `fill_cooldown`.
    """
    config = fill_teacher_fields(config)
    if "cooldown" in config and (config.cooldown.init_from or _lacks_fields_of_run(config)):
        from cvmae.tasks.cooldown import fill_cooldown  # slow to import, and every config file imports this module

        return fill_cooldown(config)
    return fill_encoder_fields(fill_multi_label(config))


def _lacks_fields_of_run(config) -> bool:
    """Returns True if fields are open that a cooldown takes from the run that it continues."""
    return None in (config.total, config.seed, config.optimizer.base_lr, config.optimizer.ema_decay)


def fill_teacher_fields(config):
    """Sets the fields of the encoder of config.video_branch.teacher that are None to those of its weights, where it is used.

    Returns:
      A locked copy of the config, or the config itself if nothing was open.

    Raises:
      ConfigError: the weights are missing or damaged, no config describes their encoder, or a field is set to another value.
    """
    teacher = config.get("video_branch", {}).get("teacher", {})
    unset = _unset_fields(teacher)
    if not unset or not teacher.init_from or config.video_branch.target != "latent":
        return config
    values = _encoder_fields("video_branch.teacher.init_from", teacher.init_from, teacher)
    for name, value in values.items():
        require(
            name in unset or teacher[name] == value,
            f"config.video_branch.teacher.{name}={teacher[name]!r}, but the encoder in {teacher.init_from} has {value!r}: leave the field out",
        )
    return _with_fields(config, {f"video_branch.teacher.{name}": values[name] for name in unset})


def fill_multi_label(config):
    """Returns a locked copy with data.multi_label=True where the loss is sigmoid and the field False; else the config itself."""
    if not is_sigmoid(config) or config.data.get("multi_label") is not False:
        return config
    return _with_fields(config, {"data.multi_label": True})


def fill_encoder_fields(config):
    """Sets the fields of config.video_branch that are None to those of the weights, or without weights of `UNTRAINED_ENCODER`.

    Without weights the argument `runlocal` of a config asks for another size, in video_branch.untrained_variant, which is removed here; its
    frames get a size that patches fill.
    Fields of the branch with a value stay: where they differ from the weights', loading refuses them. The weights are read here
    for their description alone and once more to start from them, since kept until then they would take their size of memory.

    Args, Returns: see `fill_fields`.

    Raises:
      ConfigError: the weights are missing or damaged, or no config describes their encoder.
    """
    branch = config.get("video_branch", {})
    unset, untrained_variant = _unset_fields(branch), branch.get("untrained_variant")
    if not unset and not untrained_variant:
        return config, []
    has_weights = config.init_from not in ("", UNTRAINED)
    if has_weights and unset:
        values = _encoder_fields("init_from", config.init_from, branch, inflate=branch.inflate)
    else:
        values = UNTRAINED_ENCODER | {"variant": untrained_variant or UNTRAINED_ENCODER["variant"]}
    filled, notes = _with_fields(config, {f"video_branch.{name}": values[name] for name in unset}), []
    if untrained_variant:
        with filled.unlocked():
            del filled.video_branch.untrained_variant
        filled, notes = _fill_patches(filled)
    return filled, notes + (_recipe_notes(filled, unset) if has_weights else [])


def _fill_patches(config):
    """Sets runlocal's size of frames to the nearest multiple of the patch, which DINOv2 has of 14; returns the config and notes."""
    patch = config.video_branch.variant.rpartition("/")[2]
    if tuple(config.augment.size) != RUNLOCAL_SIZE or not patch.isdecimal() or not int(patch):  # other values are checked later
        return config, []
    height, width = (max(1, round(length / int(patch))) * int(patch) for length in RUNLOCAL_SIZE)
    if (height, width) == RUNLOCAL_SIZE:
        return config, []
    note = f"note: runlocal takes augment.size=({height}, {width}), the multiple of the patch size {patch} nearest to {RUNLOCAL_SIZE}"
    return _with_fields(config, {"augment.size": (height, width)}), [note]


def _unset_fields(section) -> list[str]:
    """Returns the fields of an encoder that a section of a config has and leaves open."""
    return [name for name in UNTRAINED_ENCODER if name in section and section[name] is None]


def _encoder_fields(field: str, path: str, section, **options) -> dict:
    """Returns the fields of the encoder whose weights a field of the config names. Raises: ConfigError, which names the field."""
    from cvmae.interop.adapt import InitFrom, encoder_fields  # slow to import, and every config file imports this module

    with config_errors(field):
        return UNTRAINED_ENCODER | encoder_fields(InitFrom(path, **options), section.variant or "")


def _with_fields(config, values: dict):
    """Returns a locked copy of a config with other values of some fields, each under its dotted name."""
    config = config.copy_and_resolve_references().unlock()
    config.update_from_flattened_dict(values)
    return config.lock()


def _recipe_notes(config, filled: list[str]) -> list[str]:
    variant = config.video_branch.variant
    size = variant.partition("/")[0]
    if config.task != "finetune" or "variant" not in filled or size == "B":
        return []
    return [
        f"note: the weights are of {variant}, and batch size, rates and epochs of this config are those of B: if it has a recipe "
        f"for {size}, variant={variant} behind the config's name takes it"
    ]
