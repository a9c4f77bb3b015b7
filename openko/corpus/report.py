"""A corpus on one page: what was found, what went and why, what is left, and under which licences.

The page is one file without scripts or anything from outside, the same bytes for the same corpus. All text in it comes from
documents that may be hostile: it is escaped, cut, and shown with its invisible characters made visible. Numbers and addresses of
persons are masked in it, also those of a corpus whose recipe leaves them in.
"""

import heapq
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jinja2
import xxhash

from openko import manifest
from openko.corpus import parts, personal
from openko.errors import InputError
from openko.shards import KIND as TOKEN_SHARDS

# What a build says of a corpus.
FACTS = ("recipe", "read", "faults", "cleaned", "rejected", "kept", "files", "examples", "questions", "near_duplicates", "warnings")
EXAMPLES, EXCERPT, QUESTIONS, FAULTS_SHOWN = 3, 300, 20, 20
# Decided after all filters, in this order; everything else that refuses a document is a filter.
AFTER_FILTERS = ("contaminated", "exact-copy", "near-duplicate", "duplicate-id", "over-max-bytes")
KOREAN = {
    "found": "찾은 기록", "read": "읽은 글", "cleaning": "정제", "contaminated": "평가 문항이 든 글", "exact-copy": "같은 글",
    "near-duplicate": "거의 같은 글", "duplicate-id": "같은 번호의 다른 글", "over-max-bytes": "상한을 넘은 글", "kept": "남은 글",
    "fault": "읽지 못한 기록", "filter": "거르개",
}  # fmt: skip
# Both terms of use forbid to pass the text on; ND licences forbid it for changed text, which cleaned text is.
FORBIDS = re.compile(r"no redistribution|재배포 금지|AI[ -]?Hub|AI허브|모두의 말뭉치|국립국어원|NIKL|\bND\b|NoDeriv", re.IGNORECASE)
PERMITS = re.compile(
    r"\bCC0|\bCC[ -]BY|Apache|\bMIT\b|\bBSD\b|\bPSF|public (?:domain|law)|공공누리 ?(?:제 ?)?1 ?유형|KOGL[ -]?1", re.IGNORECASE
)
INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")


class Step(NamedTuple):
    """A bar of the waterfall. documents, bytes: how many go, or stand there (a total); None where they are not known.
    before: what stood there before the step, as (documents, bytes). kind: "total", "goes" or "part"."""

    kind: str
    korean: str
    name: str
    documents: int | None
    bytes: int | None
    before: tuple[int, int]


class Check(NamedTuple):
    """Two numbers that must be equal."""

    what: str
    left: int
    right: int

    @property
    def difference(self) -> int:
        return self.left - self.right


@dataclass
class Rejected:
    """What the files of rejected documents say: counts, some examples by reason, and documents by question."""

    counts: Counter = field(default_factory=Counter)
    examples: dict[str, list[dict]] = field(default_factory=dict)
    questions: Counter = field(default_factory=Counter)
    pieces: dict[tuple, str] = field(default_factory=dict)


def write(corpus: Path, out: Path | None = None, shards: list[Path] = ()) -> Path:
    """The page of a corpus directory, beside it as NAME.html unless `out` says where. shards: directories packed from it.

    Reads every rejected document, some 10 GB a minute.
    """
    corpus = Path(corpus)
    made = manifest.read(corpus, parts.KIND, made_by="openko corpus build")
    missing = [name for name in FACTS if name not in made.facts]
    missing += [f"cleaned: {rule}: bytes" for rule, counts in made.facts.get("cleaned", {}).items() if "bytes" not in counts]
    if missing:
        raise InputError(f"{corpus / manifest.NAME}: facts without {', '.join(missing)}: make the corpus again by openko corpus build")
    packed = [_packed(Path(path), made, corpus) for path in shards]
    facts, rejected = made.facts, _rejected(corpus)
    faults, shown_faults = _faults(corpus)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"shown": shown, "excerpt": excerpt, "number": number, "size": size, "percent": percent, "measure": measure}
    page = environment.get_template("report.html.jinja").render(
        name=facts["recipe"]["name"], steps=waterfall(facts), sources=_by_source(facts, packed), packed=packed, cleaned=facts["cleaned"],
        cleaned_examples=_without_personal_data(facts["examples"].get("cleaned", {})), refused=_refused(facts), rejected=rejected,
        licences=licences(facts),
        faults=facts["faults"], shown_faults=shown_faults, checks=checks(facts, rejected.counts, faults), code=made.code,
        questions=sorted(rejected.questions.items(), key=lambda item: (-item[1], item[0]))[:QUESTIONS],
        asked=facts["questions"], compared=facts["near_duplicates"], warnings=facts["warnings"],
    )  # fmt: skip
    out = corpus.with_name(f"{corpus.name}.html") if out is None else Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(out, page)
    return out


# ── the numbers ──────────────────────────────────────────────────────────────────────────────────────────────────


