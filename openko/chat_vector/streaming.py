"""One pass over the weights of three models: threads read, add, hash and write; one more reads back what was written.

Files are read and written at offsets that their headers give (os.preadv, os.pwrite), into buffers that are used again: a
memory map would count into the process's memory as far as it was touched. What is read back was written a moment ago and comes
from the system's cache: that checks the writing (offsets, torn blocks, other writers), not the medium below it.
"""

import json
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import xxhash

from openko.chat_vector.arithmetic import BLOCK, Adder, Damping, Squares, damping_of, put_rows
from openko.chat_vector.models import Addition
from openko.errors import InputError
from openko.hf_weights import PlannedFile, TensorInfo

PIECE = 1 << 20  # bytes read back at once
FLUSH = 1 << 27  # bytes after which the disk is asked to begin
WIDEST = 4  # bytes of a weight


@dataclass(frozen=True)
class Done:
    """A finished tensor: sums of squares (None where the target's was copied) and xxh3_128 of every source and of what was
    written ("out")."""

    squares: Squares | None
    hashes: dict[str, str]


@dataclass(frozen=True)
class Passed:
    """done: {tensor: Done}, in the order asked for. files: {file name: xxh3_128} as read back; empty where nothing was written."""

    done: dict[str, Done]
    files: dict[str, str]


