"""What compiled programs use, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from maskgit_jax.performance.operations import count_operations, total_operations
from maskgit_jax.performance.usage import Collective, group_size, usage_of

HEADER = "HloModule m, is_scheduled=true, num_partitions=8\n\n"
ADD = """%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

"""
LOOPS = (
    HEADER
    + ADD
    + """%few (c: (s32[], f32[16])) -> pred[] {
  %c = (s32[], f32[16]{0}) parameter(0)
  %three = s32[] constant(3)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %three), direction=LT
}

%inner (p: (s32[], f32[16])) -> (s32[], f32[16]) {
  %p = (s32[], f32[16]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p), index=0
  %v = f32[16]{0} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[16]{0} all-reduce(%v), replica_groups=[4,2]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[16]{0}) tuple(%i.1, %all-reduce.1)
}

%outer (q: (s32[], f32[16])) -> (s32[], f32[16]) {
  %q = (s32[], f32[16]{0}) parameter(0)
  %zero = s32[] constant(0)
  %w = f32[16]{0} get-tuple-element(%q), index=1
  %begin = (s32[], f32[16]{0}) tuple(%zero, %w)
  ROOT %while.1 = (s32[], f32[16]{0}) while(%begin), condition=%few, body=%inner
}

ENTRY %main (a: f32[16]) -> f32[16] {
  %a = f32[16]{0} parameter(0)
  %none = s32[] constant(0)
  %begin.1 = (s32[], f32[16]{0}) tuple(%none, %a)
  %while.2 = (s32[], f32[16]{0}) while(%begin.1), condition=%few, body=%outer, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %r = f32[16]{0} get-tuple-element(%while.2), index=1
}
"""
)


def entry(*lines: str, before: str = ADD) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEADER}{before}ENTRY %main () -> f32[] {{\n{body}\n}}\n"


def test_what_stands_in_loops_counts_as_often_as_both_run():
    used = usage_of(LOOPS)
    assert used.collectives == {Collective("all-reduce", 64, 2): 15}
    assert used.traffic == 15 * 2 * 64  # read and written, each time


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    used = usage_of(LOOPS.replace("direction=LT", "direction=NE"))
    assert used.unknown_loops == ("while.1",)
    assert used.collectives == {Collective("all-reduce", 64, 2): 5}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 3 / 4 * 4096),
        ("reduce-scatter", 3 / 4 * 4096),
        ("all-to-all", 3 / 4 * 4096),
        ("all-gather", 3 * 4096),  # 4096 bytes are the part of each
        ("collective-permute", 4096),
    ],
)
def test_bytes_around_a_ring(kind, sent):
    assert Collective(kind, 4096, 4).sent == sent
    assert Collective(kind, 4096, 1).sent == (4096 if kind == "collective-permute" else 0)


def test_asynchronous_collectives_count_once_with_all_arrays_of_their_tuples():
    used = usage_of(
        entry(
            "%a = f32[8]{0} parameter(0)",
            "%b = bf16[4]{0} parameter(1)",
            "%all-reduce-start = (f32[8]{0}, bf16[4]{0}) all-reduce-start(%a, %b), "
            "replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add",
            "%all-reduce-done = (f32[8]{0}, bf16[4]{0}) all-reduce-done(%all-reduce-start)",
            "%all-gather-start = (f32[8]{0}, f32[64]{0}) all-gather-start(%a), dimensions={0}, "
            "replica_groups={}",
            "ROOT %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)",
        )
    )
    assert used.collectives == {
        Collective("all-reduce", 32 + 8, 4): 1,
        Collective("all-gather", 32, 8): 1,
    }
    assert used.traffic == (40 + 40) + (32 + 256)


def test_a_wrapped_collective_is_found():
    wrapped = """%wrapped (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %all-to-all.1 = f32[8]{0} all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}
}

"""
    used = usage_of(
        entry(
            "%a = f32[8]{0} parameter(0)",
            "%s = ((f32[8]{0}), f32[8]{0}, u32[]) async-start(%a), calls=%wrapped",
            "ROOT %d = f32[8]{0} async-done(%s)",
            before=wrapped,
        )
    )
    assert used.collectives == {Collective("all-to-all", 32, 4): 1}
    assert used.traffic == 64


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_scatter():
    fused = """%scatter (x: f32[8], i: s32[]) -> f32[2] {
  %x = f32[8]{0} parameter(0)
  %i = s32[] parameter(1)
  %all-reduce.2 = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %ds = f32[2]{0} dynamic-slice(%all-reduce.2, %i), dynamic_slice_sizes={2}
}

