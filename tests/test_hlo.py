"""What is read from compiled programs: of jax's CPU compiler on eight devices, and of texts in the forms that TPU programs have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from openko import hlo

LAYERS, WIDTH, ROWS = 3, 64, 16


def compiled(devices, gradient: bool) -> hlo.Program:
    """tanh(x · w) layer by layer, weights cut over "fsdp", rows over both axes; each layer gathers its weight when it runs."""
    mesh = Mesh(np.array(jax.devices()[: devices[0] * devices[1]]).reshape(devices), ("data", "fsdp"))
    cut = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def run(weights, x):
        def layer(x, weight):
            return jax.lax.with_sharding_constraint(jnp.tanh(x @ weight), rows), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=cut)
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=rows)
    function = jax.jit(jax.grad(run), out_shardings=cut) if gradient else jax.jit(run)
    return hlo.read(function.lower(weights, x).compile().as_text())


@pytest.mark.parametrize(("devices", "group"), [((1, 8), 8), ((2, 4), 4), ((4, 2), 2)])
def test_a_scan_gathers_each_layers_weight_once_a_pass(devices, group):
    gathers = [c for c in compiled(devices, gradient=False).collectives if c.kind == "all-gather"]
    assert [(c.runs, len(c.group), c.dtype) for c in gathers] == [(LAYERS, group, "f32")]
    assert gathers[0].wire_bytes == WIDTH * WIDTH * 4 * (group - 1) / group
    assert len(gathers[0].loops) == 1 and gathers[0].loops[0].endswith("/while")


def test_a_gradient_has_three_products_a_layer_and_sums_over_both_axes():
    program = compiled((2, 4), gradient=True)
    assert program.flops == 3 * LAYERS * 2 * (ROWS / 8) * WIDTH * WIDTH
    backward = [c for c in program.collectives if any("transpose" in name for name in c.loops)]
    sums = [c for c in backward if c.kind in ("all-reduce", "reduce-scatter")]
    assert all(c.runs == LAYERS and not c.overlaps for c in sums) and sorted({len(c.group) for c in sums}) in ([2, 4], [8])
    assert sum(c.wire_bytes for c in backward if c.kind == "all-gather") == WIDTH * WIDTH * 4 * 3 / 4


def test_rings():
    assert hlo.ring_bytes("all-gather", 100, 8) == 700  # of its own piece, to be 800 everywhere
    assert hlo.ring_bytes("reduce-scatter", 800, 8) == hlo.ring_bytes("all-to-all", 800, 8) == 700
    assert hlo.ring_bytes("all-reduce", 800, 8) == 1400
    assert hlo.ring_bytes("collective-permute", 800, 8) == 800
    assert hlo.ring_bytes("all-gather", 100, 1) == hlo.ring_bytes("all-reduce", 100, 1) == 0


@pytest.mark.parametrize(("written", "group"), [
    ("replica_groups={{0,2},{1,3}}", (0, 2)),
    ("replica_groups={}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups=mesh['axis_0'=8] {'axis_0'}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", (0, 4)),
    ("source_target_pairs={{0,3},{1,0},{2,1},{3,2},{4,7},{5,4},{6,5},{7,6}}", (0, 3, 2, 1)),
])  # fmt: skip
def test_groups_in_each_of_their_notations(written, group):
    assert hlo.group_of(f"channel_id=1, {written}, dimensions=0", 8) == group


# ── the forms of TPU programs ────────────────────────────────────────────────────────────────────────────────────────

# A loop whose bound is carried in its tuple, from 2 up to 14 in steps of 3; a nested loop with a piece of the gather that was
# started before it; a gather in three fusions beside two products; one that waits; a reduce-scatter as TPUs write it.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%start (a: bf16[2,8]) -> (bf16[2,8], bf16[8,8], u32[]) {
  %a = bf16[2,8]{1,0} parameter(0)
  %gather.1 = bf16[8,8]{1,0} all-gather(%a), channel_id=7, replica_groups=mesh['x'=4] {'x'}, dimensions={0}
  ROOT %call.1 = (bf16[2,8]{1,0}, bf16[8,8]{1,0}, u32[]{:S(2)}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}

%piece (b: bf16[2,8], c: bf16[8,8], d: bf16[16,8]) -> (bf16[16,8], bf16[8,8]) {
  %d = bf16[16,8]{1,0} parameter(2)
  %c = bf16[8,8]{1,0} parameter(1)
  %b = bf16[2,8]{1,0} parameter(0)
  %product.1 = bf16[16,8]{1,0} convolution(%d, %c), dim_labels=bf_io->bf
  %gather.2 = bf16[8,8]{1,0} all-gather(%b), channel_id=7, replica_groups=mesh['x'=4] {'x'}, dimensions={0}
  ROOT %tuple.1 = (bf16[16,8]{1,0}, bf16[8,8]{1,0}) tuple(%product.1, %gather.2)
}

%done (e: bf16[2,8], f: bf16[8,8]) -> bf16[8,8] {
  %e = bf16[2,8]{1,0} parameter(0)
  %f = bf16[8,8]{1,0} parameter(1)
  %gather.3 = bf16[8,8]{1,0} all-gather(%e), channel_id=7, replica_groups=mesh['x'=4] {'x'}, dimensions={0}
  ROOT %call.2 = bf16[8,8]{1,0} custom-call(%e, %f, %gather.3), custom_call_target="AsyncCollectiveDone"
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (g: f32[16,8]) -> f32[4,8] {
  %g = f32[16,8]{1,0} parameter(0)
  %reduce.1 = f32[16,8]{1,0} all-reduce(%g), channel_id=8, replica_groups={{0,1},{2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %cut = f32[4,8]{1,0} dynamic-slice(%reduce.1, %zero, %zero), dynamic_slice_sizes={4,8}
}

%inner (p: (s32[], bf16[2,8], bf16[8,8], bf16[16,8])) -> (s32[], bf16[2,8], bf16[8,8], bf16[16,8]) {
  %p = (s32[], bf16[2,8]{1,0}, bf16[8,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %own = bf16[2,8]{1,0} get-tuple-element(%p), index=1
  %whole = bf16[8,8]{1,0} get-tuple-element(%p), index=2
  %rows = bf16[16,8]{1,0} get-tuple-element(%p), index=3
  %beside = (bf16[16,8]{1,0}, bf16[8,8]{1,0}) fusion(%own, %whole, %rows), kind=kOutput, calls=%piece
  %rows.1 = bf16[16,8]{1,0} get-tuple-element(%beside), index=0
  %one = s32[] constant(1)
  %i.1 = s32[] add(%i, %one)
  ROOT %again = (s32[], bf16[2,8]{1,0}, bf16[8,8]{1,0}, bf16[16,8]{1,0}) tuple(%i.1, %own, %whole, %rows.1)
}

%inner_test (p.1: (s32[], bf16[2,8], bf16[8,8], bf16[16,8])) -> pred[] {
  %p.1 = (s32[], bf16[2,8]{1,0}, bf16[8,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.1), index=0
  %two = s32[] constant(2)
  ROOT %less = pred[] compare(%i.2, %two), direction=LT
}

%body (q: (s32[], s32[], bf16[2,8], bf16[16,8])) -> (s32[], s32[], bf16[2,8], bf16[16,8]) {
  %q = (s32[], s32[], bf16[2,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] get-tuple-element(%q), index=1
  %mine = bf16[2,8]{1,0} get-tuple-element(%q), index=2
  %x.1 = bf16[16,8]{1,0} get-tuple-element(%q), index=3
  %begun = (bf16[2,8]{1,0}, bf16[8,8]{1,0}, u32[]{:S(2)}) fusion(%mine), kind=kCustom, calls=%start
  %mine.1 = bf16[2,8]{1,0} get-tuple-element(%begun), index=0
  %whole.1 = bf16[8,8]{1,0} get-tuple-element(%begun), index=1
  %none = s32[] constant(0)
  %carried = (s32[], bf16[2,8]{1,0}, bf16[8,8]{1,0}, bf16[16,8]{1,0}) tuple(%none, %mine.1, %whole.1, %x.1)
  %turns = (s32[], bf16[2,8]{1,0}, bf16[8,8]{1,0}, bf16[16,8]{1,0}) while(%carried), condition=%inner_test, body=%inner
  %x.2 = bf16[16,8]{1,0} get-tuple-element(%turns), index=3
  %ended = bf16[8,8]{1,0} fusion(%mine.1, %whole.1), kind=kCustom, calls=%done
  %late = bf16[8,8]{1,0} all-gather(%mine), channel_id=9, replica_groups={}, dimensions={0}
  %three = s32[] constant(3)
  %j.3 = s32[] copy(%j)
  %j.1 = s32[] add(%three, %j.3)
  ROOT %next = (s32[], s32[], bf16[2,8]{1,0}, bf16[16,8]{1,0}) tuple(%j.1, %bound, %mine, %x.2)
}

%test (q.1: (s32[], s32[], bf16[2,8], bf16[16,8])) -> pred[] {
  %q.1 = (s32[], s32[], bf16[2,8]{1,0}, bf16[16,8]{1,0}) parameter(0)
  %j.2 = s32[] get-tuple-element(%q.1), index=0
  %bound.1 = s32[] get-tuple-element(%q.1), index=1
  ROOT %less.1 = pred[] compare(%j.2, %bound.1), direction=LT
}

ENTRY %main (w: bf16[2,8], v: bf16[16,8], g.1: f32[16,8]) -> f32[4,8] {
  %w = bf16[2,8]{1,0} parameter(0)
  %v = bf16[16,8]{1,0} parameter(1)
  %g.1 = f32[16,8]{1,0} parameter(2)
  %first = s32[] constant(2)
  %last = s32[] constant(14)
  %last.1 = s32[] copy(%last)
  %carried.1 = (s32[], s32[], bf16[2,8]{1,0}, bf16[16,8]{1,0}) tuple(%first, %last.1, %w, %v)
  %layers = (s32[], s32[], bf16[2,8]{1,0}, bf16[16,8]{1,0}) while(%carried.1), condition=%test, body=%body,
    metadata={op_name="jit(step)/jvp()/while"}
  %sent = (f32[16,8]{1,0}, f32[16,8]{1,0}, u32[], u32[]) collective-permute-start(%g.1), channel_id=10, source_target_pairs={{0,1},{1,0}}
  %y.1 = bf16[16,8]{1,0} get-tuple-element(%layers), index=3
  %kept = bf16[8,8]{1,0} dot(%y.1, %y.1), lhs_contracting_dims={0}, rhs_contracting_dims={0}, metadata={op_name="a kernel's
notes may break the line"}
  %got = f32[16,8]{1,0} collective-permute-done(%sent)
  %idle = (f32[16,8]{1,0}, f32[16,8]{1,0}, u32[], u32[]) collective-permute-start(%got), channel_id=11, source_target_pairs={{0,1},{1,0}}
  %idle.1 = f32[16,8]{1,0} collective-permute-done(%idle)
  ROOT %scattered = f32[4,8]{1,0} fusion(%idle.1), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_asynchronous_collectives_and_what_runs_beside_them():
    program = hlo.read(TPU)
    found = [(c.kind, c.dtype, len(c.group), c.wire_bytes, c.runs, c.asynchronous, c.overlapped_flops) for c in program.collectives]
    product = 2 * 16 * 8 * 8
    assert found == [
        ("all-gather", "bf16", 4, 3 * 32, 4, True, 2 * product),  # two pieces, in the two turns of the inner loop
        ("all-gather", "bf16", 4, 3 * 32, 4, False, 0),
        ("collective-permute", "f32", 2, 512, 1, True, 2 * 8 * 8 * 16),
        ("collective-permute", "f32", 2, 512, 1, True, 0),  # begun, and waited for
        ("reduce-scatter", "f32", 2, 256, 1, False, 0),
    ]
    assert [c.overlaps for c in program.collectives] == [True, False, True, False, False]
    assert program.collectives[0].loops == ("jit(step)/jvp()/while",) and program.collectives[2].loops == ()
    assert program.flops == 4 * 2 * product + 2 * 8 * 8 * 16


def test_a_loop_without_a_countable_end_is_an_error():
    with pytest.raises(ValueError, match=r"loop layers .*does not count from a constant up to a constant"):
        hlo.read(TPU.replace("%last.1 = s32[] copy(%last)", "%last.1 = s32[] negate(%last)"))
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("")


def test_a_window_that_meets_nothing_costs_nothing():
    """A product of [2, 16, 4] with [8, 4, 32] as TPUs write it: eight places of which each sees one, through a padding of seven."""
    text = """\
