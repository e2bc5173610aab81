"""Plans for GPUs without one: descriptions of GPUs, operations of NVIDIA's libraries, products outside bfloat16, attention, kernels."""

import re
import types

import jax
import jax.numpy as jnp
import pytest

from cvmae.models.vit import Blocks, TransformerConfig, ViTSize
from cvmae.performance import chips, compile, gpu_report, hlo, hlo_cost, hlo_flops, search
from cvmae.performance.flops import attention_flops
from cvmae.performance.gpus import GPUS, MEMORY_FRACTION, target_config
from cvmae.performance.hlo import PACKAGE, SourceLines
from cvmae.performance.memory import Memory
from tests.performance.programs import GPU

TEXT = GPU % {"package": PACKAGE}
H100 = chips.CHIPS["h100"]


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_is_described_by_its_published_numbers(name):
    gpu, text = GPUS[name], target_config(GPUS[name])
    fields = dict(re.findall(r"^  (\w+): (\S+)$", text, re.M))
    assert int(fields["core_count"]) * int(fields["fpus_per_core"]) * 2e9 * float(fields["clock_rate_ghz"]) == pytest.approx(
        gpu.float32, rel=1e-3
    )
    assert int(fields["shared_memory_per_block_optin"]) + 1024 == int(fields["shared_memory_per_core"])
    assert text.count("{") == text.count("}") and f'"{gpu.device}"' in text
    chip = chips.CHIPS[name]
    assert chip.hbm == int(MEMORY_FRACTION * gpu.memory) and gpu.float32 < gpu.flops / 2 < chip.flops


def test_gpus_are_numbered_and_in_hosts():
    topology = chips.parse_topology("h100:8", 4)
    assert (topology.count, topology.slices, topology.chip.gpu) == (32, 4, GPUS["h100"])


def test_a_program_fits_in_the_part_of_the_memory_that_jax_takes():
    size = chips.CHIPS["h100"].hbm

    def fits(total: int) -> bool:
        memory = Memory(0, 0, 0, 0, 0, total, 0, 0, 0)
        cost = compile.ProgramCost(memory, 1, 0.0, 0, {}, None, (), (), 0.0)
        return search.fits_in_memory(cost, chips.parse_topology("h100:1"))

    assert fits(size) and not fits(size + 1) and size < 80e9


def test_calls_of_nvidias_libraries_are_counted_from_their_shapes(program):
    by_source = {op.source: op for op in hlo_cost.ops(program) if op.flops}
    assert by_source["jit(step)/attention"].flops == 4 * 8 * 16 * 1570 * 1570 * 32
    assert by_source["jit(step)/transpose(attention)"].flops == 10 * 8 * 16 * 1570 * 1570 * 32
    assert by_source["jit(step)/resize"].flops == 2 * 224 * 2048 * 256
    assert not hlo_cost.uncounted(program) and not any(op.kernel for op in hlo_cost.ops(program))


def test_a_workspace_is_not_read_or_written(program):
    [product] = [op for op in hlo_cost.ops(program) if op.source == "jit(step)/resize"]
    assert product.bytes == 4 * (224 * 2048 + 256 * 224 + 256 * 2048)


def test_traced_attention_of_cudnn_has_the_operations_of_its_products():
    shapes = [types.SimpleNamespace(aval=types.SimpleNamespace(shape=(2, n, 3, 8))) for n in (10, 12)]
    for name, products in (("dot_product_attention_fwd_wrapper", 2), ("dot_product_attention_bwd_wrapper", 5)):
        equation = types.SimpleNamespace(invars=shapes, primitive=types.SimpleNamespace(name=name))
        assert attention_flops(equation) == products * 2 * 2 * 3 * 10 * 12 * 8


def test_products_in_float32_are_named_by_line_and_cost_more(program):
    highest, default = gpu_report.slow_products(program, SourceLines(TEXT), H100)
    flops = 2 * 224 * 2048 * 256
    assert (highest.line, highest.precision, highest.runs) == ("cvmae/augment/geometry.py:48", "float32", 1)
    assert highest.seconds == pytest.approx(flops / 67e12 - flops / 989e12) and highest.flops == flops
    assert (default.precision, default.runs) == ("TensorFloat-32", 1)
    assert default.line == highest.line  # and not that of the function that records attention
    assert default.seconds == pytest.approx(flops / 989e12)
    seconds = [
        compile.estimate(ops, [], chips.parse_topology("h100:1")).roofline
        for ops in (hlo_cost.ops(program), hlo_cost.ops(program, H100))
    ]
    assert seconds[1] > seconds[0]
    [product] = [op for op in hlo_cost.ops(program, chips.CHIPS["v5e"]) if op.source == "jit(step)/resize"]
    assert (product.flops, product.slow_flops) == (flops, 0)  # whose cycles XLA counts


def test_kernels_are_counted_by_kind(program):
    kinds = gpu_report.kernels_by_kind(hlo_cost.ops(program))
    assert {kind: count for kind, (count, _) in kinds.items()} == {"cuDNN and cuBLAS": 4, "other fusions": 1}


def test_attention_is_recorded_with_the_reason_for_its_kernel():
    grid_tokens = jnp.zeros((1, 10, 32), jnp.bfloat16)
    uses: set[gpu_report.AttentionUse] = set()
    trunk = TransformerConfig(ViTSize(32, 2, 4), dtype=jnp.bfloat16, attention="auto")
    with gpu_report.record_attention(uses):
        jax.eval_shape(Blocks(trunk).init, jax.random.key(0), grid_tokens)
    [use] = uses
    assert (use.kernel, use.tokens, use.heads, use.width) == ("einsum", 10, 4, 8) and "this is cpu" in use.reason


def test_lines_name_attention_kernels_and_slow_products(program):
    slow = tuple(gpu_report.slow_products(program, SourceLines(TEXT), H100))
    uses = (gpu_report.AttentionUse("cudnn", 1569, 16, 32, ""), gpu_report.AttentionUse("xla", 9, 2, 12, "it takes heads of 8"))
    work = gpu_report.GPUWork(uses, slow, gpu_report.kernels_by_kind(hlo_cost.ops(program)))
    text = "\n".join(gpu_report.gpu_lines(work, count=1))
    for words in (
        "cudnn for 1569 tokens, 16 heads of 32, flash attention",
        "not cuDNN's flash attention: it takes heads of 8",
        "kernels: cuDNN and cuBLAS",
        "float32 at cvmae/augment/geometry.py:48",
        "1 more line, ",
    ):
        assert words in text
    assert "every matrix product" in "\n".join(gpu_report.gpu_lines(gpu_report.GPUWork((), (), {})))


def test_highest_precision_is_read_in_both_spellings():
    line = "  %d = f32[2,2]{1,0} dot(%a, %b), lhs_contracting_dims={1}, operand_precision={highest,highest}"
    assert hlo_flops.is_highest(hlo.read_instruction(line))
    assert not hlo_flops.is_highest(hlo.read_instruction(line.partition(", operand")[0]))
