"""Parsing compiled programs: iterations of loops, collectives, bytes of slices, source lines, and errors about memory."""

import jax
import jax.numpy as jnp
import pytest

from cvmae.performance import chips, compile, hlo, hlo_cost, oom, peak
from cvmae.performance.hlo import PACKAGE, SourceLines
from tests.performance.programs import NOT_PLACED, PLACED, TPU

TEXT = TPU % {"package": PACKAGE}


@pytest.fixture(scope="module")
def program():
    return hlo.parse(TEXT)


def test_the_iterations_of_a_loop_come_from_its_condition(program):
    assert program.loops == {"while.1": 3}
    assert [program.times[name] for name in ("main", "body", "fused_dot", "add.1")] == [1, 3, 3, 0]


def test_xlas_annotation_of_a_loop_has_priority():
    text = TEXT.replace("body=%body, ", 'body=%body, backend_config={"known_trip_count":{"n":"12"}}, ')
    assert hlo.parse(text).loops == {"while.1": 12}


def test_a_loop_of_unknown_length_counts_as_one_iteration():
    unknown = hlo.parse(TEXT.replace("%bound = s32[]{:T(128)} constant(3)", "%bound = s32[]{:T(128)} copy(%state.1)"))
    assert unknown.loops == {"while.1": None} and unknown.times["body"] == 1


def test_a_loop_that_ends_otherwise_is_of_unknown_length():
    assert hlo.parse(TEXT.replace("direction=LT", "direction=NE")).loops == {"while.1": None}


def test_text_that_is_not_a_program_raises():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing")


def test_matrix_products_count_as_often_as_they_run(program):
    assert sum(op.flops * op.times for op in hlo_cost.ops(program)) == 3 * 2 * 32 * 64 * 64
    [product] = [op for op in hlo_cost.ops(program) if op.flops]
    assert (product.cycles, product.times, product.source.endswith("dot_general")) == (1000, 3, True)


def test_of_a_sliced_operand_the_slice_is_read_and_on_chip_results_are_not_written(program):
    [product] = [op for op in hlo_cost.ops(program) if op.flops]
    assert product.bytes == 64 * 128 * 4 + 4 + 32 * 128 * 2  # both lie in tiles of 128 lanes


def test_operands_on_the_chip_are_not_read_from_memory():
    gathered = "%gather = bf16[32,64]{1,0:T(8,128)(2,1)"
    [product] = [op for op in hlo_cost.ops(hlo.parse(TEXT.replace(gathered, gathered + "S(1)"))) if op.flops]
    assert product.bytes == 64 * 128 * 4 + 4


@pytest.mark.parametrize(
    ("text", "padded"),
    [
        ("bf16[64,16,1920,32]{3,2,1,0:T(8,128)(2,1)}", 2 * 64 * 16 * 1920 * 128),
        ("bf16[64,16,1569,128]{3,2,1,0:T(8,128)(2,1)}", 2 * 64 * 16 * 1576 * 128),
        ("f32[4,30,5]{0,2,1:T(8,128)}", 4 * 30 * 8 * 128),  # the first dimension has its elements side by side
        ("f32[300]{0:T(256)}", 4 * 512),
        ("pred[]{:T(512)}", 1),
        ("f32[300,5]{1,0}", 4 * 1500),  # no tiles: CPUs and GPUs
        ("f32[300,5]", 4 * 1500),
    ],
)
def test_arrays_take_whole_tiles_of_memory(text, padded):
    [array] = hlo.arrays_of(text)
    assert array.padded_bytes == padded >= array.bytes and not array.space


