"""Latency of the video encoder on clips of several lengths: a frozen encoder on one device, nothing masked."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cvmae.models.build import build_encoder, grid_of
from cvmae.parallel.mesh import make_mesh, make_rules
from cvmae.performance.gpu_report import AttentionUse, record_attention
from cvmae.performance.timing import Times, alternate


@dataclasses.dataclass(frozen=True)
class EncoderLatency:
    """Time of the encoder on one clip.

    Attributes:
      frames: of the clip; tokens: of the encoder.
      attention: the kernel that it takes.
      times: rounds, each from a clip that is on the device to its tokens.
    """

    frames: int
    tokens: int
    attention: str
    times: Times


def compile_encoder(config, frames: int):
    """Compiles the encoder of a config for one clip of `frames` frames: (function that runs it to its end, AttentionUse).

    Raises:
      ValueError: the encoder does not take this number of frames.
    """
    grid = grid_of(config.video_branch, frames, config.augment.size)
    rules = make_rules(make_mesh(config.mesh, jax.devices()[:1]), config.sharding)
    encoder = build_encoder(config, config.video_branch, grid, rules=rules)
    clip = jax.random.normal(jax.random.key(0), (1, frames, grid.height, grid.width, 3), jnp.float32)
    params = jax.jit(encoder.init)(jax.random.key(1), clip)
    uses: set[AttentionUse] = set()
    with record_attention(uses):
        traced = jax.jit(lambda params, clip: encoder.apply(params, clip).tokens).trace(params, clip)
    program = traced.lower().compile()
    [use] = uses
    return (lambda: jax.block_until_ready(program(params, clip))), use


def measure_encoder(config, frames: Sequence[int], *, rounds: int, warmup: int) -> list[EncoderLatency]:
    """Times the video encoder with random weights on single clips, in alternation.

    Args:
      config: gives the encoder, the size of frames and the dtype.
      frames: numbers of frames, multiples of the tubelet.
      rounds: timed rounds.
      warmup: rounds before them.

    Raises:
      ValueError: the encoder does not take one of the numbers.
    """
    programs = {str(number): compile_encoder(config, number) for number in frames}
    times = alternate({name: run for name, (run, _) in programs.items()}, rounds, warmup)
    uses = {name: use for name, (_, use) in programs.items()}
    return [EncoderLatency(int(name), uses[name].tokens, uses[name].kernel, times[name]) for name in programs]
