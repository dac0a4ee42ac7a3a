"""The parser on small programs written by hand, as the compiler of TPUs writes them."""

import jax
import jax.numpy as jnp
import pytest

from maskgit_jax.performance.hlo import Module, Shape, read_instruction, read_shapes

NESTED = """HloModule jit_step, is_scheduled=true, num_partitions=4

%less_than (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(7)
  %count = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count, %limit), direction=LT, metadata={op_name="a(b)/lt"}
}

%strange (q: (s32[], f32[8])) -> pred[] {
  %q = (s32[], f32[8]) parameter(0)
  %count.1 = s32[] get-tuple-element(%q), index=0
  %other = s32[] get-tuple-element(%q), index=0
  ROOT %ne = pred[] compare(%count.1, %other), direction=NE
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %b = (s32[], f32[8]) parameter(0)
}

%by_three (d: (s32[], f32[8])) -> (s32[], f32[8]) {
  %d = (s32[], f32[8]) parameter(0)
  %three = s32[] constant(3)
  %now = s32[] get-tuple-element(%d), index=0
  %data = f32[8]{0} get-tuple-element(%d), index=1
  %next = s32[] add(%now, %three)
  ROOT %both = (s32[], f32[8]) tuple(%next, %data)
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(128)} parameter(0)
  %zero = s32[] constant(0)
  %two = s32[] constant(2)
  %start = s32[] copy(%two)
  %from_zero = (s32[], f32[8]{0}) tuple(%zero, %a)
  %from_two = (s32[], /*index=1*/f32[8]{0}) tuple(%start, %a)
  %while.0 = (s32[], f32[8]{0}) while(%from_zero), condition=%less_than, body=%body
  %while.1 = (s32[], f32[8]{0}) while(%from_two), condition=%less_than, body=%body
  %while.2 = (s32[], f32[8]{0}) while(%from_two), condition=%strange, body=%body
  %while.3 = (s32[], f32[8]{0}) while(%from_two), condition=%strange, body=%body, \
backend_config={"known_trip_count":{"n":"12"},"other":[1]}
  %while.4 = (s32[], f32[8]{0}) while(%from_zero), condition=%less_than, body=%by_three
  %while.5 = (s32[], f32[8]{0}) while(%a), condition=%less_than, body=%by_three
  ROOT %out = f32[8]{0} get-tuple-element(%while.0), index=1
}
"""


def test_a_line_is_taken_apart():
    line = (
        "  ROOT %fusion.1 = (f32[2,3]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/bf16[4]{0}) "
        'fusion(%add.5, %p-1), kind=kLoop, calls=%inner.2, metadata={op_name="jit(f)/x(y)"}'
    )
    found = read_instruction(line)
    assert found.name == "fusion.1" and found.opcode == "fusion" and found.root
    assert found.operands == ("add.5", "p-1") and found.called == ("inner.2",)
    assert found.shapes == (
        Shape("f32", (2, 3), "1,0:T(8,128)(2,1)S(1)"),
        Shape("bf16", (4,), "0"),
    )
    assert found.attribute("kind") == "kLoop" and found.attribute("none") == ""


def test_numbers_of_an_attribute():
    line = "%d = f32[2,2] dot(%a, %b), lhs_batch_dims={0,1}, lhs_contracting_dims={2}"
    assert read_instruction(line).sizes("lhs_batch_dims") == (0, 1)
    assert read_instruction("%g = f32[] get-tuple-element(%t), index=13").sizes("index") == (13,)


@pytest.mark.parametrize(
    ("text", "size", "padded"),
    [
        ("f32[]", 4, 4),
        ("bf16[3,5]{1,0}", 30, 30),
        ("pred[7]", 7, 7),
        ("u4[8]", 4, 4),
        ("f8e4m3fn[5]", 5, 5),
        ("f32[17,130]{1,0:T(8,128)}", 17 * 130 * 4, 24 * 256 * 4),
        ("bf16[2,257,257]{1,2,0:T(8,128)(2,1)}", 2 * 257**2 * 2, 2 * 384 * 264 * 2),
        ("f32[100]{0:T(128)}", 400, 512),
        ("f32[]{:T(128)}", 4, 4),
        ("token[]", 0, 0),
    ],
)
def test_bytes_with_and_without_what_fills_tiles(text, size, padded):
    (shape,) = read_shapes(text)
    assert (shape.size, shape.padded_size) == (size, padded)


def test_a_tuple_is_flattened_and_arrays_on_the_chip_are_known():
    found = read_shapes("((f32[2]{0:T(128)S(1)}, u32[]{:S(2)}), /*index=2*/bf16[3]{0:T(256)})")
    assert [shape.dtype for shape in found] == ["f32", "u32", "bf16"]
    assert [shape.in_main_memory for shape in found] == [False, False, True]


def test_how_often_loops_run():
    module = Module(NESTED)
    assert module.num_partitions == 4 and module.entry.name == "main.1"
    loops = [i for i in module.entry.instructions if i.opcode == "while"]
    assert [module.trip_count(loop, module.entry) for loop in loops] == [7, 5, None, 12, 3, 3]
    assert module.entry.root.name == "out"
    assert [user.name for user in module.entry.users["from_two"]] == [
        "while.1", "while.2", "while.3",
    ]  # fmt: skip


def test_a_program_of_this_processor_is_read_too():
    def program(x):
        return jax.lax.scan(lambda x, _: (jnp.sin(x) @ x, None), x, None, length=6)[0]

    text = jax.jit(program).lower(jnp.ones((4, 4))).compile().as_text()
    for written in (text, text.replace("known_trip_count", "other")):
        module = Module(written)
        ((place, loop),) = (
            (computation, instruction)
            for computation in module.computations.values()
            for instruction in computation.instructions
            if instruction.opcode == "while"
        )
        assert module.trip_count(loop, place) == 6


def test_a_parenthesis_that_never_closes_is_our_mistake():
    with pytest.raises(ValueError, match="no parenthesis closes"):
        read_instruction("%a = f32[2] add(%b, %c")