HloModule padded
ENTRY %main (a: bf16[2,16,4,1], b: bf16[8,32,4,1]) -> bf16[2,16,8,32] {
  %a = bf16[2,16,4,1]{3,2,1,0} parameter(0)
  %b = bf16[8,32,4,1]{3,2,1,0} parameter(1)
  ROOT %c = bf16[2,16,8,32]{3,2,1,0} convolution(%a, %b), window={size=1x8 pad=0_0x7_7 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f
}
"""
    assert hlo.read(text).flops == 2 * (2 * 16) * 4 * (8 * 32)


def test_memory_counts_what_leaves_the_chip():
    """A slice of a stack, not the stack; the update of a stack, not the stack; nothing of what lies in fast memory (S(1))."""
    text = """\
HloModule memory
%cut (p: f32[32,8,8], i: s32[]) -> f32[1,8,8] {
  %p = f32[32,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %slice = f32[1,8,8]{2,1,0} dynamic-slice(%p, %i, %i, %i), dynamic_slice_sizes={1,8,8}
}
%put (p.1: f32[32,8,8], u: f32[1,8,8], i.1: s32[]) -> f32[32,8,8] {
  %p.1 = f32[32,8,8]{2,1,0} parameter(0)
  %u = f32[1,8,8]{2,1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %updated = f32[32,8,8]{2,1,0} dynamic-update-slice(%p.1, %u, %i.1, %i.1, %i.1)
}
ENTRY %main (stack: f32[32,8,8], n: s32[]) -> f32[32,8,8] {
  %stack = f32[32,8,8]{2,1,0} parameter(0)
  %n = s32[]{:S(6)} parameter(1)
  %one = f32[1,8,8]{2,1,0:S(1)} fusion(%stack, %n), kind=kLoop, calls=%cut
  %two = f32[1,8,8]{2,1,0:S(1)} negate(%one)
  %moved = (f32[1,8,8]{2,1,0}, f32[1,8,8]{2,1,0:S(1)}, u32[]{:S(2)}) copy-start(%two)
  %there = f32[1,8,8]{2,1,0} copy-done(%moved)
  ROOT %out = f32[32,8,8]{2,1,0} fusion(%stack, %there, %n), kind=kLoop, calls=%put
}
"""
    assert hlo.read(text).hbm_bytes == 256 * (1 + 1 + 2)