def test_gathers_without_a_count_of_xlas_take_the_time_of_their_bytes():
    gather = "%pick = bf16[4096,64]{1,0:T(8,128)(2,1)} fusion(%x.1), kind=kCustom, calls=%fused_gather"
    program = hlo.parse(TEXT.replace("  %nought", f"  {gather}\n  %nought", 1))
    [pick] = [op for op in hlo_cost.ops(program) if op.bytes > 2**20]
    assert (pick.cycles, pick.kernel, pick.overlaps) == (0, False, False)
    chip = chips.parse_topology("v5e:2x2")
    seconds = compile.estimate(hlo_cost.ops(program), [], chip), compile.estimate(hlo_cost.ops(hlo.parse(TEXT)), [], chip)
    assert seconds[0].no_cycles - seconds[1].no_cycles == pytest.approx(pick.bytes / 819e9)
    assert seconds[0].cycles - seconds[0].no_cycles == pytest.approx(3 * 1000 / 1.5e9)


def test_kernels_take_the_time_of_their_bytes_or_of_their_products():
    ops, chip = hlo_cost.ops(hlo.parse(TEXT)), chips.parse_topology("v5e:2x2")
    [kernel] = [op for op in ops if op.kernel]
    assert compile.estimate(ops, [], chip).kernels == pytest.approx(kernel.bytes / 819e9)
    assert compile.estimate(ops, [], chip, kernel_flops=4 * 197 * 10**12).kernels == pytest.approx(1)
    assert compile.estimate([kernel], [], chip).roofline == 0


def test_collectives_count_once_a_channel_and_as_often_as_they_run(program):
    by_kind = {c.kind: c for c in hlo_cost.collectives(program, 4)}
    assert len(hlo_cost.collectives(program, 4)) == 2
    gather, reduce = by_kind["all-gather"], by_kind["all-reduce"]
    assert (gather.bytes, gather.group, gather.times) == (32 * 64 * 2, 4, 3)
    assert gather.sent == 32 * 64 * 2 * 3 / 4
    assert (reduce.bytes, reduce.group, reduce.times) == (64 * 4, 2, 1)
    assert reduce.sent == 64 * 4 * 2 * 1 / 2


@pytest.mark.parametrize(
    ("groups", "size"),
    [("{{0,1,2},{3,4,5}}", 3), ("[4,2]<=[8]", 2), ("[2,4]<=[4,2]T(1,0)", 4), ("mesh['a'=2,'b'=4] {'a','b'}", 8), ("{}", 6)],
)
def test_groups_of_every_spelling(groups, size):
    text = TEXT.replace("replica_groups=[2,2]<=[4]", f"replica_groups={groups}")
    [reduce] = [one for one in hlo_cost.collectives(hlo.parse(text), 6) if one.kind == "all-reduce"]
    assert reduce.group == size


def test_started_collectives_count_what_they_receive():
    start = (
        "%s = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) all-gather-start(%x.1), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}"
    )
    scatter = (
        "%r = bf16[2,64]{1,0} reduce-scatter(%x.1), channel_id=2, replica_groups=[1,4]<=[4], dimensions={0}, to_apply=%add.1"
    )
    program = hlo.parse(TEXT.replace("  %nought", f"  {start}\n  {scatter}\n  %nought", 1))
    sizes = {one.kind: one.bytes for one in hlo_cost.collectives(program, 4) if one.times == 1}
    assert sizes["all-gather"] == 32 * 64 * 2 and sizes["reduce-scatter"] == 8 * 64 * 2