def waterfall(facts: dict) -> list[Step]:
    """From what was found to what is kept, in the order in which it is decided, and the parts that the rest is in."""
    faults, read, kept = _totals(facts["faults"]), _sum(facts["read"]), _sum(_kept(facts))
    documents, size = read[0] + faults.total(), read[1]
    steps = [Step("total", KOREAN["found"], "found", documents, None, (documents, size))]
    for reason, count in _by_count(faults):
        steps.append(Step("goes", KOREAN["fault"], reason, count, None, (documents, size)))
        documents -= count
    steps.append(Step("total", KOREAN["read"], "read", *read, read))
    gone = _refused(facts)
    shorter = size - kept[1] - sum(bytes for _, bytes in gone.values())
    steps.append(Step("goes", KOREAN["cleaning"], "cleaning", None, shorter, (documents, size)))
    size -= shorter
    for reason, (count, bytes) in gone.items():
        steps.append(Step("goes", KOREAN.get(reason, KOREAN["filter"]), reason, count, bytes, (documents, size)))
        documents, size = documents - count, size - bytes
    steps.append(Step("total", KOREAN["kept"], "kept", *kept, kept))
    return steps + [Step("part", "", part, *_sum(by_source), _sum(by_source)) for part, by_source in sorted(facts["kept"].items())]


def checks(facts: dict, rejected_lines: Counter, fault_lines: Counter) -> list[Check]:
    """Every sum that must hold, between the counts of the manifest and against the lines that are really there."""
    kept, found = _kept(facts), []
    for source in dict.fromkeys([*facts["read"], *facts["rejected"], *kept]):
        gone = sum(c["documents"] for c in facts["rejected"].get(source, {}).values())
        read, left = (counts.get(source, {"documents": 0})["documents"] for counts in (facts["read"], kept))
        found.append(Check(f"{source}: read = kept + rejected (documents)", read, left + gone))
    after = _sum(kept)[1] + sum(bytes for _, bytes in _refused(facts).values()) + sum(c["bytes"] for c in facts["cleaned"].values())
    found.append(Check("bytes read = kept + rejected + what cleaning took", _sum(facts["read"])[1], after))
    # What a cap left out stands in no file: it would be a second corpus.
    listed = {(s, r): c["documents"] for s, reasons in facts["rejected"].items() for r, c in reasons.items() if r != "over-max-bytes"}
    lines = Counter({key: n for key, n in rejected_lines.items() if key[1] != "over-max-bytes"})
    found += _lines_checks("rejected", listed, lines)
    return found + _lines_checks("fault", {(s, r): n for s, reasons in facts["faults"].items() for r, n in reasons.items()}, fault_lines)


def licences(facts: dict) -> list[dict]:
    """{"licence", "sources", "documents", "bytes", "redistribution"}: "forbidden", "allowed", or "unknown", by the licence's name."""
    kept, rows = _kept(facts), {}
    for source in facts["recipe"]["sources"]:
        row = rows.setdefault(source["licence"], {"licence": source["licence"], "sources": [], "documents": 0, "bytes": 0})
        row["sources"].append(source["name"])
        for name, count in kept.get(source["name"], {}).items():
            row[name] += count
    for row in rows.values():
        forbidden, allowed = FORBIDS.search(row["licence"]), PERMITS.search(row["licence"])
        row["redistribution"] = "forbidden" if forbidden else "allowed" if allowed else "unknown"
    return sorted(rows.values(), key=lambda row: (-row["bytes"], row["licence"]))


def _by_source(facts: dict, packed: list[dict]) -> list[dict]:
    kept, rows = _kept(facts), []
    for source in facts["recipe"]["sources"]:
        name, none = source["name"], {"documents": 0, "bytes": 0}
        read, left = facts["read"].get(name, none), kept.get(name, none)
        row = {"source": source, "read": read, "kept": left, "faults": sum(facts["faults"].get(name, {}).values())}
        row["share"] = left["bytes"] / read["bytes"] if read["bytes"] else None
        shards = [p["facts"]["sources"][name] for p in packed if name in p["facts"].get("sources", {})]
        row["tokens"], row["packed"] = (sum(s[key] for s in shards) for key in ("tokens", "bytes"))
        rows.append(row)
    return rows


def _kept(facts: dict) -> dict[str, Counter]:
    """By source, over all parts."""
    kept: dict[str, Counter] = defaultdict(Counter)
    for by_source in facts["kept"].values():
        for source, counts in by_source.items():
            kept[source].update(counts)
    return dict(kept)


def _refused(facts: dict) -> dict[str, tuple[int, int]]:
    """{reason: (documents, bytes)} over all sources: filters, the most of them first, then what is decided after them."""
    totals: dict[str, Counter] = defaultdict(Counter)
    for reasons in facts["rejected"].values():
        for reason, counts in reasons.items():
            totals[reason].update(counts)
    after = {reason: k for k, reason in enumerate(AFTER_FILTERS)}
    ordered = sorted(totals, key=lambda reason: (after.get(reason, -1), -totals[reason]["documents"], reason))
    return {reason: (totals[reason]["documents"], totals[reason]["bytes"]) for reason in ordered}


