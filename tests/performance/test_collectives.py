"""Collectives of compiled programs, written by hand as TPU compilers write them and by XLA here."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from maskgit_jax.performance.collectives import (
    Collective,
    array_bytes,
    bytes_sent,
    group_size,
    read_collectives,
)

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
  %c = (s32[]{:T(128)}, f32[16]{0:T(128)S(1)}) parameter(0)
  %three = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %three), direction=LT, metadata={op_name="a(b)/lt"}
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
  %begin = (s32[], /*index=1*/f32[16]{0}) tuple(%zero, %w)
  ROOT %while.1 = (s32[], f32[16]{0}) while(%begin), condition=%few, body=%inner
}

ENTRY %main (a: f32[16]) -> f32[16] {
  %a = f32[16]{0} parameter(0)
  %none = s32[] constant(0)
  %begin.1 = (s32[], f32[16]{0}) tuple(%none, %a)
  %while.2 = (s32[], f32[16]{0}) while(%begin.1), condition=%few, body=%outer, \
backend_config={"known_trip_count":{"n":"5"},"other":[1]}
  ROOT %r = f32[16]{0} get-tuple-element(%while.2), index=1
}
"""
)


def entry(*lines: str, before: str = ADD) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"{HEADER}{before}ENTRY %main () -> f32[] {{\n{body}\n}}\n"


def collectives(text: str) -> dict[Collective, float]:
    counts, unknown = read_collectives(text)
    assert unknown == ()
    return counts


def test_collectives_in_nested_loops_count_once_per_iteration():
    assert collectives(LOOPS) == {Collective("all-reduce", 64, 2): 15}


def test_loop_of_unknown_length_counts_once_and_is_named():
    counts, unknown = read_collectives(LOOPS.replace("direction=LT", "direction=NE"))
    assert unknown == ("while.1",)
    assert counts == {Collective("all-reduce", 64, 2): 5}


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 3 / 4 * 4096),
        ("reduce-scatter", 3 / 4 * 4096),
        ("all-to-all", 3 / 4 * 4096),
        ("all-gather", 3 * 4096),  # each device holds a part of 4096 bytes
        ("collective-permute", 4096),
    ],
)
def test_bytes_sent_around_a_ring(kind, sent):
    assert Collective(kind, 4096, 4).sent == sent
    assert Collective(kind, 4096, 1).sent == (4096 if kind == "collective-permute" else 0)
    assert bytes_sent({Collective(kind, 4096, 4): 3}) == 3 * sent


def test_asynchronous_collectives_count_once_with_all_arrays_of_their_tuples():
    assert collectives(
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
    ) == {Collective("all-reduce", 32 + 8, 4): 1, Collective("all-gather", 32, 8): 1}


def test_collective_in_an_asynchronous_computation():
    wrapped = """%wrapped (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %all-to-all.1 = f32[8]{0} all-to-all(%x), replica_groups=[2,4]<=[8], dimensions={0}
}

"""
    assert collectives(
        entry(
            "%a = f32[8]{0} parameter(0)",
            "%s = ((f32[8]{0}), f32[8]{0}, u32[]) async-start(%a), calls=%wrapped",
            "ROOT %d = f32[8]{0} async-done(%s)",
            before=wrapped,
        )
    ) == {Collective("all-to-all", 32, 4): 1}


def test_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    fused = """%scatter (x: f32[8], i: s32[]) -> f32[2] {
  %x = f32[8]{0} parameter(0)
  %i = s32[] parameter(1)
  %all-reduce.2 = f32[8]{0} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %ds = f32[2]{0} dynamic-slice(%all-reduce.2, %i), dynamic_slice_sizes={2}
}

"""
    assert collectives(
        entry(
            "%a = f32[8]{0} parameter(0)",
            "%n = s32[] parameter(1)",
            "ROOT %f = f32[2]{0} fusion(%a, %n), kind=kCustom, calls=%scatter",
            before=ADD + fused,
        )
    ) == {Collective("reduce-scatter", 32, 4): 1}