def test_an_all_reduce_in_a_fusion_that_keeps_a_slice_is_a_reduce_scatter():
    """TPUs have no other; shortened from libtpu's text of a step whose moments lie over eight devices."""
    reduce = "f32[128,32]{1,0:T(8,128)} all-reduce(%input_0), channel_id=3, replica_groups=[1,4]<=[4], to_apply=%add.1"
    fused = f"""%all-reduce-scatter.3 (input_0: f32[128,32]) -> f32[32,32] {{
  %input_0 = f32[128,32]{{1,0:T(8,128)}} parameter(0)
  %all-reduce.348 = {reduce}
  %offset = s32[]{{:T(128)}} constant(0)
  ROOT %part = f32[32,32]{{1,0:T(8,128)}} dynamic-slice(%all-reduce.348, %offset, %offset), dynamic_slice_sizes={{32,32}}
}}

%body ("""
    call = "%gradient = f32[128,32]{1,0:T(8,128)} constant({...})\n  %s = f32[32,32]{1,0:T(8,128)} fusion(%gradient), kind=kCustom, calls=%all-reduce-scatter.3"
    text = TEXT.replace("%body (", fused, 1).replace("  %nought", f"  {call}\n  %nought", 1)
    [scatter] = [one for one in hlo_cost.collectives(hlo.parse(text), 4) if one.kind == "reduce-scatter"]
    assert (scatter.bytes, scatter.group) == (128 * 32 * 4, 4) and scatter.sent == 128 * 32 * 4 * 3 / 4


def test_calls_out_of_the_program_are_named(program):
    assert hlo_cost.uncounted(program) == {"tpu_custom_call": 1}


def test_lines_of_code_are_those_of_this_package_where_there_is_one(program):
    lines = SourceLines(TEXT)
    body = program.computations["body"]
    assert lines.of(body["product"]) == "cvmae/models/vit.py:160"
    assert lines.of(program.computations["main"]["mean"]) == "cvmae/models/vit.py:160"
    assert lines.of(body["next"]) == ""


def test_the_largest_arrays_at_the_peak_are_named(program):
    size, alive = peak.peak(program, "body")
    assert size == 2 * 32 * 128 * 2 and {one.name for _, one in alive} == {"gather", "gather.2"}
    [first, *_] = peak.largest_arrays(program, SourceLines(TEXT))
    assert (first.bytes, first.shape, first.line) == (32 * 128 * 2, "bf16[32,64]", "cvmae/models/vit.py:160")
    assert first.operator.endswith("blocks/while/body/all_gather")


def test_peak_memory_is_xlas_own(optimized):
    """A program without loops, on CPU, where XLA pads nothing."""

    def chain(x, w):
        for _ in range(3):
            x = jnp.sin(x @ w) @ w.T
        return x.sum()

    shapes = jax.ShapeDtypeStruct((256, 256), jnp.float32), jax.ShapeDtypeStruct((256, 512), jnp.float32)
    compiled = jax.jit(jax.grad(chain)).lower(*shapes).compile()
    program = hlo.parse(compiled.as_text())
    entry = next(reversed(program.computations))
    assert peak.peak(program, entry)[0] == pytest.approx(compiled.memory_analysis().temp_size_in_bytes, rel=0.25)


def test_an_error_with_allocations_is_parsed():
    error = oom.read_refusal(PLACED)
    assert (error.used, error.available) == (round(63.80 * 2**30), round(30.75 * 2**30))
    first, second = error.allocations
    assert first == oom.Allocation(2 * 2**30, "f32[32,4096,4096]{1,2,0:T(8,128)}", first.operator, "/x/vit.py:105")
    assert first.operator == "jit(step)/jvp(video)/blocks/block0/attention/dot_general"
    assert (second.bytes, second.operator, second.line) == (round(512.5 * 2**20), "", "")


def test_an_error_before_allocation_is_parsed():
    assert oom.read_refusal(NOT_PLACED) == oom.TooLarge(round(39.7 * 2**30), round(15.75 * 2**30), ())
    early = "RESOURCE_EXHAUSTED: Aborting compilation early because it's unlikely to have enough device memory. Requires 40.10G, has 15.48G available."
    assert oom.read_refusal(early).available == round(15.48 * 2**30)
    assert oom.read_refusal("RESOURCE_EXHAUSTED: something new") == oom.TooLarge(0, 0, ())


def test_other_errors_are_not_about_memory():
    assert oom.read_refusal("INVALID_ARGUMENT: No such compile option: 'xla_x'") is None
    with pytest.raises(ValueError, match="'12 apples' is no size"):
        oom.size_of("12 apples")
