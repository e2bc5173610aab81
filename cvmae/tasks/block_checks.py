"""Checks of the blocks of the encoder that a downstream task reads or draws, before weights are loaded."""

from cvmae.config import require
from cvmae.models import build


def check_blocks(config) -> None:
    """Raises ConfigError, with the flag to set, where the encoder lacks blocks that a task reads, or has none to read one by one."""
    branch = config.video_branch
    depth, _ = build.num_blocks(branch)
    require(
        config.task != "visualize" or not _is_factorized(config),
        "config.task='visualize' draws the attention of a ViT, and this encoder has config.video_branch.backbone='factorized': give a "
        "ViT's weights, or take this one's features by task=extract, knn, retrieval, linear, attentive or finetune",
    )
    for section in ("features", "extract", "visualize"):
        layer = config.get(section, {}).get("layer", -1)
        flag = f"--config.{section}.layer"
        _check_readable(config, f"config.{section}.layer={layer}", layer != -1, f"{flag}=-1")
        require(
            layer < depth,
            f"config.{section}.layer={layer} is not there: {branch.variant} has {depth} blocks, 0 to {depth - 1}: set {flag}={depth - 1}, or "
            "-1 for the encoder's output",
        )
    layers = tuple(config.get("probe", {}).get("layers", ()))
    _check_readable(config, f"config.probe.layers={layers}", set(layers) - {-1}, "--config.probe.layers='(-1,)'")
    there = f"'({','.join(map(str, range(-min(depth, len(layers)), 0)))},)'"
    for layer in layers:
        require(
            -depth <= layer < depth,
            f"config.probe.layers has {layer}: {branch.variant} has {depth} blocks, {-depth} to {depth - 1}: set, for example, "
            f"--config.probe.layers={there}",
        )


def _is_factorized(config) -> bool:
    return config.video_branch.get("backbone", "vit") == "factorized"


def _check_readable(config, field: str, reads_blocks, flag: str) -> None:
    """Raises ConfigError where a field reads single blocks of an encoder whose output alone can be read."""
    require(
        not reads_blocks or not _is_factorized(config),
        f"{field} reads blocks of a ViT, and this encoder has config.video_branch.backbone='factorized', whose output alone is read: set "
        f"{flag}",
    )
