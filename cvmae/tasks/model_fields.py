"""Fields of a config that others decide: the encoder's, which are those of the weights, and data.multi_label, set by the loss."""

from cvmae.config import UNTRAINED, config_errors

# An encoder of random weights, and the type of each field: the defaults of pre-training's video branch in configs/common.py.
UNTRAINED_ENCODER = {
    "variant": "B/16",
    "tubelet": 2,
    "positions": "separable",
    "cls_token": True,
    "qkv_bias": "qkv",
    "eps": 1e-6,
    "mlp": "gelu",
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
    """Sets the fields that others decide, see `fill_multi_label` and `fill_encoder_fields`.

    Args:
      config: of any task, locked or not.

    Returns:
      (a locked copy of the config with every field set, or the config itself if nothing was open; notes for the user).

    Raises:
      ConfigError: see `fill_encoder_fields`.
    """
    return fill_encoder_fields(fill_multi_label(config))


def fill_multi_label(config):
    """Returns a locked copy with data.multi_label=True where the loss is sigmoid and the field False; else the config itself."""
    if not is_sigmoid(config) or config.data.get("multi_label") is not False:
        return config
    config = config.copy_and_resolve_references()
    config.data.multi_label = True
    return config.lock()


def fill_encoder_fields(config):
    """Sets the fields of config.video_branch that are None to those of the weights, or without weights of `UNTRAINED_ENCODER`.

    Fields of the branch with a value stay: where they differ from the weights', loading refuses them. The weights are read here
    for their description alone and once more to start from them, since kept until then they would take their size of memory.

    Args, Returns: see `fill_fields`.

    Raises:
      ConfigError: the weights are missing or damaged, or no config describes their encoder.
    """
    branch = config.get("video_branch", {})
    unset = [name for name in UNTRAINED_ENCODER if name in branch and branch[name] is None]
    if not unset:
        return config, []
    values = UNTRAINED_ENCODER
    if config.init_from not in ("", UNTRAINED):
        from cvmae.interop.adapt import InitFrom, encoder_fields  # slow to import, and every config file imports this module

        with config_errors("init_from"):
            values = values | encoder_fields(InitFrom(config.init_from, inflate=branch.inflate), branch.variant or "")
    filled = config.copy_and_resolve_references()
    filled.video_branch.update({name: values[name] for name in unset})
    return filled.lock(), _recipe_notes(filled, unset)


def _recipe_notes(config, filled: list[str]) -> list[str]:
    variant = config.video_branch.variant
    size = variant.partition("/")[0]
    if config.task != "finetune" or "variant" not in filled or size == "B":
        return []
    return [
        f"note: the weights are of {variant}, and batch size, rates and epochs of this config are those of B: if it has a recipe "
        f"for {size}, variant={variant} behind the config's name takes it"
    ]