"""
    used = usage_of(
        entry(
            "%a = f32[8]{0} parameter(0)",
            "%n = s32[] parameter(1)",
            "ROOT %f = f32[2]{0} fusion(%a, %n), kind=kCustom, calls=%scatter",
            before=ADD + fused,
        )
    )
    assert used.collectives == {Collective("reduce-scatter", 32, 4): 1}


CHAIN = """%begin (x: f32[2]) -> (f32[2], f32[8]) {
  %x = f32[2]{0} parameter(0)
  %all-gather.1 = f32[8]{0} all-gather(%x), replica_groups=[2,4]<=[8], \
frontend_attributes={chain_id="2"}
  ROOT %c = (f32[2]{0:S(1)}, f32[8]{0}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%go_on (y: f32[2], whole: f32[8], z: f32[64]) -> (f32[64], f32[2], f32[8], f32[8]) {
  %y = f32[2]{0} parameter(0)
  %whole = f32[8]{0} parameter(1)
  %z = f32[64]{0} parameter(2)
  %own = f32[64]{0} negate(%z)
  %all-gather.2 = f32[8]{0} all-gather(%y), replica_groups=[2,4]<=[8], \
frontend_attributes={chain_id="2"}
  ROOT %t = (f32[64]{0}, f32[2]{0}, f32[8]{0}, f32[8]{0}) tuple(%own, %y, %whole, %all-gather.2)
}

%end (v: f32[2], w: f32[8]) -> f32[8] {
  %v = f32[2]{0} parameter(0)
  %w = f32[8]{0} parameter(1)
  %all-gather.3 = f32[8]{0} all-gather(%v), replica_groups=[2,4]<=[8], \
frontend_attributes={chain_id="2"}
  ROOT %d = f32[8]{0} custom-call(%v, %w, %all-gather.3), \
custom_call_target="AsyncCollectiveDone"
}

"""


def test_a_collective_that_goes_on_beside_fusions_counts_once():
    used = usage_of(
        entry(
            "%a = f32[2]{0} parameter(0)",
            "%b = f32[64]{0} parameter(1)",
            "%s = (f32[2]{0:S(1)}, f32[8]{0}) fusion(%a), kind=kCustom, calls=%begin",
            "%part = f32[2]{0} get-tuple-element(%s), index=0",
            "%buffer = f32[8]{0} get-tuple-element(%s), index=1",
            "%m = (f32[64]{0}, f32[2]{0}, f32[8]{0}, f32[8]{0}) fusion(%part, %buffer, %b), "
            "kind=kOutput, calls=%go_on",
            "%later = f32[8]{0} get-tuple-element(%m), index=2",
            "ROOT %e = f32[8]{0} fusion(%part, %later), kind=kCustom, calls=%end",
            before=CHAIN,
        )
    )
    assert used.collectives == {Collective("all-gather", 8, 4): 1}
    # The part is read and the whole written, once; beside it 64 numbers are read and written.
    assert used.traffic == (8 + 32) + 2 * 256


def test_all_ways_to_write_groups():
    def size(text):
        return group_size(f", replica_groups={text}, to_apply=%add", 16)

    assert size("{{0,1,2},{3,4,5}}") == 3
    assert size("[2,8]<=[16]") == 8
    assert size("[8,2]<=[2,8]T(1,0)") == 2
    assert size("mesh['a'=4,'b'=2,'c'=2] {'a','c'}") == 8
    assert size("mesh['a'=16] {'a':(2)4}") == 4
    assert size("{}") == 16
    assert group_size("channel_id=1", 16) == 16


FUSED = """%slices (stack: f32[24,8,128], i: s32[], w: f32[8,128]) -> f32[8,128] {
  %stack = f32[24,8,128]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %w = f32[8,128]{1,0} parameter(2)
  %renamed = f32[24,8,128]{2,1,0} bitcast(%stack)
  %one = f32[1,8,128]{2,1,0} dynamic-slice(%renamed, %i, %i, %i), dynamic_slice_sizes={1,8,128}
  %flat = f32[8,128]{1,0} bitcast(%one)
  ROOT %sum.1 = f32[8,128]{1,0} add(%flat, %w)
}

%updates (stack.1: f32[24,8,128], new: f32[1,8,128], j: s32[]) -> f32[24,8,128] {
  %stack.1 = f32[24,8,128]{2,1,0} parameter(0)
  %new = f32[1,8,128]{2,1,0} parameter(1)
  %j = s32[] parameter(2)
  ROOT %dus = f32[24,8,128]{2,1,0} dynamic-update-slice(%stack.1, %new, %j, %j, %j)
}

%outside (stack.2: f32[24,8,128], k: s32[], u: f32[8,128]) -> f32[8,128] {
  %stack.2 = f32[24,8,128]{2,1,0} parameter(0)
  %k = s32[] parameter(1)
  %u = f32[8,128]{1,0} parameter(2)
  ROOT %nested = f32[8,128]{1,0} fusion(%stack.2, %k, %u), kind=kLoop, calls=%slices
}

"""
PARAMETERS = (
    "%s = f32[24,8,128]{2,1,0} parameter(0)",
    "%n = s32[] parameter(1)",
    "%m = f32[8,128]{1,0} parameter(2)",
)
LAYER = 8 * 128 * 4


@pytest.mark.parametrize("computation", ["slices", "outside"])
def test_a_fusion_reads_of_a_stack_only_the_slice_that_it_takes(computation):
    line = f"ROOT %f = f32[8,128]{{1,0}} fusion(%s, %n, %m), kind=kLoop, calls=%{computation}"
    assert usage_of(entry(*PARAMETERS, line, before=FUSED)).traffic == 3 * LAYER + 4


def test_a_fusion_that_updates_a_stack_in_place_writes_the_update_only():
    used = usage_of(
        entry(
            *PARAMETERS,
            "%v = f32[1,8,128]{2,1,0} bitcast(%m)",
            "ROOT %f = f32[24,8,128]{2,1,0} fusion(%s, %v, %n), kind=kLoop, calls=%updates",
            before=FUSED,
        )
    )
    assert used.traffic == 2 * LAYER + 4


def test_single_instructions_on_stacks_touch_their_part_only():
    line = "%d = f32[1,8,128]{2,1,0} dynamic-slice(%s, %n, %n, %n), dynamic_slice_sizes={1,8,128}"
    assert usage_of(entry(*PARAMETERS, line)).traffic == 2 * LAYER + 3 * 4
    line = "%d = f32[24,8,128]{2,1,0} dynamic-update-slice(%s, %m, %n, %n, %n)"
    assert usage_of(entry(*PARAMETERS, line)).traffic == 2 * LAYER + 3 * 4


def test_what_lies_on_the_chip_is_free_and_its_copies_are_not():
    used = usage_of(
        entry(
            "%a = f32[8,128]{1,0:T(8,128)} parameter(0)",
            "%copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, "
            "u32[]{:S(2)}) copy-start(%a)",
            "%copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)",
            "%slice-start = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, "
            "s32[]{:S(2)}) slice-start(%a), slice={[0:2], [0:128]}",
            "%slice-done = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%slice-start)",
            "ROOT %m = f32[8,128]{1,0:T(8,128)S(1)} multiply(%copy-done, %copy-done)",
        )
    )
    assert used.traffic == LAYER + LAYER / 4


def test_a_value_that_is_read_twice_by_one_instruction_is_read_once():
    lines = ("%a = f32[8]{0} parameter(0)", "ROOT %m = f32[8]{0} multiply(%a, %a)")
    assert usage_of(entry(*lines)).traffic == 2 * 32


def test_of_a_condition_the_branch_with_the_largest_traffic_counts():
    branches = """%much (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%x)
}

%nothing (y: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} parameter(0)
}