def test_collective_spread_over_fusions_counts_once():
    gather = 'all-gather(%{}), replica_groups=[2,4]<=[8], frontend_attributes={{chain_id="2"}}'
    chain = f"""%begin (x: f32[2]) -> (f32[2], f32[8]) {{
  %x = f32[2]{{0}} parameter(0)
  %all-gather.1 = f32[8]{{0}} {gather.format("x")}
  ROOT %c = (f32[2]{{0:S(1)}}, f32[8]{{0}}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}}

%end (v: f32[2], w: f32[8]) -> f32[8] {{
  %v = f32[2]{{0}} parameter(0)
  %w = f32[8]{{0}} parameter(1)
  %all-gather.3 = f32[8]{{0}} {gather.format("v")}
  ROOT %d = f32[8]{{0}} custom-call(%v, %w, %all-gather.3), \
custom_call_target="AsyncCollectiveDone"
}}

"""
    assert collectives(
        entry(
            "%a = f32[2]{0} parameter(0)",
            "%s = (f32[2]{0:S(1)}, f32[8]{0}) fusion(%a), kind=kCustom, calls=%begin",
            "%part = f32[2]{0} get-tuple-element(%s), index=0",
            "%buffer = f32[8]{0} get-tuple-element(%s), index=1",
            "ROOT %e = f32[8]{0} fusion(%part, %buffer), kind=kCustom, calls=%end",
            before=chain,
        )
    ) == {Collective("all-gather", 8, 4): 1}


def test_branch_that_sends_the_most_counts():
    branches = """%much (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} all-reduce(%x), replica_groups={}, to_apply=%add
}

%nothing (y: f32[8]) -> f32[8] {
  ROOT %y = f32[8]{0} parameter(0)
}

"""
    for names in ("branch_computations={%nothing, %much}",
                  "true_computation=%much, false_computation=%nothing"):  # fmt: skip
        lines = ["%p = pred[] parameter(0)", "%a = f32[8]{0} parameter(1)",
                 f"ROOT %c = f32[8]{{0}} conditional(%p, %a, %a), {names}"]  # fmt: skip
        counts = collectives(entry(*lines, before=ADD + branches))
        assert counts == {Collective("all-reduce", 32, 8): 1}


def test_group_size_in_every_notation():
    def size(text):
        return group_size(f", replica_groups={text}, to_apply=%add", 16)

    assert size("{{0,1,2},{3,4,5}}") == 3
    assert size("[2,8]<=[16]") == 8
    assert size("[8,2]<=[2,8]T(1,0)") == 2
    assert size("mesh['a'=4,'b'=2,'c'=2] {'a','c'}") == 8
    assert size("mesh['a'=16] {'a':(2)4}") == 4
    assert size("{}") == 16
    assert group_size("channel_id=1", 16) == 16


def test_bytes_of_arrays():
    sizes = {"f32[]": 4, "bf16[3,5]": 30, "pred[7]": 7, "u4[8]": 4, "f8e4m3fn[5]": 5,
             "token[]": 0, "((f32[2], u32[]), bf16[<=3])": 8 + 4 + 6}  # fmt: skip
    assert {text: array_bytes(text) for text in sizes} == sizes


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def compiled(function, mesh, spec, out_spec):
    shard_mapped = jax.shard_map(
        function, mesh=mesh, in_specs=spec, out_specs=out_spec, check_vma=False
    )
    sharding = jax.NamedSharding(mesh, spec)
    array = jax.ShapeDtypeStruct((8, 100), jnp.float32, sharding=sharding)
    return jax.jit(shard_mapped).lower(array).compile().as_text()


def test_sum_over_devices_in_a_loop_that_xla_compiled(mesh):
    def program(x):
        return jax.lax.scan(lambda x, _: (jax.lax.psum(x, "data") / 2, None), x, length=6)[0]

    text = compiled(program, mesh, P("data"), P("data"))
    expected = {Collective("all-reduce", 2 * 100 * 4, 4): 6}
    assert collectives(text) == expected
    assert collectives(text.replace("known_trip_count", "other")) == expected


def test_gather_that_xla_compiled(mesh):
    text = compiled(lambda x: jax.lax.all_gather(x, "model"), mesh, P("model"), P())
    ((collective, times),) = collectives(text).items()
    assert collective == Collective("all-gather", 4 * 100 * 4, 2) and times == 1
    assert collective.payload == 8 * 100 * 4
