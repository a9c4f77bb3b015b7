"""What a compiled program does, read from its HLO text: collectives, what runs beside them, FLOPs and bytes of memory.

Loops count as often as they run. The text is the one after scheduling (XLA's `--xla_dump_hlo_as_text`, or `as_text()` of a
compiled step), whose instructions stand in the order in which a chip runs them. Written against libtpu 0.0.52 and jaxlib's
CPU compiler of jax 0.7 to 0.10.
"""

import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
# Bytes of a number; HLO's other types (tokens, opaque) have none.
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
WIDTHS |= dict.fromkeys(("f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz"), 1)

# They name what is there already, or begin what another instruction ends: no bytes move.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "copy-done", "async-done",
        "async-update", "partition-id", "replica-id", "after-all", "iota", "optimization-barrier"}  # fmt: skip
FREE |= {f"{kind}-done" for kind in KINDS}
NO_KERNEL = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "AsyncCollectiveStart", "AsyncCollectiveDone"}


class Collective(NamedTuple):
    """One collective of a program.

    group: the first of its groups of devices, which all have the same size. wire_bytes: what each chip sends in one run, as a ring
    does it: (n−1)/n of the whole for an all-gather, a reduce-scatter or an all-to-all, twice that for an all-reduce, all of it
    for a collective-permute. runs: in one run of the program. loops: jax's names of the loops around it, the outermost first.
    asynchronous: it has a start and an end, and the chip computes between them. overlapped_flops: of the matrix products in
    between, in one run; for a TPU's asynchronous fusions, of the products that carry it along.
    """

    kind: str
    dtype: str
    group: tuple[int, ...]
    wire_bytes: float
    runs: int
    loops: tuple[str, ...]
    op_name: str
    asynchronous: bool
    overlapped_flops: float

    @property
    def overlaps(self) -> bool:
        return self.asynchronous and self.overlapped_flops > 0


class Program(NamedTuple):
    """All runs of all loops: flops of the matrix products, hbm_bytes that pass between a chip and its main memory, and how often
    each kernel (a custom call whose work the text does not show) runs."""

    collectives: tuple[Collective, ...]
    flops: float
    hbm_bytes: float
    kernels: dict[str, int]


class Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self) -> list[str]:
        """Computations that run as a part of this instruction; not those that say how two numbers are added."""
        if self.opcode in KINDS or self.opcode.removesuffix("-start") in KINDS:
            return []
        names = re.findall(r"(?:calls|body|true_computation|false_computation)=%?([\w.\-]+)", self.rest)
        if self.opcode == "call":
            names += re.findall(r"to_apply=%?([\w.\-]+)", self.rest)
        for listed in re.findall(r"branch_computations=\{([^}]*)\}", self.rest):
            names += re.findall(r"%?([\w.\-]+)", listed)
        return names

    @property
    def op_name(self) -> str:
        return (re.search(r'op_name="([^"]*)"', self.rest) or [""])[1] if "op_name" in self.rest else ""


def read(text: str) -> Program:
    """The program in HLO text. ValueError where a loop with collectives or products has no countable end."""
    return _Reader(text).program()