"""
    used = usage_of(
        entry(
            "%p = pred[] parameter(0)",
            "%a = f32[8]{0} parameter(1)",
            "ROOT %c = f32[8]{0} conditional(%p, %a, %a), branch_computations={%nothing, %much}",
            before=branches,
        )
    )
    assert used.traffic == 64


def test_batches_of_products_that_tpus_write_as_convolutions():
    used = usage_of(
        entry(
            "%q = bf16[4,16,17,32]{3,2,1,0} parameter(0)",
            "%k = bf16[4,16,19,32]{3,2,1,0} parameter(1)",
            "%c = bf16[4,16,17,19]{3,2,1,0} convolution(%q, %k), window={size=4x16 stride=3x15 "
            "lhs_dilate=4x16}, dim_labels=01bf_01oi->01bf",
            "ROOT %d = f32[17,19]{1,0} convolution(%x, %y), window={size=1}, "
            "dim_labels=b0f_i0o->b0f, operand_precision={highest,highest}",
            "%x = f32[17,1,5]{2,1,0} parameter(2)",
            "%y = f32[5,1,19]{2,1,0} parameter(3)",
        ).replace("f32[17,19]{1,0} conv", "f32[17,1,19]{2,1,0} conv")
    )
    assert used.operations == {
        "bfloat16": 2 * 4 * 16 * 17 * 19 * 32,
        "float32_highest": 2 * 17 * 19 * 5,
    }


def compiled(function, mesh, specs, *shapes):
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return jax.jit(function).lower(*arguments).compile().as_text()


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def test_a_sum_over_devices_moves_what_the_formula_says(mesh):
    program = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    used = usage_of(compiled(program, mesh, [P("data")], (8, 100)))
    assert used.collectives == {Collective("all-reduce", 2 * 100 * 4, 4): 1}


def test_gathering_over_devices_moves_what_the_formula_says(mesh):
    program = jax.shard_map(
        lambda x: jax.lax.all_gather(x, "model"), mesh=mesh, in_specs=P("model"),
        out_specs=P(), check_vma=False,
    )  # fmt: skip
    used = usage_of(compiled(program, mesh, [P("model")], (8, 100)))
    ((collective, times),) = used.collectives.items()
    assert collective == Collective("all-gather", 4 * 100 * 4, 2) and times == 1
    assert collective.payload == 8 * 100 * 4


def test_each_device_does_its_share_of_the_operations(mesh):
    def program(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    shapes = (16, 32), (5, 32, 32)
    text = compiled(program, mesh, [P("data"), P(None, None, None)], *shapes)
    whole = count_operations(program, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    assert total_operations(usage_of(text).operations) == total_operations(whole) / 4
