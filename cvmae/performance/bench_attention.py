"""Times of attention's kernels at the shapes of a training step, forward and backward pass, in alternation."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cvmae.models.attention import attend
from cvmae.models.build import DTYPES
from cvmae.parallel.logical_axes import Rules
from cvmae.parallel.mesh import make_mesh, make_rules
from cvmae.performance.timing import Times, alternate
from cvmae.performance.traced_step import TracedStep

# Kernels that compute on a platform, as its users would choose between them; Pallas kernels are interpreted elsewhere than on TPUs.
KERNELS = {"cpu": ("einsum", "blocked", "xla"), "gpu": ("cudnn", "xla"), "tpu": ("lanes", "splash", "xla")}


@dataclasses.dataclass(frozen=True)
class AttentionTimes:
    """The kernels' times at one shape.

    Attributes:
      tokens: of a clip; heads: their number; width: of one.
      taken: the kernel that the step takes.
      times: rounds by kernel.
      failed: {kernel: reason} of those that do not run on these arrays.
    """

    tokens: int
    heads: int
    width: int
    taken: str
    times: dict[str, Times]
    failed: dict[str, str]


def compile_kernel(kernel: str, rules: Rules, shape: tuple[int, int, int, int], dtype):
    """Compiles a kernel's forward and backward pass on one device, and returns a function that runs it to its end.

    Args:
      kernel: one of `models.attention.ATTENTIONS`.
      rules: of the device.
      shape: of queries, keys and values: clips, tokens, heads, width.
      dtype: of them.

    Raises:
      ValueError: the kernel does not run on this device, dtype or shape.
      jax.errors.JaxRuntimeError: the compiler or the device refuses it.
    """
    query, key, value, direction = (jax.random.normal(jax.random.key(number), shape, dtype) for number in range(4))

    def weighted(query, key, value):
        return (attend(query, key, value, kernel, rules) * direction).astype(jnp.float32).sum()

    program = jax.jit(jax.grad(weighted, (0, 1, 2))).lower(query, key, value).compile()
    return lambda: jax.block_until_ready(program(query, key, value))


def measure_attention(config, *, rounds: int, warmup: int, kernels: Sequence[str] = ()) -> list[AttentionTimes]:
    """Times kernels at every shape of attention in the training step of a config, on one device and in the config's dtype.

    Args:
      config: of a task that trains; a batch is config.batch_size clips.
      rounds: timed rounds.
      warmup: rounds before them.
      kernels: some of `models.attention.ATTENTIONS`; () takes those of KERNELS.

    Raises:
      ConfigError: the config cannot run, or its task does not train.
    """
    device = jax.devices()[0]
    names = kernels or KERNELS[device.platform]
    rules, dtype = make_rules(make_mesh(config.mesh, [device]), config.sharding), DTYPES[config.dtype]
    shapes = sorted(TracedStep(config, [device]).attention, key=lambda use: use.tokens)
    measured = []
    for use in shapes:
        programs, failed = {}, {}
        for name in names:
            try:
                programs[name] = compile_kernel(name, rules, (config.batch_size, use.tokens, use.heads, use.width), dtype)
            except (ValueError, jax.errors.JaxRuntimeError) as error:
                failed[name] = str(error).partition("\n")[0]
        times = alternate(programs, rounds, warmup)
        measured.append(AttentionTimes(use.tokens, use.heads, use.width, use.kernel, times, failed))
    return measured
