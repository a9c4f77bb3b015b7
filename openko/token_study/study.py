"""Tokenizers on domains of text: exact counts by document, ratios with intervals."""

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from openko.errors import InputError
from openko.progress import Progress
from openko.token_study import intervals
from openko.token_study.counting import BROKEN, BYTES, EOJEOL, EOJEOL_TOKENS, FIELDS, OF_TEXT, SYLLABLES, TOKENS, Batch, Counter
from openko.token_study.vocabulary import describe
from openko.tokenizers import Tokenizer

BATCH = 1 << 19  # characters that one thread counts at a time
OF_TOKENIZER = len(FIELDS) - OF_TEXT
# Name of each measure, what is above and what below in the ratio.
MEASURES = {
    "bytes_per_token": (BYTES, TOKENS),
    "syllables_per_token": (SYLLABLES, TOKENS),
    "tokens_per_eojeol": (EOJEOL_TOKENS, EOJEOL),
    "broken_syllables": (BROKEN, SYLLABLES),
}


def compare(
    tokenizers: dict[str, Tokenizer], domains: dict[str, Iterable[str]], *, baseline: str | None = None,
    draws: int = intervals.DRAWS, seed: int = intervals.SEED, workers: int | None = None, say: Callable[[str], None] = lambda line: None,
) -> dict:  # fmt: skip
    """What each tokenizer makes of each domain, and of all together.

    tokenizers: by the name they have in the answer. domains: documents by name; read once, a batch at a time, so they may be
    streams of any length. baseline: whose tokens are 1 in `tokens_ratio`; the first by default. workers: threads; one a core
    by default. The answer depends on neither workers nor batches.

    {"baseline", "tokenizers": {name: vocabulary}, "domains": {domain: part}, "all": part, "bootstrap"}, where a part is
    {"documents", "bytes", "syllables", "eojeol", "tokenizers": {name: row}} and a row has `tokens`, and for each measure
    {"value", "interval"}: bytes_per_token, syllables_per_token (of all tokens), tokens_per_eojeol (tokens that end in an eojeol),
    broken_syllables (share that no token holds whole), tokens_ratio (to the baseline, on the same documents). A value is None
    where its domain has no syllable or no eojeol; an interval is None for a single document too.

    InputError: no tokenizer, no domain, an unknown baseline, a domain without text.
    """
    if not tokenizers or not domains:
        raise InputError(f"there is no {'domain' if tokenizers else 'tokenizer'} to compare: give at least one")
    baseline = next(iter(tokenizers)) if baseline is None else baseline
    if baseline not in tokenizers:
        raise InputError(f"the baseline {baseline!r} is none of the tokenizers {', '.join(tokenizers)}: choose one of them")
    counters, progress = [Counter(t) for t in tokenizers.values()], Progress(say)
    units = {}
    workers = workers or _cores()
    with ThreadPoolExecutor(workers) as pool:
        for domain, texts in domains.items():
            results = _in_order(pool, 2 * workers, lambda batch: _count(counters, batch), _batches(texts))
            units[domain] = _added(results, len(counters), domain, progress)
    random = np.random.default_rng(seed)
    sums, drawn = {}, {}
    for domain, each in units.items():
        rows = each.rows()
        sums[domain], drawn[domain] = rows.sum(axis=0), intervals.drawn_sums(rows, draws, random)
    names = list(tokenizers)
    parts = {d: {"documents": units[d].documents, **_part(names, sums[d], drawn[d], baseline)} for d in domains}
    whole = _part(names, sum(sums.values()), sum(drawn.values()), baseline)
    runs = {domain: {"units": len(each.rows()), "documents_in_a_unit": each.run} for domain, each in units.items()}
    return {
        "baseline": baseline,
        "tokenizers": {name: describe(tokenizer) for name, tokenizer in tokenizers.items()},
        "domains": parts,
        "all": {"documents": sum(each.documents for each in units.values()), **whole},
        "bootstrap": {"draws": draws, "seed": seed, "level": intervals.LEVEL, "drawn": runs},
    }


def _added(results: Iterable[np.ndarray], tokenizers: int, domain: str, progress: Progress) -> intervals.Units:
    found, size = intervals.Units(OF_TEXT + OF_TOKENIZER * tokenizers), 0
    for rows in results:
        found.add(rows)
        size += int(rows[:, BYTES].sum())
        progress(f"counting {domain}: {found.documents:,} documents, {size / 1e6:,.0f} MB")
    if not size:
        raise InputError(f"{domain} has no text in its {found.documents:,} documents: give a file with text")
    return found


def _count(counters: list[Counter], texts: list[str]) -> np.ndarray:
    """int64 [documents, OF_TEXT + OF_TOKENIZER × tokenizers]."""
    batch = Batch.of(texts)
    return np.column_stack([batch.counts, *(counter(batch) for counter in counters)])


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    held, size = [], 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


def _in_order(pool: ThreadPoolExecutor, ahead: int, work: Callable, batches: Iterator) -> Iterator:
    """Results in the order of the batches, a few batches ahead and no more, so that a long stream is not read into memory."""
    waiting: collections.deque[Future] = collections.deque()
    for batch in batches:
        waiting.append(pool.submit(work, batch))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    yield from (future.result() for future in waiting)


def part_of(study: dict, domain: str | None) -> dict:
    """One domain of a study, or all; InputError for one that it has not."""
    if domain is not None and domain not in study["domains"]:
        raise InputError(f"domain {domain!r} is not in the study, which has {', '.join(study['domains'])}: choose one of them")
    return study["all"] if domain is None else study["domains"][domain]


def _part(names: list[str], sums: np.ndarray, drawn: np.ndarray, baseline: str) -> dict:
    """sums: int64 [columns]; drawn: float64 [draws, columns]."""
    columns = {
        name: [*range(OF_TEXT), *range(OF_TEXT + OF_TOKENIZER * i, OF_TEXT + OF_TOKENIZER * (i + 1))] for i, name in enumerate(names)
    }
    rows = {}
    for name in names:
        ours = columns[name]
        pairs = {measure: (ours[above], ours[below]) for measure, (above, below) in MEASURES.items()}
        pairs["tokens_ratio"] = (ours[TOKENS], columns[baseline][TOKENS])
        rows[name] = {"tokens": int(sums[ours[TOKENS]])} | {m: _ratio(sums, drawn, *pair) for m, pair in pairs.items()}
        if not sums[SYLLABLES]:
            rows[name]["syllables_per_token"] = {"value": None, "interval": None}
    return {**{FIELDS[i]: int(sums[i]) for i in range(OF_TEXT)}, "tokenizers": rows}


def _ratio(sums: np.ndarray, drawn: np.ndarray, above: int, below: int) -> dict:
    if not sums[below]:
        return {"value": None, "interval": None}
    return {"value": float(sums[above] / sums[below]), "interval": intervals.interval(drawn[:, above], drawn[:, below])}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_of(study: dict) -> list[dict]:
    """A study as rows for a table: domain, tokenizer and numbers; intervals as [low, high]."""
    parts = itertools.chain(study["domains"].items(), [("all", study["all"])] if len(study["domains"]) > 1 else [])
    return [
        {"domain": domain, "tokenizer": name, "tokens": row["tokens"]} | {measure: row[measure] for measure in (*MEASURES, "tokens_ratio")}
        for domain, part in parts
        for name, row in part["tokenizers"].items()
    ]
