"""Near-duplicates: what is compared, who goes, that nothing depends on files or workers, and what the person is told."""

import errno
import functools
import gzip
import hashlib
import json
import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import zstandard
from corpus_text import english, korean, write_jsonl
from scipy.stats import binom

from openko.cli import app
from openko.corpus import arrange, build, candidates, dedup, engines, minhash, near_duplicates, recipe, runs, shingles
from openko.corpus.minhash import Bands, Similar
from openko.errors import InputError

WORDS = sorted({word for n in range(40) for word in korean(n).split()})


@functools.cache
def true_shingles(text: str, unit: str) -> set:
    """The definition, once more."""
    text = unicodedata.normalize("NFC", text)
    units = "".join(text.split()) if unit == "syllable" else text.split()
    return {tuple(units[k : k + 5]) for k in range(max(1, len(units) - 4))} if units else set()


def true_jaccard(a: str, b: str, unit: str = "syllable") -> float:
    a, b = true_shingles(a, unit), true_shingles(b, unit)
    return len(a & b) / max(1, len(a | b))


def edited(text: str, words: float, seed: int) -> str:
    """With a share of its words replaced."""
    draw, found = random.Random(seed), text.split()
    for k in draw.sample(range(len(found)), round(words * len(found))):
        found[k] = draw.choice(WORDS)
    return " ".join(found)


def unspaced(text: str, share: float, seed: int) -> str:
    draw = random.Random(seed)
    return "".join(c for c in text if c != " " or draw.random() >= share)


def json_lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def run(tmp_path):
    """documents -> (survivors by id, duplicates by id, facts)."""

    def run(documents, *, name="out", files=1, **options):
        paths = [tmp_path / f"{name}-{number}.jsonl" for number in range(files)]
        for number, path in enumerate(paths):
            write_jsonl(path, documents[number::files])
        made = dedup.dedup(paths, tmp_path / name, say=lambda line: None, **options)
        kept = [d for path in made.facts["files"] for d in json_lines(tmp_path / name / path)]
        gone = json_lines(tmp_path / name / "duplicates.jsonl")
        return {d["id"]: d for d in kept}, {d["id"]: d for d in gone}, made.facts

    return run


# ── what is compared ───────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = [
    "가나다라마바사", "가 나 다\n라마\t바사", unicodedata.normalize("NFD", "가나다라마바사"), "가나", "가 나", "", " \n", "a",
    "한 두 세 네 다섯 여섯 일곱", "한두 세네 다섯여섯일곱", "ㅋㅋㅋㅋㅋㅋㅋㅋ", "ᄒᆞᆫ글 옛한글 글자입니다", "🙂🙂🙂🙂🙂🙂",
    korean(1), korean(2), english(1),
]  # fmt: skip


@pytest.mark.parametrize("unit", shingles.UNITS)
def test_shingles_are_those_of_the_definition(unit):
    sets = shingles.sets(TEXTS, unit)
    assert [len(found) for found in sets] == [len(true_shingles(text, unit)) for text in TEXTS]
    for a, found_a in zip(TEXTS, sets, strict=True):
        for b, found_b in zip(TEXTS, sets, strict=True):
            assert shingles.jaccard(found_a, found_b) == true_jaccard(a, b, unit)


@pytest.mark.parametrize("unit", shingles.UNITS)
def test_a_texts_shingles_do_not_depend_on_those_beside_it(unit):
    alone = [shingles.sets([text], unit)[0].tolist() for text in TEXTS]
    assert [found.tolist() for found in shingles.sets(TEXTS, unit)] == alone
    bands, sketches = Similar(unit).sketch(TEXTS)
    one_by_one = [Similar(unit).sketch([text]) for text in TEXTS[8:]]
    assert np.array_equal(bands[:, 8:], np.concatenate([own for own, _ in one_by_one], axis=1))
    assert np.array_equal(sketches[8:], np.concatenate([own for _, own in one_by_one]))