# ── numbers in the text ──────────────────────────────────────────────────────────────────────────────────────────────


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], int]]:
    """(dtype, sizes, memory space) of each array in the text of a shape; space 0 is the main memory."""
    found = []
    for dtype, sizes, layout in re.findall(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?", shape):
        if dtype in WIDTHS:
            space = re.search(r"S\((\d+)\)", layout)
            found.append((dtype, tuple(int(n.lstrip("<=")) for n in sizes.split(",") if n), int(space[1]) if space else 0))
    return found


def size(array: tuple[str, tuple[int, ...], int]) -> int:
    """Bytes of an array."""
    return WIDTHS[array[0]] * math.prod(array[1])


def group_of(rest: str, partitions: int) -> tuple[int, ...]:
    """The first group of devices in a collective's attributes, in any of the four ways in which HLO writes groups."""
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        after = {int(a): int(b) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])}
        chain, here = [], min(after, default=0)
        while here is not None and here not in chain:
            chain.append(here)
            here = after.get(here)
        return tuple(chain)
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return tuple(int(n) for n in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return tuple(_ids(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0].tolist())
    pattern = r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
    if mesh := re.search(pattern, rest):
        axes = {name: int(n) for name, n in re.findall(r"'?([\w.]+)'?=(\d+)", mesh[1])}
        ids = (_ids(mesh[2], mesh[3]) if mesh[2] else np.arange(math.prod(axes.values()))).reshape(tuple(axes.values()))
        named = re.findall(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?", mesh[4])
        # An axis may be taken in part: 'fsdp':(2)4 is the factor of 4 that stands after a factor of 2.
        for name, before, part in named:
            if part:
                axis = list(axes).index(name)
                ids = np.moveaxis(ids.reshape(*ids.shape[:axis], int(before), int(part), -1, *ids.shape[axis + 1 :]), axis + 1, -1)
                return tuple(ids.reshape(-1, int(part))[0].tolist())
        first = tuple(slice(None) if axis in {name for name, *_ in named} else 0 for axis in axes)
        return tuple(int(n) for n in ids[first].reshape(-1))
    return tuple(range(partitions))


def _ids(sizes: str, order: str | None) -> np.ndarray:
    sizes = [int(n) for n in sizes.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def ring_bytes(kind: str, operands: int, chips: int) -> float:
    """What each chip sends for a collective over `operands` bytes of its own."""
    if kind == "all-gather":
        return operands * (chips - 1)
    if kind == "collective-permute":
        return operands
    return operands * (chips - 1) / chips * (2 if kind == "all-reduce" else 1)


# ── the text ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _computations(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Instructions by name, by computation, in their order; and the entry's name."""
    computations, entry, here, lines = {}, "", None, []
    for line in text.splitlines():
        # Metadata may hold line breaks.
        if here is not None and lines and not re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = |\}$", line):
            lines[-1] += line
            continue
        header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if header and not line.startswith((" ", "HloModule")):
            here, lines = header[2], []
            computations[here] = lines
            entry = here if header[1] else entry
        elif line == "}":
            here = None
        elif here is not None and " = " in line:
            lines.append(line)
    return {name: {i.name: i for i in map(_instruction, lines)} for name, lines in computations.items()}, entry


def _instruction(line: str) -> Instruction:
    name, _, right = line.strip().partition(" = ")
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].lstrip()
    opening = right.index("(")
    closing = _closing(right, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", right[opening:closing]))
    if right[:opening] in ("constant", "parameter"):
        operands = (right[opening + 1 : closing - 1],)
    root = name.startswith("ROOT ")
    return Instruction(name.removeprefix("ROOT ").removeprefix("%"), shape, right[:opening], operands, right[closing:], root)


def _closing(text: str, opening: int) -> int:
    """Behind the bracket that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"no closing bracket in {text[:200]!r}")


def _source(one: Instruction, body: dict[str, Instruction]) -> Instruction:
    """What an instruction is a copy of."""
    while one.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        one = body[one.operands[0]]
    return one


class _Reader:
    def __init__(self, text: str):
        self.computations, self.entry = _computations(text)
        if not self.entry:
            raise ValueError("the text has no ENTRY computation: it is not an HLO program")
        self.partitions = int((re.search(r"num_partitions=(\d+)", text[:100_000]) or ["", "1"])[1])
        self._flops: dict[str, float] = {}
        self._inside: dict[str, list[Instruction]] = {}
        self.collectives: list[dict] = []
        self.open: dict[str, dict] = {}  # asynchronous collectives between their start and their end
        self.flops, self.hbm_bytes, self.kernels = 0.0, 0.0, Counter()

    def program(self) -> Program:
        self._run(self.entry, 1, ())
        return Program(tuple(Collective(**found) for found in self.collectives), self.flops, self.hbm_bytes, dict(self.kernels))

    def _run(self, name: str, runs: int, loops: tuple[str, ...]) -> None:
        """One computation whose instructions a chip runs one after the other, `runs` times."""
        body = self.computations[name]
        for one in body.values():
            if one.opcode == "while":
                inside = re.search(r"body=%?([\w.\-]+)", one.rest)[1]
                if self._matters(inside):
                    self._run(inside, runs * self._trips(one, body), (*loops, one.op_name))
            elif one.opcode in ("call", "conditional"):
                for called in one.called():
                    self._run(called, runs, loops)
            else:
                flops = self._flops_of(one, body)
                self.flops += runs * flops
                self.hbm_bytes += runs * self._moved(one, body)
                if one.opcode == "custom-call" and not re.search("|".join(sorted(NO_KERNEL)), one.rest):
                    self.kernels[re.sub(r"[.\d]+$", "", one.name)] += runs
                    flops = 1.0  # work, of which the text does not say how much
                self._collect(one, body, flops, runs, loops)

    def _matters(self, name: str) -> bool:
        """Whether there is anything to count in a computation and those that it calls."""
        found = (i.opcode in ("dot", "convolution", "custom-call", "fusion", "copy") or i.opcode.removesuffix("-start") in KINDS
                 for i in self._all(name))  # fmt: skip
        return any(found)

    def _all(self, name: str) -> list[Instruction]:
        """Instructions of a computation and of those that it calls."""
        if name not in self._inside:
            self._inside[name] = []
            for one in self.computations[name].values():
                self._inside[name].append(one)
                for called in one.called():
                    self._inside[name] += self._all(called)
        return self._inside[name]

    # ── loops ──

    def _trips(self, loop: Instruction, body: dict[str, Instruction]) -> int:
        """How often a loop runs: as the compiler noted it, or from `counter < bound` and `counter + step`."""
        noted = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', loop.rest)
        if noted:
            return int(noted[1])
        condition = self.computations[re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]]
        inside = self.computations[re.search(r"body=%?([\w.\-]+)", loop.rest)[1]]
        test = next(i for i in condition.values() if i.root)
        start = body[loop.operands[0]]
        try:
            if test.opcode != "compare" or "direction=LT" not in test.rest or start.opcode != "tuple":
                raise LookupError
            counter = _source(condition[test.operands[0]], condition)
            index = int(re.search(r"index=(\d+)", counter.rest)[1])
            bound = self._number(condition[test.operands[1]], condition, start, body)
            first = self._number(body[start.operands[index]], body)
            after = _source(inside[next(i for i in inside.values() if i.root).operands[index]], inside)
            one, other = (_source(inside[name], inside) for name in after.operands)
            step = self._number(other if one.opcode == "get-tuple-element" else one, inside, start, body)
            if after.opcode != "add" or step < 1:
                raise LookupError
        except (LookupError, TypeError, ValueError):
            raise ValueError(f"loop {loop.name} ({loop.op_name or 'no name'}) does not count from a constant up to a constant") from None
        return max(0, math.ceil((bound - first) / step))

    def _number(self, one: Instruction, body, start: Instruction | None = None, outside=None) -> int:
        """A constant, followed through copies and, where it is carried through a loop, to before the loop."""
        one = _source(one, body)
        if one.opcode == "get-tuple-element" and start is not None:
            index = int(re.search(r"index=(\d+)", one.rest)[1])
            return self._number(outside[start.operands[index]], outside)
        if one.opcode != "constant":
            raise LookupError
        return int(one.operands[0])

    # ── products ──

    def _flops_of(self, one: Instruction, body: dict[str, Instruction]) -> float:
        """FLOPs of the matrix products in an instruction and in what it calls."""
        if one.opcode == "dot":
            (left, *_), out = arrays(body[one.operands[0]].shape), arrays(one.shape)[0]
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
            dims = [int(n) for n in contracted[1].split(",") if n] if contracted else []
            return 2.0 * math.prod(out[1]) * math.prod(left[1][d] for d in dims)
        if one.opcode == "convolution":
            return _convolution_flops(one, *(arrays(body[name].shape)[0][1] for name in one.operands[:2]))
        return sum(self._flops_in(name) for name in one.called())

    def _flops_in(self, name: str) -> float:
        if name not in self._flops:
            self._flops[name] = sum(self._flops_of(i, self.computations[name]) for i in self.computations[name].values())
        return self._flops[name]

    # ── memory ──

    def _moved(self, one: Instruction, body: dict[str, Instruction]) -> float:
        """Bytes between a chip and its main memory: operands that lie there are read once, results that lie there written once."""
        if one.opcode in FREE or (one.opcode == "custom-call" and re.search("|".join(sorted(NO_KERNEL)), one.rest)):
            return 0.0
        results = arrays(one.shape)
        if one.opcode in ("copy-start", "async-start", "dynamic-slice", "slice", "gather"):
            # (destination, source, flag), or ((sources), destination, flag): as much is read as is written.
            there = results[0] if one.opcode == "copy-start" else results[-2] if one.opcode == "async-start" else results[0]
            source = arrays(body[one.operands[0]].shape)[0]
            return float(size(there) * ((there[2] == 0) + (source[2] == 0)))
        if one.opcode == "dynamic-update-slice":
            update = arrays(body[one.operands[1]].shape)[0]
            return float(size(update) * ((results[0][2] == 0) + (update[2] == 0)))
        if one.opcode.removesuffix("-start") in KINDS:
            results = results[-1:] if one.opcode.endswith("-start") else results
        if one.opcode == "fusion":
            return self._moved_by_fusion(one, body)
        read = sum(size(a) for name in one.operands if name in body for a in arrays(body[name].shape) if a[2] == 0)
        return float(read + sum(size(a) for a in results if a[2] == 0))

    def _moved_by_fusion(self, one: Instruction, body: dict[str, Instruction]) -> float:
        """As above, but of an operand that is only sliced, the slice; of a result that is an updated operand, the update; and
        nothing of what is handed through. A collective inside is counted where it starts."""
        inside = self.computations[one.called()[0]]
        users, parameters = defaultdict(list), {}
        for i in inside.values():
            if i.opcode == "parameter":
                parameters[i.name] = int(i.operands[0])
                continue
            for name in i.operands:
                users[name].append(i)
        handed = {"tuple", "custom-call"} | set(KINDS)
        starts = any("AsyncCollectiveStart" in i.rest for i in inside.values() if i.opcode == "custom-call")
        moved, updated = 0, set()
        for name, number in parameters.items():
            operand = arrays(body[one.operands[number]].shape)
            uses = [u for u in users[name] if not (u.opcode in handed and not starts)]
            if not operand or operand[0][2] or not uses:
                continue
            if all(u.opcode in ("dynamic-slice", "slice", "gather") and u.operands[0] == name for u in uses):
                moved += sum(size(arrays(u.shape)[0]) for u in uses)
            elif all(u.opcode == "dynamic-update-slice" and u.operands[0] == name for u in uses):
                updated.add(name)
            else:
                # A nested fusion may slice too: what it reads is not more than what it makes.
                narrow = all(u.opcode == "fusion" and self._slices(u, name) for u in uses)
                moved += min(size(operand[0]), sum(size(arrays(u.shape)[0]) for u in uses)) if narrow else size(operand[0])
        root = next(i for i in inside.values() if i.root)
        for number, array in enumerate(arrays(one.shape)):
            made = inside.get(root.operands[number]) if root.opcode == "tuple" and number < len(root.operands) else root
            while made is not None and made.opcode == "bitcast":
                made = inside.get(made.operands[0])
            if array[2] or made is None or made.opcode == "parameter" or (starts and number == 0):
                continue  # in fast memory, or handed through
            if (made.opcode in KINDS and not starts) or "AsyncCollectiveDone" in made.rest:
                continue
            if made.opcode == "dynamic-update-slice":
                moved += size(arrays(inside[made.operands[1]].shape)[0])
            else:
                moved += size(array)
        return float(moved)

    def _slices(self, one: Instruction, name: str) -> bool:
        inside = self.computations[one.called()[0]]
        mine = {i.name for i in inside.values() if i.opcode == "parameter" and one.operands[int(i.operands[0])] == name}
        uses = [i for i in inside.values() if mine & set(i.operands) and i.opcode != "parameter"]
        return bool(uses) and all(u.opcode in ("dynamic-slice", "slice", "gather") and u.operands[0] in mine for u in uses)

    # ── collectives ──

    def _collect(self, one: Instruction, body: dict[str, Instruction], flops: float, runs: int, loops: tuple[str, ...]) -> None:
        """The collective that an instruction is, starts, carries along or ends; `flops` are those of its own products.

        Two kinds are asynchronous: `…-start` and `…-done` (or a computation inside `async-start`), with anything between them; and a
        TPU's asynchronous fusions: one with a custom call "AsyncCollectiveStart", some with a piece of the collective beside other
        work, one with "AsyncCollectiveDone", all naming one channel. Of these only the fusions with a piece carry it along; they
        may stand in a loop between start and end.
        """
        base = one.opcode.removesuffix("-start").removesuffix("-done")
        if one.opcode in KINDS:
            self._found(one, body, runs, loops)
        elif base in KINDS and one.opcode.endswith("-start"):
            self.open[one.name] = self._found(one, body, runs, loops, asynchronous=True)
        elif base in KINDS or one.opcode == "async-done":
            self.open.pop(one.operands[0], None)
        elif one.opcode in ("fusion", "async-start"):
            inside = self.computations[one.called()[0]]
            notes = " ".join(i.rest for i in inside.values() if i.opcode == "custom-call")
            for collective in (i for i in inside.values() if i.opcode in KINDS):
                channel = "channel " + (re.search(r"channel_id=(\d+)|$", collective.rest)[1] or collective.name)
                if one.opcode == "async-start":
                    self.open[one.name] = self._found(collective, inside, runs, loops, asynchronous=True)
                elif "AsyncCollectiveStart" in notes:
                    self.open[channel] = self._found(collective, inside, runs, loops, asynchronous=True)
                elif channel in self.open:
                    found = self.open.pop(channel) if "AsyncCollectiveDone" in notes else self.open[channel]
                    found["overlapped_flops"] += flops * runs / found["runs"]
                else:
                    # In one piece with something else: a TPU's reduce-scatter is an all-reduce and a slice in one fusion.
                    found = self._found(collective, inside, runs, loops, asynchronous=flops > 0)
                    found["overlapped_flops"] = flops
                    if "all-reduce-scatter" in one.called()[0] and collective.opcode == "all-reduce":
                        found["kind"], found["wire_bytes"] = "reduce-scatter", found["wire_bytes"] / 2
        if flops:
            for key, found in self.open.items():
                if not key.startswith("channel ") and key != one.name:
                    found["overlapped_flops"] += flops * runs / found["runs"]

    def _found(self, one: Instruction, body, runs: int, loops, asynchronous: bool = False) -> dict:
        kind = one.opcode.removesuffix("-start")
        operands = [a for name in one.operands if name in body for a in arrays(body[name].shape)]
        group = group_of(one.rest, self.partitions)
        wire = ring_bytes(kind, sum(map(size, operands)), len(group))
        widest = max(operands, key=size, default=("", (), 0))
        found = dict(kind=kind, dtype=widest[0], group=group, wire_bytes=wire, runs=runs, loops=loops, op_name=self._origin(one, body),
                     asynchronous=asynchronous, overlapped_flops=0.0)  # fmt: skip
        self.collectives.append(found)
        return found

    def _origin(self, one: Instruction, body) -> str:
        """jax's name of an instruction, or of what it is computed from where the compiler made it."""
        for _ in range(6):
            if one.op_name or not one.operands or one.operands[0] not in body:
                break
            one = body[one.operands[0]]
        return one.op_name


def _convolution_flops(one: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Two for each pair of numbers that meet; a TPU's compiler writes matrix products as convolutions, some with a window whose
    padding meets nothing."""
    out = arrays(one.shape)[0][1]
    first, second, third = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest).groups()
    window = {k: v.split("x") for k, v in re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", one.rest) or ["", ""])[1])}
    met = 1
    for place, label in enumerate(sorted(c for c in first if c.isdigit())):
        n, m, k = left[first.index(label)], out[third.index(label)], right[second.index(label)]

        def of(name, default, place=place):
            return int(window[name][place]) if name in window else default

        low = int(window["pad"][place].split("_")[0]) if "pad" in window else 0
        at = np.arange(m)[:, None] * of("stride", 1) - low + np.arange(k)[None] * of("rhs_dilate", 1)
        spread = of("lhs_dilate", 1)
        met *= int(np.sum((at >= 0) & (at <= (n - 1) * spread) & (at % spread == 0)))
    return 2.0 * out[third.index("b")] * out[third.index("f")] * right[second.index("i")] * met