def _sum(by_source: dict) -> tuple[int, int]:
    return sum(c["documents"] for c in by_source.values()), sum(c["bytes"] for c in by_source.values())


def _totals(by_source: dict[str, dict[str, int]]) -> Counter:
    return sum((Counter(reasons) for reasons in by_source.values()), Counter())


def _by_count(counts: Counter) -> list[tuple]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _lines_checks(what: str, counted: dict[tuple, int], lines: Counter) -> list[Check]:
    """One line for all that agree, and one for each source and reason that does not."""
    wrong = [key for key in sorted({*counted} | {*lines}) if counted.get(key, 0) != lines[key]]
    whole = Check(f"{what}: counted = lines in the file", sum(counted.values()), lines.total())
    return [
        whole,
        *(Check(f"{what}: {source}, {reason}", counted.get((source, reason), 0), lines[source, reason]) for source, reason in wrong),
    ]


# ── what lies beside the manifest ────────────────────────────────────────────────────────────────────────────────


def _rejected(corpus: Path) -> Rejected:
    """All lines of the rejected files. Of each reason the EXAMPLES with the smallest hashes are shown: any of them is as likely."""
    found, nearest = Rejected(), defaultdict(list)
    for path in sorted(corpus.glob("rejected*.jsonl")):
        with open(path, "rb") as lines:
            for place, line in enumerate(lines, 1):
                record = _line(line, path, place, ("id", "source", "reason"))
                reason = record["reason"]
                found.counts[record["source"], reason] += 1
                if reason == "contaminated":
                    question = (record["question"]["dataset"], record["question"]["number"])
                    found.questions[question] += 1
                    found.pieces.setdefault(question, record["question"]["piece"])
                key, held = -xxhash.xxh3_64_intdigest(line), nearest[reason]
                if len(held) < EXAMPLES:
                    heapq.heappush(held, (key, path.name, place, record))
                elif key > held[0][0]:
                    heapq.heapreplace(held, (key, path.name, place, record))
    found.examples = {reason: [record for *_, record in sorted(held, key=lambda h: (-h[0], h[1:3]))] for reason, held in nearest.items()}
    return found


def _faults(corpus: Path) -> tuple[Counter, dict[str, list[dict]]]:
    """Counts by source and reason, and the first FAULTS_SHOWN of each reason."""
    counts, some = Counter(), defaultdict(list)
    for path in sorted(corpus.glob("faults*.jsonl")):
        with open(path, "rb") as lines:
            for place, line in enumerate(lines, 1):
                record = _line(line, path, place, ("source", "place", "reason", "detail"))
                counts[record["source"], record["reason"]] += 1
                if len(some[record["reason"]]) < FAULTS_SHOWN:
                    some[record["reason"]].append(record)
    return counts, dict(sorted(some.items()))


def _line(line: bytes, path: Path, place: int, fields: tuple[str, ...]) -> dict:
    try:
        record = json.loads(line)
        absent = [name for name in fields if name not in record]
    except (ValueError, TypeError) as problem:
        raise InputError(f"{path}, line {place} cannot be read ({problem}): make the corpus again") from None
    if absent:
        raise InputError(f"{path}, line {place} has no {', '.join(absent)}: make the corpus again")
    return record


def _packed(directory: Path, corpus: manifest.Manifest, where: Path) -> dict:
    found = manifest.read(directory, TOKEN_SHARDS, made_by="openko corpus pack")
    if found.inputs.get("corpus", {}).get("content") != corpus.content:
        raise InputError(f"{directory} was not packed from {where} as it is: pack it again, or leave it out")
    return {"name": directory.name, "recipe": found.recipe, "facts": found.facts}


def _without_personal_data(cleaned: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """No text from before the rule that takes personal data away: manifests made by older code hold some."""
    return cleaned | {personal.RULE: [{k: v for k, v in e.items() if k != "before"} for e in cleaned.get(personal.RULE, [])]}


# ── how things are shown ─────────────────────────────────────────────────────────────────────────────────────────


def shown(text: str, characters: int = EXCERPT) -> str:
    """The beginning of any text, with invisible and direction-changing characters spelled out. Jinja escapes what is HTML."""
    cut = INVISIBLE.sub(lambda m: f"⟨{ord(m[0]):04X}⟩", str(text)[:characters])
    return cut + ("…" if len(str(text)) > characters else "")


def excerpt(text: str) -> str:
    """As `shown`, of a document's text: numbers and addresses of persons are masked, before the cut could halve one."""
    return shown(personal.mask(str(text)))


def number(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def size(bytes: int | None) -> str:
    """With the unit that suits it, in powers of 1000."""
    if bytes is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(bytes) >= factor:
            return f"{bytes / factor:,.2f} {unit}"
    return f"{bytes:,} B"


def percent(part: float | None, whole: float = 1) -> str:
    return "–" if part is None or not whole else f"{part / whole:.1%}"


def measure(value) -> str:
    """A measured value or a threshold, which may be a number, two or words."""
    if isinstance(value, list):
        return " – ".join(map(measure, value))
    return f"{value:.4g}" if isinstance(value, int | float) else shown(value, 80)
