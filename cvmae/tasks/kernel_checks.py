"""Check that the devices of a run can take the attention kernel that a config names, before anything is compiled or written."""

from collections.abc import Iterator
from typing import NamedTuple

from cvmae.config import ConfigError
from cvmae.models import build
from cvmae.models.attention import runnable, why_not
from cvmae.models.patches import Grid
from cvmae.models.vit import ViTSize, decode_variant
from cvmae.objective.terms import active_terms
from cvmae.parallel.logical_axes import Rules, target_device


class Stack(NamedTuple):
    """Blocks of attention: the section of the config that they come from, their size, and the most tokens that they attend to."""

    section: str
    size: ViTSize
    tokens: int


def check_kernel(config, rules: Rules) -> None:
    """Raises ConfigError where config.attention does not run on the devices of `rules`: what they can take, and the flag to set.

    The parts of the config must fit together already, as `validate` checks them.
    """
    for stack in _stacks(config):
        _check_stack(config, rules, stack)


def check_encoder_kernel(config, grid: Grid, rules: Rules) -> None:
    """Raises ConfigError as `check_kernel` does, for the video encoder alone, on clips of another grid than the config's."""
    _check_stack(config, rules, _encoder(config, "video_branch", grid))


def _check_stack(config, rules: Rules, stack: Stack) -> None:
    device, size = target_device(rules), stack.size
    shape = (stack.tokens, size.heads, size.width // size.heads, rules)
    reason = why_not(config.attention, device, build.DTYPES[config.dtype], *shape)
    if not reason:
        return
    others = ", ".join(kernel for kernel in runnable(device, build.DTYPES[config.dtype], *shape) if kernel != "auto")
    narrower = (
        "" if why_not(config.attention, device, build.DTYPES["bfloat16"], *shape) else ", or --config.dtype=bfloat16 with it"
    )
    raise ConfigError(
        f"config.attention={config.attention!r} cannot run in config.{stack.section} on this device: {reason}; "
        f"set --config.attention=auto, or one of {others}{narrower}"
    )


def _stacks(config) -> Iterator[Stack]:
    """Yields the encoders, decoders and heads of a task."""
    if config.task != "pretrain":
        encoder = _encoder(config, "video_branch", build.video_grid(config))
        yield encoder
        yield from _head(config, encoder)
        return
    terms = active_terms(config)
    for name, grid_of in (("video", build.video_grid), ("image", build.image_grid)):
        if not getattr(terms, f"{name}_branch"):
            continue
        encoder = _encoder(config, f"{name}_branch", grid_of(config))
        yield encoder
        if terms.has_decoder(name):
            c = config[f"{name}_branch"].decoder
            yield Stack(f"{name}_branch.decoder", ViTSize(c.width, c.depth, c.heads), encoder.tokens)


def _encoder(config, section: str, grid: Grid) -> Stack:
    branch = config[section]
    tokens = grid.tokens + int(branch.cls_token) + branch.get("registers", 0)  # configs of before the field lack it
    if branch.get("backbone", "vit") == "factorized":
        tokens = max(grid.spatial_patches, grid.time_patches)
    return Stack(section, decode_variant(branch.variant)[0], tokens)


def _head(config, encoder: Stack) -> Iterator[Stack]:
    """Yields the attention that pools tokens, where a task has it."""
    width, tokens = encoder.size.width, encoder.tokens
    if config.task == "attentive":
        c = config.probe
        yield Stack("probe", ViTSize(width, c.blocks, c.heads), tokens * c.get("clips", 1))
    if config.task == "finetune" and config.head.pool == "attentive":
        yield Stack("head", ViTSize(width, config.head.blocks, config.head.heads), tokens)