def test_the_bands_catch_nine_in_ten_at_the_threshold_and_are_as_long_as_they_can_be():
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.99):
        bands = Bands.for_threshold(threshold)
        longer = Bands(128 // (bands.rows + 1), bands.rows + 1)
        assert bands.probability(threshold) >= 0.9 > longer.probability(threshold)
    assert Bands.for_threshold(0.7) == Bands(21, 6)


@pytest.mark.parametrize("likeness", [0.5, 0.7, 0.8])
def test_bands_are_shared_as_often_as_the_formula_says(likeness):
    draw, size, pairs = np.random.default_rng(0), 600, 400
    shared = round(2 * size * likeness / (1 + likeness))
    sets = []
    for _ in range(pairs):
        pool = draw.integers(0, 1 << 63, 2 * size - shared, dtype=np.uint64)
        sets += [pool[:size], pool[size - shared :]]
    bands = Similar().bands
    found = minhash.hashed(bands.signatures(np.concatenate(sets), np.arange(2 * pairs + 1) * size))
    caught, expected = np.mean((found[:, ::2] == found[:, 1::2]).any(axis=0)), bands.probability(likeness)
    assert abs(caught - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5 + 0.005


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_bytes_let_one_in_a_thousand_go_at_the_threshold_and_next_to_none_by_chance(threshold):
    similar = Similar(threshold=threshold)
    n = similar.bands.count * similar.bands.rows
    assert binom.cdf(similar.least_equal - 1, n, threshold + (1 - threshold) / 256) <= 0.001
    assert binom.cdf(similar.least_equal, n, threshold + (1 - threshold) / 256) > 0.001
    sketches = similar.sketch([korean(n, 30) for n in range(60)])[1]
    equal = [np.count_nonzero(a == b) for k, a in enumerate(sketches) for b in sketches[:k]]
    likeness = [true_jaccard(korean(a, 30), korean(b, 30)) for a in range(60) for b in range(a)]
    assert max(likeness) < 0.1 and max(equal) < similar.least_equal
    assert abs(np.mean(equal) / n - np.mean(likeness) - 1 / 256) < 0.002  # bytes are equal as often as shingles are shared


def test_the_bytes_are_equal_as_often_as_texts_are_alike():
    texts = [[korean(n, 30), edited(korean(n, 30), 0.06, n)] for n in range(300)]
    sketches = Similar().sketch([text for pair in texts for text in pair])[1]
    equal = (sketches[::2] == sketches[1::2]).mean(axis=1)
    likeness = np.array([true_jaccard(*pair) for pair in texts])
    assert 0.6 < likeness.mean() < 0.9 and abs(np.mean(equal - likeness - (1 - likeness) / 256)) < 0.01


# ── who goes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_copies_go_and_each_names_one_that_stayed_and_is_as_similar_as_said(run):
    originals = [{"id": f"o{n}", "text": korean(n, 20), "kind": "own"} for n in range(300)]
    copies = [{"id": f"w{n}", "text": edited(d["text"], 0.03, n)} for n, d in enumerate(originals[:80])]
    copies += [{"id": f"s{n}", "text": unspaced(d["text"], 0.2, n)} for n, d in enumerate(originals[80:160])]
    copies += [{"id": f"x{n}", "text": d["text"]} for n, d in enumerate(originals[160:200])]
    documents = originals + copies
    texts = {d["id"]: d["text"] for d in documents}
    kept, gone, facts = run(documents)
    assert set(kept) | set(gone) == set(texts) and not set(kept) & set(gone)
    for record in gone.values():
        assert record["kept"] in kept
        assert record["jaccard"] == pytest.approx(true_jaccard(texts[record["id"]], texts[record["kept"]]), abs=1e-12)
        assert record["jaccard"] >= 0.7 and record["exact"] == (texts[record["id"]] == texts[record["kept"]])
    pairs = [(copy["id"], original["id"]) for copy, original in zip(copies, originals, strict=False)]
    assert sum(set(pair) <= set(kept) for pair in pairs) <= 2  # of 200
    assert not {f"o{n}" for n in range(200, 300)} & set(gone)
    assert facts["removed"]["exact"]["documents"] == 40 and facts["documents"] == 500
    assert facts["kept"]["documents"] == len(kept) and facts["compared"]["incomplete"] == 0


def test_no_chains(run):
    # Windows over one long text: neighbours are alike, those two steps apart are not. The first is the longest.
    words = [f"{a}{b}" for a in WORDS[:40] for b in ("은", "는")][:80]
    a, b, c = " ".join(words[:60]), " ".join(words[8:66]), " ".join(words[16:73])
    assert true_jaccard(a, b) >= 0.7 and true_jaccard(b, c) >= 0.7 > true_jaccard(a, c)
    assert len(a.encode()) > len(b.encode()) > len(c.encode())
    kept, gone, _ = run([{"id": name, "text": text} for name, text in (("c", c), ("a", a), ("b", b))], similar=Similar(threshold=0.7))
    assert set(kept) == {"a", "c"} and gone["b"]["kept"] == "a"


def test_of_similar_texts_the_longest_stays_whatever_the_order(run):
    texts = {"long": korean(7, 20) + " 그리고 한마디 더.", "short": korean(7, 20)}
    for name, order in (("one", ("long", "short")), ("two", ("short", "long"))):
        kept, gone, _ = run([{"id": key, "text": texts[key]} for key in order], name=name)
        assert set(kept) == {"long"} and gone["short"]["kept"] == "long"


def test_equal_copies_of_a_near_duplicate_name_what_stayed(run):
    long, short = korean(7, 20) + " 그리고 한마디 더.", korean(7, 20)
    _, gone, facts = run([{"id": "b", "text": short}, {"id": "c", "text": short}, {"id": "a", "text": long}])
    assert {(record["kept"], record["exact"]) for record in gone.values()} == {("a", False)} and set(gone) == {"b", "c"}
    assert facts["removed"] == {"exact": {"documents": 0, "bytes": 0}, "near": {"documents": 2, "bytes": 2 * len(short.encode())}}


def test_lost_spaces_are_seen_by_syllables_only(run):
    text = korean(3, 20)
    documents = [{"id": "a", "text": text}, {"id": "b", "text": unspaced(text, 0.5, 1)}]
    assert len(run(documents, name="syllable")[0]) == 1
    assert len(run(documents, name="eojeol", similar=Similar(unit="eojeol"))[0]) == 2


def test_the_threshold_decides(run):
    text = korean(3, 40)
    documents = [{"id": "a", "text": text + "."}, {"id": "b", "text": edited(text, 0.08, 1)}]
    likeness = true_jaccard(documents[0]["text"], documents[1]["text"])
    assert 0.5 < likeness < 0.85
    assert len(run(documents, name="low", similar=Similar(threshold=round(likeness - 0.1, 2)))[0]) == 1
    assert len(run(documents, name="high", similar=Similar(threshold=round(likeness + 0.05, 2)))[0]) == 2


# ── the same on every machine ──────────────────────────────────────────────────────────────────────────────────────


def many(seed=0):
    documents = [{"id": f"{n}", "text": korean(n, 12)} for n in range(400)]
    documents += [{"id": f"e{n}", "text": edited(korean(n, 12), 0.04, n)} for n in range(300)]
    documents += [{"id": f"f{n}", "text": edited(korean(n % 10, 12), 0.05, 1000 + n)} for n in range(200)]  # ten groups of many
    random.Random(seed).shuffle(documents)
    return documents


def content(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.jsonl")}


def test_the_bytes_do_not_depend_on_files_their_order_or_workers(run, tmp_path, monkeypatch):
    _, gone, _ = run(many(), name="one")
    assert len(gone) > 300
    run(many(seed=1), name="other-order", files=5)
    monkeypatch.setattr(dedup, "LEAST_BYTES", 20_000)
    monkeypatch.setattr(dedup, "MOST_BYTES", 20_000)
    run(many(seed=2), name="small-tasks", files=3, engine=engines.Local(2))
    assert content(tmp_path / "one") == content(tmp_path / "other-order") == content(tmp_path / "small-tasks")


def test_tasks_of_any_size_runs_of_any_size_and_little_memory_change_nothing(run, tmp_path, monkeypatch):
    run(many(), name="one")
    for module, name, value in (
        (near_duplicates, "HELD_BYTES", 20_000), (near_duplicates, "LOAD_BYTES", 3_000), (near_duplicates, "TASK_PAIRS", 400),
        (candidates, "PIECE", 500), (candidates, "SLICE", 40), (candidates, "LOOKED", 60), (candidates, "SEGMENT", 50),
        (runs, "RUN_BYTES", 50_000), (runs, "SKETCH_BYTES", 1_500), (runs, "WALK", 300),
        (arrange, "BLOCK_BYTES", 2_000),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    run(many(), name="two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_runs_and_sketches_are_short_where_texts_are(run, tmp_path, monkeypatch):
    documents = [{"id": n, "text": korean(n % 70, 1)[:30]} for n in range(100)]
    run(documents, name="one")
    monkeypatch.setattr(runs, "RUN_DOCUMENTS", 7)
    monkeypatch.setattr(runs, "SKETCH_TEXTS", 3)
    run(documents, name="two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_copies_of_one_text_may_fill_many_blocks(run, monkeypatch):
    monkeypatch.setattr(arrange, "BLOCK_BYTES", 2_000)
    documents = [{"id": n, "text": korean(1, 12)} for n in range(40)] + [{"id": f"other-{n}", "text": korean(2 + n)} for n in range(9)]
    kept, gone, _ = run(documents)
    assert len(kept) == 10 and len({record["kept"] for record in gone.values()}) == 1 and {r["kept"] for r in gone.values()} <= set(kept)


def test_what_was_cut_off_goes_on_with_the_files_in_another_order(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, path in enumerate(paths):
        write_jsonl(path, many()[number::3])
    monkeypatch.setattr(dedup, "LEAST_BYTES", 20_000)
    monkeypatch.setattr(dedup, "MOST_BYTES", 20_000)
    dedup.dedup(paths, tmp_path / "whole", say=lambda line: None)
    with monkeypatch.context() as cut:
        cut.setattr(dedup, "_write_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dedup.dedup(paths, tmp_path / "cut", say=lambda line: None)
    dedup.dedup(paths[::-1], tmp_path / "cut", engine=engines.Local(2), say=lambda line: None)
    assert content(tmp_path / "whole") == content(tmp_path / "cut")


def decided_one_by_one(documents: list[dict], similar: Similar) -> set[str]:
    """Who stays by the definition: each in its order is compared with every one that stays and shares a band with it."""
    order = sorted(documents, key=lambda d: (-len(d["text"].encode()), hashlib.sha256(d["text"].encode()).digest()))
    bands, _ = similar.sketch([d["text"] for d in order])
    kept: list[int] = []
    for k, document in enumerate(order):
        shares = [other for other in kept if (bands[:, other] == bands[:, k]).any()]
        if not any(true_jaccard(order[other]["text"], document["text"], similar.unit) >= similar.threshold for other in shares):
            kept.append(k)
    return {order[k]["id"] for k in kept}


def crowd() -> list[dict]:
    """Forms of one template, no two alike enough, a copy of every third, and chains."""
    frame = [korean(10_000 + n, 2) for n in range(30)]
    fill = lambda n, share: [line if (n * 31 + k * 7) % 10 >= share else korean(n * 40 + k, 2) for k, line in enumerate(frame)]  # noqa: E731
    documents = [{"id": f"form-{n}", "text": "\n".join(fill(n, 4))} for n in range(150)]
    documents += [{"id": f"copy-{n}", "text": edited("\n".join(fill(n, 4)), 0.02, n)} for n in range(0, 150, 3)]
    chain = korean(77, 40).split()
    return documents + [{"id": f"chain-{n}", "text": " ".join(chain[n * 12 : n * 12 + 120])} for n in range(14)]


@pytest.mark.parametrize("windows", [(8, 64), (1, 1000), (2, 1000)])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_who_stays_is_as_if_each_were_asked_in_turn(run, monkeypatch, windows, threshold):
    monkeypatch.setattr(near_duplicates, "FIRST", windows[0])
    monkeypatch.setattr(near_duplicates, "MOST", windows[1])
    documents, similar = crowd() + many()[:300], Similar(threshold=threshold)
    kept, _, facts = run(documents, similar=similar)
    expected = decided_one_by_one(documents, similar)
    assert 100 < len(expected) < len(documents) - 100
    assert facts["compared"]["incomplete"] == 0 and set(kept) == expected


def test_what_is_not_compared_is_counted_and_stays(run, monkeypatch):
    monkeypatch.setattr(near_duplicates, "FIRST", 1)
    monkeypatch.setattr(near_duplicates, "MOST", 2)
    texts, similar = {d["id"]: d["text"] for d in crowd()}, Similar(threshold=0.8)
    kept, gone, facts = run(crowd(), similar=similar)
    assert facts["compared"]["incomplete"] > 0 and set(kept) >= decided_one_by_one(crowd(), similar)
    assert all(true_jaccard(texts[r["id"]], texts[r["kept"]]) >= 0.8 and r["kept"] in kept for r in gone.values())


def ranked(directory, priorities):
    found = candidates.rank([directory], priorities, [0] * len(priorities), directory / "ranks", directory / "places")
    places, entries = np.load(directory / "places").astype(int), np.load(directory / "000000.npy")
    ranks = np.load(directory / "ranks")
    assert found["documents"] == len(places) == len(set(places.tolist())) and (ranks[places] == np.arange(len(places))).all()
    assert (ranks == candidates.UNRANKED).sum() == len(entries) - len(places)
    return [(priorities[e["source"]], -int(e["bytes"]), int(e["high"]), int(e["low"])) for e in entries[places]]


@pytest.mark.parametrize("longest", [(1 << 26) - 1, 300, 0])
@pytest.mark.parametrize("last_priority", [1023, 2, 0])
@pytest.mark.parametrize("hashes", [0, 40])
def test_what_does_not_fit_into_a_ranks_key_is_looked_up(tmp_path, monkeypatch, longest, last_priority, hashes):
    monkeypatch.setattr(candidates, "LONGEST", np.uint64(longest))
    monkeypatch.setattr(candidates, "LAST_PRIORITY", np.uint64(last_priority))
    writer, texts = runs.RunWriter(tmp_path, 0, None), [korean(n % 150) for n in range(200)]
    for text in texts:
        writer.add(b"{}\n", text, b"")
    writer.close()
    entries = np.load(tmp_path / "000000.npy")
    entries["source"] = entries["high"] % np.uint64(5)
    entries["high"] >>= np.uint64(hashes)
    np.save(tmp_path / "000000.npy", entries)
    found = ranked(tmp_path, [3, 7, -1, 7, 100])
    assert len(found) == 150 and found == sorted(found)


def test_what_is_decided_is_not_written_again(tmp_path, monkeypatch):
    """Who waits for a job of an earlier start finds what that job still reads as it was."""
    monkeypatch.setattr(near_duplicates, "FIRST", 2)
    write_jsonl(tmp_path / "a.jsonl", crowd())
    with monkeypatch.context() as cut:
        cut.setattr(dedup, "_write_all", lambda *_: 1 / 0)
        states = []
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                dedup.dedup([tmp_path / "a.jsonl"], tmp_path / "out", say=lambda line: None)
            states.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("near/**/*.npy")})
    assert states[0] == states[1] and {"standing.npy", "near.npy", "places.npy"} <= {path.name for path in states[0]}


# ── files as they come ─────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_stay_as_they_are_and_what_cannot_be_read_is_told(tmp_path):
    text = korean(1)
    good = [
        b'{"text": "' + text.encode() + b'",   "score": NaN, "meta": {"a": [1, 2]}}',
        json.dumps({"text": korean(2), "id": 7}).encode(),  # escaped
    ]
    (tmp_path / "a.jsonl").write_bytes(
        b"\n".join(
            [good[0], b"", b"{broken", b'{"body": "x"}', b'{"text": 3}', b'{"text": " "}', b"[1]", b'{"text": "\\ud800 abcdefg"}', good[1]]
        )
    )
    third = json.dumps({"text": korean(3), "id": "셋"}, ensure_ascii=False)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(third.encode() + b"\n"))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(json.dumps({"text": text, "id": "copy"}).encode()))
    (tmp_path / "d.jsonl").write_bytes((json.dumps({"text": korean(4), "id": "넷"}, ensure_ascii=False) + "\n").encode("cp949"))
    made = dedup.dedup(sorted(tmp_path.glob("*.*")), tmp_path / "out", say=lambda line: None)
    kept = b"".join((tmp_path / "out" / name).read_bytes() for name in made.facts["files"]).splitlines()
    copies = json_lines(tmp_path / "out" / "duplicates.jsonl")
    nameless = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert len(copies) == 1 and {copies[0]["id"], copies[0]["kept"]} == {"copy", nameless}
    assert good[1] in kept and third.encode() in kept and len(kept) == 4
    assert json.dumps({"text": korean(4), "id": "넷"}, ensure_ascii=False).encode() in kept
    assert made.facts["unreadable"] == {"invalid-json": 1, "missing-field": 1, "wrong-type": 2, "empty": 1, "wrong-encoding": 1}
    unreadable = json_lines(tmp_path / "out" / "unreadable.jsonl")
    assert {record["place"].split("#")[0].rsplit("/", 1)[-1] for record in unreadable} == {"a.jsonl"} and len(unreadable) == 6


def test_without_ids_texts_are_called_by_their_hash(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": korean(1)}, {"text": korean(1), "n": 2}])
    dedup.dedup([tmp_path / "a.jsonl"], tmp_path / "out", say=lambda line: None)
    [copy] = json_lines(tmp_path / "out" / "duplicates.jsonl")
    assert copy["id"] == copy["kept"] == "sha256:" + hashlib.sha256(korean(1).encode()).hexdigest() and copy["exact"]


@pytest.mark.parametrize("own", ["10000000000000000000000000000001", "NaN", "[" * 300 + "]" * 300, '["\\ud800"]', "1.5", "true", "null"])
def test_what_is_no_id_is_none(tmp_path, own):
    line = f'{{"text": "{korean(1)}", "id": {own}, "score": NaN}}\n'
    (tmp_path / "a.jsonl").write_text(line + line.replace("score", "other"))
    dedup.dedup([tmp_path / "a.jsonl"], tmp_path / "out", say=lambda line: None)
    [copy] = json_lines(tmp_path / "out" / "duplicates.jsonl")
    assert copy["id"] == copy["kept"] == "sha256:" + hashlib.sha256(korean(1).encode()).hexdigest()


def test_a_full_disk_is_noticed():
    with pytest.raises(OSError) as full:
        runs.save(Path("/dev/full"), np.zeros(10))
    assert full.value.errno == errno.ENOSPC


def test_a_file_may_have_any_name_and_one_line(tmp_path):
    path = tmp_path / os.fsdecode(b"\xb0\xa1.jsonl")
    path.write_text(json.dumps({"text": korean(1)}))
    made = dedup.dedup([path], tmp_path / "out", say=lambda line: None)
    assert made.facts["kept"]["documents"] == 1


def test_a_file_without_a_document_makes_an_empty_result(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    made = dedup.dedup([tmp_path / "a.jsonl"], tmp_path / "out", say=lambda line: None)
    assert made.facts["files"] == [] and made.facts["documents"] == 0 and (tmp_path / "out" / "duplicates.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "inputs, said",
    [([], "no JSONL file"), (["none.jsonl"], "is no file"), (["out/x.jsonl"], "lies in"), (["a.jsonl"] * 2, "more than once")],
)
def test_wrong_inputs_are_refused(tmp_path, inputs, said):
    write_jsonl(tmp_path / "a.jsonl", [{"text": korean(1)}])
    write_jsonl(tmp_path / "out" / "x.jsonl", [{"text": korean(1)}])
    with pytest.raises(InputError, match=said):
        dedup.dedup([tmp_path / name for name in inputs], tmp_path / "out")


@pytest.mark.parametrize(
    "unit, threshold, said", [("word", 0.7, "unit is one of"), ("syllable", 0.1, "from 0.3 to 1"), ("syllable", 1.2, "from 0.3 to 1")]
)
def test_what_cannot_be_meant_is_refused(unit, threshold, said):
    with pytest.raises(InputError, match=said):
        Similar(unit, threshold)


def test_the_command_line(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", [{"id": n, "text": korean(n % 5, 12)} for n in range(10)])
    app(
        ["corpus", "dedup", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--threshold", "0.8", "--workers", "1", "--json"],
        standalone_mode=False,
    )
    made = json.loads(capsys.readouterr().out)
    assert made["kept"]["documents"] == 5 and made["removed"]["exact"]["documents"] == 5


# ── as a part of a corpus ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def corpus(tmp_path):
    def make(name, sources, **fields):
        entries = []
        for source, (documents, priority, language) in sources.items():
            write_jsonl(tmp_path / "data" / f"{source}.jsonl", documents)
            entries.append({
                "name": source, "reader": "jsonl", "path": f"{source}.jsonl", "licence": "CC0", "language": language, "priority": priority,
            })  # fmt: skip
        made = recipe.parse({"name": name, "sources": entries, **fields}, where="test")
        facts = build.build(tmp_path / name, made, data=tmp_path / "data", say=lambda line: None).facts
        lines = [d for names in facts["files"].values() for path in names for d in json_lines(tmp_path / name / path)]
        refused = json_lines(tmp_path / name / "rejected.jsonl")
        return {d["id"] for d in lines}, {d["id"]: d for d in refused}, facts

    return make


def test_in_a_corpus_the_preferred_source_stays_and_the_report_counts(corpus):
    better = [{"id": n, "text": korean(n)} for n in range(50)]
    other = [{"id": n, "text": edited(korean(n), 0.02, n) + " 그 밖의 말."} for n in range(30)]
    kept, refused, facts = corpus("made", {"other": (other, 2, "ko"), "better": (better, 1, "ko")})
    near = {name: record for name, record in refused.items() if record["reason"] == "near-duplicate"}
    assert len(near) >= 29 and {f"better/{n}" for n in range(50)} <= kept
    assert all(name.startswith("other/") and record["copy_of"] == name.replace("other", "better") for name, record in near.items())
    assert all(record["jaccard"] >= 0.7 and record["text"] for record in near.values())
    assert facts["rejected"]["other"]["near-duplicate"]["documents"] == len(near)
    assert facts["near_duplicates"]["compared"] >= len(near)


def test_nothing_held_out_has_a_near_copy_in_training(corpus, tmp_path):
    documents = [{"id": f"{n}/{k}", "text": edited(korean(n), 0.01 * k, k)} for n in range(60) for k in range(3)]
    corpus("made", {"one": (documents, 1, "ko")}, **{"held-out": 0.3})
    parts = {part: [d["text"] for d in json_lines(tmp_path / "made" / f"ko.{part}-00000.jsonl")] for part in ("train", "heldout")}
    assert len(parts["heldout"]) > 10 and len(parts["train"]) > 20
    assert not [1 for a in parts["heldout"] for b in parts["train"] if true_jaccard(a, b) >= 0.7]


def test_false_keeps_all(corpus):
    same = [{"id": n, "text": korean(n) + " " + english(n)} for n in range(20)]
    near = [{"id": n, "text": korean(n) + " " + english(n) + " One more."} for n in range(20)]
    kept, _, _ = corpus("one", {"a": (same, 1, "ko"), "b": (near, 1, "ko")})
    everything, refused, facts = corpus("all", {"a": (same, 1, "ko"), "b": (near, 1, "ko")}, **{"near-duplicates": False})
    assert len(kept) <= len(everything) / 2 and facts["near_duplicates"] == {}
    assert not [r for r in refused.values() if r["reason"] == "near-duplicate"]


def test_the_same_texts_in_another_language_change_nothing(corpus):
    english_texts = [{"id": n, "text": english(n // 2) + " One more." * (n % 2)} for n in range(40)]
    both = {"en": (english_texts, 1, "en"), "ko": (english_texts, 2, "ko")}
    alone, _, _ = corpus("alone", {"en": both["en"]})
    together, _, _ = corpus("together", both, filters={"not-korean": 0})
    assert len(alone) == 20 and {name for name in together if name.startswith("en/")} == alone and len(together) == 40


@pytest.mark.parametrize("given, said", [
    ({"unit": "word"}, "near-duplicates: unit is one of"), ({"threshold": 2}, "near-duplicates: threshold is"), (True, "needs fields"),
    ({"treshold": 0.7}, "near-duplicates: unknown field 'treshold'"),
])  # fmt: skip
def test_a_faulty_recipe_is_refused(given, said):
    source = {"name": "a", "reader": "jsonl", "path": "*.jsonl", "licence": "CC0", "language": "ko"}
    with pytest.raises(InputError, match=said):
        recipe.parse({"name": "x", "sources": [source], "near-duplicates": given}, where="test")