class Journal:
    """Which tensors of a directory are written: a JSON line for each, added when it is done, so that a merge can go on."""

    def __init__(self, path: Path):
        path.parent.mkdir(exist_ok=True)
        self.claims = dict(_read_lines(path)) if path.exists() else {}
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(self._descriptor, b"\n")  # ends a line that was cut off

    def add(self, name: str, done: Done) -> None:
        os.write(self._descriptor, json.dumps({"tensor": name, **asdict(done)}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


def _read_lines(path: Path):
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            yield entry["tensor"], Done(None if entry["squares"] is None else Squares(*entry["squares"]), entry["hashes"])
        except (ValueError, KeyError, TypeError):
            continue  # cut off in the middle: what it claimed is done again


def run(
    additions: Iterable[Addition], *, method: str = "add", workers: int, files: Iterable[PlannedFile] = (), journal: Journal | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Passed:  # fmt: skip
    """Go through all tensors once, in `workers` threads, and write them into `files`, in their order, if there are any.

    journal: its claims are compared with what lies in the files, and only what does not agree is made again.
    progress: called in this thread, about ten times a second, with the bytes of the target that are through.
    """
    additions, files = list(additions), list(files)
    with ExitStack() as stack:
        return _Pass(additions, files, method, journal, stack).run(workers, progress)


class _Stopped(Exception):
    """Another thread met a problem, or the person interrupted."""


class _Pass:
    def __init__(self, additions: list[Addition], files: list[PlannedFile], method: str, journal: Journal | None, stack: ExitStack):
        self.additions, self.method, self.journal = additions, method, journal
        in_files = {name: number for number, name in enumerate(name for file in files for name in file.tensors)}
        self.pending = deque(sorted(additions, key=lambda a: in_files.get(a.name, 0)))
        self.unverified = deque(files)
        self.sources = {
            path: _opened(stack, path, os.O_RDONLY) for path in {info.file for a in additions for info in a.sources.values()}
        }  # fmt: skip
        self.outputs = {file.path: _opened(stack, file.path, os.O_RDWR | os.O_CREAT) for file in files}
        self.infos = {name: info for file in files for name, info in file.tensors.items()}
        for file in files:
            os.ftruncate(self.outputs[file.path], file.bytes)
            _write(self.outputs[file.path], memoryview(file.header), 0)
        self.changed = threading.Condition()
        self.done: dict[str, Done] = {}
        self.hashes: dict[str, str] = {}
        self.problem: BaseException | None = None
        self.through, self.unflushed = 0, 0
        self.to_flush: queue.SimpleQueue = queue.SimpleQueue()

    def run(self, workers: int, progress: Callable[[int], None]) -> Passed:
        work = [self._work] * workers + [self._verify_files] * bool(self.outputs)
        threads = [threading.Thread(target=self._guarded, args=(some,)) for some in work]
        flusher = threading.Thread(target=self._flush)
        self.running, started = len(threads), []
        try:
            for thread in (*threads, flusher):
                thread.start()
                started.append(thread)
            while True:
                with self.changed:
                    if self.running == 0 or self.problem is not None:
                        break
                    self.changed.wait(0.1)
                progress(self.through)
        except BaseException as problem:  # an interrupt too: the threads end at their next block
            self.problem = problem
        finally:
            self.to_flush.put(None)
            with self.changed:
                self.changed.notify_all()
            for thread in started:
                thread.join()
        if self.problem is not None:
            raise self.problem
        progress(self.through)
        return Passed({a.name: self.done[a.name] for a in self.additions}, self.hashes)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            with np.errstate(all="ignore"):  # what is not finite is found and named by us
                work()
        except _Stopped:
            pass
        except BaseException as problem:
            self.problem = self.problem or problem
        with self.changed:
            self.running -= 1
            self.changed.notify_all()

    def _go_on(self, more: int = 0) -> None:
        if self.problem is not None:
            raise _Stopped
        with self.changed:
            self.through += more

    def _work(self) -> None:
        room = _Room()
        while self.pending:
            try:
                addition = self.pending.popleft()
            except IndexError:
                break
            done = self._claimed(addition)
            if done is None:
                done = self._made(addition, room)
                if self.journal is not None:
                    self.journal.add(addition.name, done)
            with self.changed:
                self.done[addition.name] = done
                self.changed.notify_all()
        self._verify_files()  # with more than one file there is something left to help with

    # ── one tensor ───────────────────────────────────────────────────────────────────────────────────────────────

    def _claimed(self, addition: Addition) -> Done | None:
        """What the journal says of a tensor, if it lies in its file as the journal says."""
        claim = self.journal.claims.get(addition.name) if self.journal is not None else None
        if claim is None or self._hash_of(self.infos[addition.name]) != claim.hashes["out"]:
            return None
        self._go_on(addition.target.bytes)
        return claim

    def _made(self, addition: Addition, room: "_Room") -> Done:
        damping = self._damping(addition, room) if self.method == "damped" else None
        info, squares = self.infos.get(addition.name), Squares()
        hashes = {role: xxhash.xxh3_128() for role in addition.sources} | ({"out": xxhash.xxh3_128()} if info else {})
        for start in range(0, addition.target.size, BLOCK):
            block = {role: self._read(source, start, room.bytes[role]) for role, source in addition.sources.items()}
            for role, numbers in block.items():
                hashes[role].update(numbers.view(np.uint8))
            out, found = self._summed(addition, block, start, damping, room)
            squares += found
            if info is not None:
                raw = out.view(np.uint8)
                hashes["out"].update(raw)
                _write(self.outputs[info.file], raw.data, info.start + start * info.dtype.itemsize)
            self._go_on(block["target"].nbytes)
        if info is not None:
            self._note_written(info)
        return Done(squares if addition.base else None, {role: h.hexdigest() for role, h in hashes.items()})

    def _summed(self, addition: Addition, block: dict, start: int, damping: Damping | None, room: "_Room") -> tuple[np.ndarray, Squares]:
        """A block of the result in the target's dtype, and its sums of squares; every number of it finite."""
        target = block["target"]
        if addition.base is None:
            if not np.isfinite(target).all():
                raise self._not_finite(addition, block)
            return target, Squares()
        summed, squares = room.adder(target, block["base"], block["chat"], addition.scale, damping)
        put_rows(summed, block[addition.rows_of], addition.rows, addition.target.shape[-1], start)
        out = room.bytes["out"][: target.nbytes].view(target.dtype)
        np.copyto(out, summed, casting="unsafe")  # rounded once
        # One sum tells whether all are finite; fp16 alone can overflow where squares in fp32 do not.
        if not math.isfinite(sum(squares)) or (target.dtype == np.float16 and not np.isfinite(out).all()):
            if not np.isfinite(out).all() or any(not np.isfinite(numbers).all() for numbers in block.values()):
                raise self._not_finite(addition, block)
            squares = _wide_squares(block)
        return out, squares

    def _not_finite(self, addition: Addition, block: dict) -> InputError:
        broken = [str(addition.sources[role].file.parent) for role, numbers in block.items() if not np.isfinite(numbers).all()]
        if broken:
            return InputError(f"tensor {addition.name} holds NaN or infinity in {', '.join(broken)}")
        return InputError(f"tensor {addition.name}: at λ = {addition.scale:g} the sum is beyond the target's {addition.target.dtype}")

    def _damping(self, addition: Addition, room: "_Room") -> Damping | None:
        if addition.base is None or addition.scale == 0.0:
            return None
        extremes = []
        for start in range(0, addition.target.size, BLOCK):
            t, b = (self._read(addition.sources[role], start, room.bytes[role]) for role in ("target", "base"))
            extremes.append(room.adder.moved(t, b))
            self._go_on()
        return damping_of(extremes)

    def _read(self, source: TensorInfo, start: int, buffer: np.ndarray) -> np.ndarray:
        """A block of a tensor from its number `start` on, as a view of `buffer`."""
        length = min(BLOCK, source.size - start) * source.dtype.itemsize
        _fill(self.sources[source.file], buffer[:length], source.start + start * source.dtype.itemsize, source.file)
        return buffer[:length].view(source.dtype)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _verify_files(self) -> None:
        """Follow the writers: read each file back from its beginning, as far as it is finished.

        From the system's cache, mostly: it tells whether the right bytes were written, not whether the disk keeps them.
        """
        while True:
            try:
                file = self.unverified.popleft()
            except IndexError:
                return
            digest, descriptor = xxhash.xxh3_128(), self.outputs[file.path]
            head = np.empty(len(file.header), np.uint8)
            _fill(descriptor, head, 0, file.path)
            digest.update(head)
            for name, info in file.tensors.items():
                with self.changed:
                    while name not in self.done:
                        if self.problem is not None:
                            raise _Stopped
                        self.changed.wait()
                if self._hash_of(info, digest) != self.done[name].hashes["out"]:
                    raise InputError(
                        f"{file.path}: tensor {name} is not what was written there, read back through the system's cache: does another "
                        "process write to it? Run again, and it is made anew"
                    )
            os.fsync(descriptor)
            self.hashes[file.path.name] = digest.hexdigest()

    def _hash_of(self, info: TensorInfo, digest=None) -> str:
        """xxh3_128 of a tensor as it lies in the output; `digest` is given the same bytes."""
        found, buffer, end = xxhash.xxh3_128(), np.empty(min(PIECE, info.bytes), np.uint8), info.start + info.bytes
        for start in range(info.start, end, PIECE):
            self._go_on()
            piece = buffer[: min(PIECE, end - start)]
            _fill(self.outputs[info.file], piece, start, info.file)
            found.update(piece)
            if digest is not None:
                digest.update(piece)
        return found.hexdigest()

    def _note_written(self, info: TensorInfo) -> None:
        with self.changed:
            self.unflushed += info.bytes
            flush, self.unflushed = self.unflushed >= FLUSH, 0 if self.unflushed >= FLUSH else self.unflushed
        if flush:
            self.to_flush.put(self.outputs[info.file])

    def _flush(self) -> None:
        """Have the disk write beside the arithmetic; left alone, the system begins when gigabytes wait."""
        try:
            while (descriptor := self.to_flush.get()) is not None:
                if self.problem is None:
                    os.fsync(descriptor)
        except OSError as problem:  # a fault of the disk is told to one fsync alone
            self.problem = self.problem or problem


class _Room:
    """What one thread needs: bytes of a block of each model and of the result, and fp32 for the sum."""

    def __init__(self):
        self.bytes = {role: np.empty(BLOCK * WIDEST, np.uint8) for role in ("target", "base", "chat", "out")}
        self.adder = Adder(BLOCK)


def _wide_squares(block: dict) -> Squares:
    """In fp64, for numbers whose squares are beyond fp32."""
    t, b, c = (block[role].astype(np.float64) for role in ("target", "base", "chat"))
    return Squares(*(float(np.vdot(x, x)) for x in (c - b, b, t - b, t)))


def _opened(stack: ExitStack, path: Path, how: int) -> int:
    descriptor = os.open(path, how, 0o644)
    stack.callback(os.close, descriptor)
    return descriptor


def _fill(descriptor: int, buffer: np.ndarray, offset: int, path: Path) -> None:
    view = memoryview(buffer)
    while len(view):
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise InputError(f"{path} ended at byte {offset:,}, before its header says: is it being changed?")
        view, offset = view[count:], offset + count


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
