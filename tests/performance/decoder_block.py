"""Compiles a block of the video decoder for one TPU chip, forward and backward, and prints where XLA's cycles go. Nothing is run.

    python -m tests.performance.decoder_block v5e:2x2 lanes 16 full

The arguments are topology, attention, heads, remat, and optionally clips (64), tokens (1569) and the activation (gelu). XLA counts no cycles of
Pallas kernels: with LIBTPU_INIT_ARGS="--xla_jf_dump_to=DIR --xla_jf_dump_llo_text=true" the compiler writes their instruction bundles,
DIR/*lanes_attention*-schedule-analysis_final_bundles.txt; a bundle is a cycle where nothing waits for memory.
"""

import dataclasses
import re
import sys
from typing import Any, cast

import jax
import jax.numpy as jnp

from cvmae.models.attention import AttentionKernel
from cvmae.models.vit import MLP, Block, Blocks, Remat, TransformerConfig, ViTSize
from cvmae.parallel.mesh import AXES, make_rules
from cvmae.performance import chips, hlo

MOVES = {"copy", "copy-start", "copy-done", "slice", "dynamic-slice", "pad", "transpose", "reshape", "concatenate"}
VIEWS = {"parameter", "constant", "bitcast", "broadcast", "convert", "tuple", "get-tuple-element", "dynamic-update-slice", "iota"}


@dataclasses.dataclass(frozen=True)
class Cycles:
    """XLA's estimated cycles of a program: all, those of operations that only move numbers, and the bytes of its temporaries."""

    total: int
    moves: int
    temporary: int


def compile_block(
    topology: str,
    attention: AttentionKernel,
    heads: int,
    remat: Remat,
    clips: int = 64,
    tokens: int = 1569,
    mlp: MLP = "gelu",
):
    """Compiles the gradient of one block of width 512 in bfloat16, in the loop that `scan` runs it in."""
    device = chips.devices_of(chips.parse_topology(topology))[0]
    mesh = jax.sharding.Mesh([[[device]]], AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    rules = make_rules(mesh, {"batch": "data+fsdp", "heads": "model"})
    trunk = TransformerConfig(
        ViTSize(512, 1, heads), attention=attention, dtype=jnp.bfloat16, remat=remat, scan=True, rules=rules, mlp=mlp
    )
    plain = Block(dataclasses.replace(trunk, attention="einsum", rules=None))
    params = jax.eval_shape(lambda: {"block0": plain.init(jax.random.key(0), jnp.zeros((1, 8, 512)))["params"]})
    x = jax.ShapeDtypeStruct((clips, tokens, 512), jnp.bfloat16)
    place = rules.sharding((), ())

    def loss(params, x, direction):
        return (Blocks(trunk).apply({"params": params}, x) * direction).astype(jnp.float32).sum()

    arguments = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), (params, x, x))
    return jax.jit(jax.grad(loss, (0, 1))).trace(*arguments).lower().compile()


def cycles_of(program) -> Cycles:
    """Sums the estimated cycles of a compiled program."""
    module = hlo.parse(program.as_text())
    total = moves = 0
    for computation, instruction, times in module.running():
        estimated = re.search(r'estimated_cycles":"(\d+)"', instruction.rest)
        if computation in module.fused or not estimated:
            continue
        cycles = times * int(estimated[1])
        total += cycles
        moves += cycles * _only_moves(module, instruction)
    return Cycles(total, moves, program.memory_analysis().temp_size_in_bytes)


def _only_moves(module, instruction) -> bool:
    """Returns True for an operation, or a fusion of operations, that computes nothing."""
    if instruction.opcode != "fusion":
        return instruction.opcode in MOVES
    inner = [i for role, callee in instruction.called if role == "calls" for i in module.computations[callee].values()]
    return all(i.opcode in MOVES | VIEWS or (i.opcode == "fusion" and _only_moves(module, i)) for i in inner)


if __name__ == "__main__":
    if len(sys.argv) < 5 or "--help" in sys.argv:
        sys.exit(__doc__)
    topology, attention, heads, remat, *rest = sys.argv[1:]
    words: dict[str, Any] = dict(zip(("clips", "tokens", "mlp"), [*map(int, rest[:2]), *rest[2:]]))
    compiled = compile_block(topology, cast(AttentionKernel, attention), int(heads), cast(Remat, remat), **words)
    cycles = cycles_of(compiled)
    kernels = compiled.as_text().count('custom_call_target="tpu_custom_call"')
    print(
        f"{' '.join(sys.argv[1:])}: {cycles.total / 1e6:.2f} million cycles, {cycles.moves / max(1, cycles.total):.0%} of them only move "
        f"numbers; temporaries {cycles.temporary / 2**30:.2f} GiB; {kernels} Pallas kernels, not counted"
    )
