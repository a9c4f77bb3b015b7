"""Tokenizers on domains of text: exact counts by document, ratios with intervals."""

import collections
import functools
import os
import re
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
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
WHOLES = ("all", "korean")  # several domains together; no domain may have their names
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
    """What each tokenizer makes of each domain, of all together, and of the Korean ones together.

    tokenizers: by the name they have in the answer. domains: documents by name; read once, a batch at a time, so they may be
    streams of any length. baseline: whose tokens are 1 in `tokens_ratio`; the first by default. workers: threads; one a core
    by default. The answer depends on neither workers nor batches.

    {"baseline", "tokenizers": {name: vocabulary}, "domains": {domain: part}, "all": part, "korean": part, "bootstrap"}, where a
    part is {"documents", "bytes", "syllables", "eojeol", "tokenizers": {name: row}} and a row has `tokens`, and for each measure
    {"value", "interval"}: bytes_per_token, syllables_per_token (of all tokens), tokens_per_eojeol (tokens that end in an eojeol,
    or are the space before it), broken_syllables (share that no token holds whole), tokens_ratio (to the baseline, on the same
    documents). "all" and "korean" say their "domains" too. Korean are those of whose bytes more than half are Hangul, three
    bytes a syllable (so composed Hangul); "korean" is None where there are none.

    A value is None where its domain has no syllable or no eojeol. Few documents make an interval too narrow, so it is None
    below 8 units with text (documents, or runs of them), and that of a whole None if one of its domains has fewer; "bootstrap"
    has the units of each domain. A domain's numbers do not depend on the domains beside it.

    InputError: no tokenizer, no domain, an unknown baseline, a domain without text or with a name in `WHOLES`, a text that is not
    Unicode (a lone surrogate).
    """
    if not tokenizers or not domains:
        raise InputError(f"there is no {'domain' if tokenizers else 'tokenizer'} to compare: give at least one")
    baseline = next(iter(tokenizers)) if baseline is None else baseline
    if baseline not in tokenizers:
        raise InputError(f"the baseline {baseline!r} is none of the tokenizers {', '.join(tokenizers)}: choose one of them")
    if taken := [name for name in WHOLES if name in domains]:
        raise InputError(f"a domain cannot be called {taken[0]!r}, which is several of them together: give it another name")
    counters, progress = [Counter(t) for t in tokenizers.values()], Progress(say)
    units = {}
    workers = workers or _cores()
    with ThreadPoolExecutor(workers) as pool:
        for domain, texts in domains.items():
            results = _in_order(pool, 2 * workers, functools.partial(_count, counters, domain), _batches(texts))
            units[domain] = _added(results, len(counters), domain, progress)
    names, sums, drawn, with_text = list(tokenizers), {}, {}, {}
    for domain, each in units.items():
        rows = each.rows()
        sums[domain], with_text[domain] = rows.sum(axis=0), int((rows[:, BYTES] > 0).sum())
        drawn[domain] = intervals.drawn_sums(rows, draws, intervals.generator(seed, domain))

    def part(members: list[str]) -> dict:
        enough = min(with_text[d] for d in members) >= intervals.LEAST
        made = _part(names, sum(sums[d] for d in members), sum(drawn[d] for d in members) if enough else None, baseline)
        return {"documents": sum(units[d].documents for d in members), **made}

    korean = [d for d in domains if 3 * sums[d][SYLLABLES] > sums[d][BYTES] / 2]
    runs = {d: {"units": len(units[d].rows()), "units_with_text": with_text[d], "documents_in_a_unit": units[d].run} for d in domains}
    return {
        "baseline": baseline,
        "tokenizers": {name: describe(tokenizer) for name, tokenizer in tokenizers.items()},
        "domains": {d: part([d]) for d in domains},
        "all": {"domains": list(domains), **part(list(domains))},
        "korean": {"domains": korean, **part(korean)} if korean else None,
        "bootstrap": {"draws": draws, "seed": seed, "level": intervals.LEVEL, "least": intervals.LEAST, "drawn": runs},
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


def _count(counters: list[Counter], domain: str, numbered: tuple[int, list[str]]) -> np.ndarray:
    """int64 [documents, OF_TEXT + OF_TOKENIZER × tokenizers]. numbered: the number of the first document, from 1 on, and texts."""
    first, texts = numbered
    try:
        batch = Batch.of(texts)
    except UnicodeEncodeError:
        number, found = next((n, bad) for n, text in enumerate(texts, first) if (bad := LONE_SURROGATE.search(text)))
        raise InputError(
            f"{domain}, document {number}: a lone surrogate, U+{ord(found[0]):04X}, at character {found.start()} is no text: read it anew"
        ) from None
    return np.column_stack([batch.counts, *(counter(batch) for counter in counters)])


def _batches(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    held, size, first = [], 0, 1
    for text in texts:
        held.append(text)
        size += len(text) + 1  # many empty documents are a batch too
        if size >= BATCH:
            yield first, held
            first += len(held)
            held, size = [], 0
    if held:
        yield first, held


def _in_order(pool: ThreadPoolExecutor, ahead: int, work: Callable, batches: Iterator) -> Iterator:
    """Results in the order of the batches, a few batches ahead and no more, so that a long stream is not read into memory."""
    waiting: collections.deque[Future] = collections.deque()
    for batch in batches:
        waiting.append(pool.submit(work, batch))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    yield from (future.result() for future in waiting)


def part_of(study: dict, domain: str) -> dict:
    """One domain of a study, or "all" or "korean"; InputError for one that it has not."""
    if domain == "korean" and study["korean"] is None:
        raise InputError(f"no domain of the study is mostly Hangul ({', '.join(study['domains'])}): give Korean text, or name a domain")
    if domain not in (*study["domains"], *WHOLES):
        raise InputError(f"domain {domain!r} is not in the study, which has {', '.join(study['domains'])}: choose one of them")
    return study[domain] if domain in WHOLES else study["domains"][domain]


def domains_of(study: dict, domain: str) -> list[str]:
    """The domains that `part_of` has in it."""
    return part_of(study, domain)["domains"] if domain in WHOLES else [domain]


def parts_of(study: dict) -> dict[str, dict]:
    """What a table shows: each domain, the Korean ones if they are some of several, and all if there are several."""
    several, korean = len(study["domains"]) > 1, study["korean"]
    some = {"korean": korean} if korean and 1 < len(korean["domains"]) < len(study["domains"]) else {}
    return study["domains"] | some | ({"all": study["all"]} if several else {})


def _part(names: list[str], sums: np.ndarray, drawn: np.ndarray | None, baseline: str) -> dict:
    """sums: int64 [columns]; drawn: float64 [draws, columns], None where there are too few for intervals."""
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


def _ratio(sums: np.ndarray, drawn: np.ndarray | None, above: int, below: int) -> dict:
    if not sums[below]:
        return {"value": None, "interval": None}
    interval = None if drawn is None else intervals.interval(drawn[:, above], drawn[:, below])
    return {"value": float(sums[above] / sums[below]), "interval": interval}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_of(study: dict) -> list[dict]:
    """A study as rows for a table: domain, tokenizer and numbers; intervals as [low, high]."""
    return [
        {"domain": domain, "tokenizer": name, "tokens": row["tokens"]} | {measure: row[measure] for measure in (*MEASURES, "tokens_ratio")}
        for domain, part in parts_of(study).items()
        for name, row in part["tokenizers"].items()
    ]
