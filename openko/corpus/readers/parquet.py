"""Tables of Apache Arrow: Parquet files, and data sets of the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow

from openko.corpus.document import Fault, Piece, Source, Text
from openko.corpus.readers import files, paths
from openko.errors import InputError

ROWS = 1000  # that are held at once
DAMAGE = (OSError, ValueError, pyarrow.ArrowException)


def pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    """Runs of row groups of up to PIECE_BYTES; what is no Parquet is one piece, which says so when it is read."""
    made = []
    for path in found:
        try:
            table = _open(data / path)
        except DAMAGE:
            made.append(Piece(source.name, path))
            continue
        _check_columns(source, path, table.schema_arrow.names)
        starts, size = [0], 0
        for group in range(table.num_row_groups):
            bytes_here = table.metadata.row_group(group).total_byte_size
            if size and size + bytes_here > files.PIECE_BYTES:
                starts.append(group)
                size = 0
            size += bytes_here
        made += [Piece(source.name, path, start, stop) for start, stop in zip(starts, [*starts[1:], None], strict=True)]
    return made


def _open(path: Path):
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # else a whole row group comes into memory


def _fields(source: Source) -> tuple[paths.Path, paths.Path]:
    return paths.parse(source.options.get("text", "text")), paths.parse(source.options.get("id", "id"))


def _check_columns(source: Source, where, names: list[str]) -> None:
    text, own_id = _fields(source)
    for option, path in (("text", text), ("id", own_id)):
        if (option == "text" or option in source.options) and (not path.steps or path.steps[0] not in names):
            raise InputError(f"source {source.name}: {where} has no column for {option}: {path.written!r}; there are {', '.join(names)}")


def read(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    """A document for each row; its position is the number of the row in the file."""
    place = files.place(piece.file)
    try:
        yield from _rows(_open(data / piece.file), piece, source, place)
    except DAMAGE as problem:
        yield Fault("unreadable-member", place, str(problem)[:300])


def _rows(table, piece: Piece, source: Source, place: str) -> Iterator[Text | Fault]:
    text, own_id = _fields(source)
    stop = table.num_row_groups if piece.stop is None else piece.stop
    number = sum(table.metadata.row_group(group).num_rows for group in range(piece.start))
    names = {path.steps[0] for path in (text, own_id)} & set(table.schema_arrow.names)
    groups = list(range(piece.start, stop))
    for batch in table.iter_batches(ROWS, row_groups=groups, columns=sorted(names), use_threads=False) if groups else ():
        try:
            records = batch.to_pylist()
        except UnicodeDecodeError:  # of one row, as a rule
            records = [_record(batch, row) for row in range(batch.num_rows)]
        for record in records:
            here = f"{place}#{number}"
            number += 1
            if isinstance(record, str):
                yield Fault("wrong-encoding", here, record)
            else:
                yield from paths.read_text(record, text, here, paths.read_id(record, own_id))


def _record(batch, row: int) -> dict | str:
    """A row, or why it cannot be decoded."""
    try:
        return batch.slice(row, 1).to_pylist()[0]
    except UnicodeDecodeError as problem:
        return str(problem)


# ── the hub ────────────────────────────────────────────────────────────────────────────────────────────────────────


def hub_pieces(source: Source, found: list[Path], data: Path) -> list[Piece]:
    """A piece for each file of the data set."""
    stream = _stream(source, data)
    return [Piece(source.name, None, shard, shard + 1) for shard in range(stream.num_shards)]


def read_hub(piece: Piece, source: Source, data: Path) -> Iterator[Text | Fault]:
    """A document for each row; its position is "<file>.<row>", both counted from 0."""
    text, own_id = _fields(source)
    stream = _stream(source, data)
    config, revision = source.options.get("config"), source.options.get("revision")
    place = source.options["dataset"] + (f"@{revision}" if revision else "") + (f"/{config}" if config else "") + f"/{source.split}"
    try:
        rows = stream.shard(num_shards=stream.num_shards, index=piece.start)
        for number, record in enumerate(rows):
            yield from paths.read_text(record, text, f"{place}#{piece.start}.{number}", paths.read_id(record, own_id))
    except _broken_off(source, data) as problem:  # what is missing now is there later, so it is no fault of the data
        about = f"the hub broke off ({str(problem) or type(problem).__name__})"
        raise InputError(f"source {source.name}: {about}: run again, what is done stays") from None
    except DAMAGE as problem:
        yield Fault("unreadable-member", f"{place}#{piece.start}", str(problem)[:300])


def _is_local(source: Source, data: Path) -> bool:
    """A folder of that name below the data folder goes before the hub."""
    return (data / source.options["dataset"]).is_dir()


def _broken_off(source: Source, data: Path) -> tuple[type[Exception], ...]:
    """What the network raises; in a local folder nothing does, and an OSError is damage."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its base is the error of the HTTP library that this release of the hub's client stands on: requests, httpx or another.
    return () if _is_local(source, data) else (OSError, *HfHubHTTPError.__bases__)


def _stream(source: Source, data: Path):
    """The data set, streamed."""
    import datasets

    options = source.options
    if "dataset" not in options or source.split is None:
        raise InputError(f"source {source.name}: reader hub needs `dataset`, such as wikimedia/wikipedia, and `split`, such as train")
    local = _is_local(source, data)
    try:
        stream = datasets.load_dataset(
            str(data / options["dataset"]) if local else options["dataset"], options.get("config"), split=source.split,
            revision=options.get("revision"), streaming=True,
        )  # fmt: skip
    except (ValueError, OSError, *_broken_off(source, data)) as problem:  # an unknown data set, config or split; or offline
        advice = "" if local else "; if it was the network, run again: what is done stays"
        raise InputError(
            f"source {source.name}: {options['dataset']} cannot be loaded: {str(problem) or type(problem).__name__}{advice}"
        ) from None
    if stream.column_names is not None:
        _check_columns(source, options["dataset"], stream.column_names)
    return stream
