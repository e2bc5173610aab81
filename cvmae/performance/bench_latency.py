"""Latency and memory of the video encoder on clips of several lengths: a frozen encoder on one device, nothing masked."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cvmae.models.backbone import Backbone
from cvmae.models.build import build_encoder, grid_of
from cvmae.parallel.mesh import make_mesh, make_rules
from cvmae.performance.gpu_report import AttentionUse, record_attention
from cvmae.performance.oom import read_refusal
from cvmae.performance.timing import Times, alternate
from cvmae.tasks.kernel_checks import check_encoder_kernel


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


@dataclasses.dataclass(frozen=True)
class EncoderCost:
    """Time and memory of the encoder on one clip.

    Attributes:
      frames: of the clip.
      tokens: of the encoder.
      attention: the kernel that it takes.
      parameters, temporary, total: bytes of the device, from the compiled program: the encoder's parameters, what lives within a
        call, and with the clip and the tokens all of it.
      times: as in `EncoderLatency`; None where it does not fit.
      problem: why there are no times; empty where there are.
    """

    frames: int
    tokens: int
    attention: str
    parameters: int
    temporary: int
    total: int
    times: Times | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class CompiledEncoder:
    """The program of an encoder for one clip, with random weights.

    Attributes:
      program: (parameters, clip) -> tokens.
      encoder: the module.
      clip: shape and dtype of the clip.
      tokens: of the clip, with those that attention has beside its patches.
      kernel: of attention; of an encoder that attends over space and over time, that of the longer one.
    """

    program: Any
    encoder: Backbone
    clip: jax.ShapeDtypeStruct
    tokens: int
    kernel: str

    @classmethod
    def of(cls, config, frames: int) -> "CompiledEncoder":
        """Compiles for a clip of `frames` frames.

        Raises:
          ValueError: the encoder does not take this number of frames.
          ConfigError: the attention of the config does not run here.
        """
        grid = grid_of(config.video_branch, frames, config.augment.size)
        rules = make_rules(make_mesh(config.mesh, jax.devices()[:1]), config.sharding)
        check_encoder_kernel(config, grid, rules)
        encoder = build_encoder(config, config.video_branch, grid, rules=rules)
        clip = jax.ShapeDtypeStruct((1, frames, grid.height, grid.width, 3), jnp.float32)
        params = jax.eval_shape(encoder.init, jax.random.key(1), clip)
        uses: set[AttentionUse] = set()
        with record_attention(uses):
            traced = jax.jit(lambda params, clip: encoder.apply(params, clip).tokens).trace(params, clip)
        program = traced.lower().compile()
        longest = max(uses, key=lambda use: use.tokens)
        return cls(program, encoder, clip, max(longest.tokens, grid.tokens), longest.kernel)

    def caller(self) -> Callable[[], object]:
        """Returns a function that runs it to its end, on a clip and parameters that are on the device."""
        clip = jax.random.normal(jax.random.key(0), self.clip.shape, self.clip.dtype)
        params = jax.jit(self.encoder.init)(jax.random.key(1), clip)
        return lambda: jax.block_until_ready(self.program(params, clip))


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
    programs = {str(number): CompiledEncoder.of(config, number) for number in frames}
    times = alternate({name: program.caller() for name, program in programs.items()}, rounds, warmup)
    return [EncoderLatency(int(n), one.tokens, one.kernel, times[n]) for n, one in programs.items()]


def measure_lengths(config, frames: Sequence[int], *, rounds: int, warmup: int) -> Iterator[EncoderCost]:
    """Times the video encoder on single clips, one length after the other, and counts its memory: one length is on the device at a time.

    As `colabs/rvm_runtime_and_memory.ipynb` of google-deepmind/representations4d, which compares encoders on one clip of 16 to 1,024 frames
    of 256x256. Arguments and errors are those of `measure_encoder`. A length that does not fit has no times.
    """
    for number in frames:
        compiled = CompiledEncoder.of(config, number)
        analysis = compiled.program.memory_analysis()
        arguments, temporary = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
        total = arguments + temporary + analysis.output_size_in_bytes
        times: Times | None = None
        problem = _beyond_host(total)
        if not problem:
            try:
                [times] = alternate({"": compiled.caller()}, rounds, warmup).values()
            except jax.errors.JaxRuntimeError as error:
                if read_refusal(str(error)) is None:
                    raise
                problem = "does not fit in the memory of the device"
        parameters = arguments - math.prod(compiled.clip.shape) * compiled.clip.dtype.itemsize
        yield EncoderCost(number, compiled.tokens, compiled.kernel, parameters, temporary, total, times, problem)


def _beyond_host(size: int) -> str:
    """Returns why a program does not fit in this machine, which ends a process on a CPU that takes more; empty where it may fit."""
    if jax.default_backend() != "cpu":
        return ""
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"does not fit in the {here / 2**30:.1f} GiB of this machine" if size > here else ""
