"""openko.corpus.forecast: intervals that cover what they say, from few documents and from a million."""

import json
import math
import time
import tracemalloc

import numpy as np
import pytest

from openko.corpus.forecast import CARD_BYTES, CARD_TOKENS, Estimate, bytes_per_token, forecast
from openko.errors import InputError


def documents(random, n, *, spread=1.0):
    """Sizes as uneven as real documents are, 3.5 bytes a token give or take a tenth; the true ratio of the whole is known."""
    tokens = np.maximum(1, np.exp(random.normal(6, spread, n))).astype(np.int64)
    return np.maximum(1, tokens * random.normal(3.5, 0.35, n)).astype(np.int64), tokens


def test_the_value_is_all_bytes_by_all_tokens():
    found = bytes_per_token(np.array([100, 900]), np.array([50, 200]))
    assert found.value == 1000 / 250 != np.mean([100 / 50, 900 / 200])
    assert (found.documents, found.bytes, found.tokens) == (2, 1000, 250)
    assert found.effective == pytest.approx(1000**2 / (100**2 + 900**2))


@pytest.mark.parametrize("n", [5, 12, 60])
def test_95_of_100_intervals_hold_the_truth_also_for_few_documents(n):
    random, inside, plain = np.random.default_rng(n), 0, 0
    for trial in range(300):
        sizes, tokens = documents(random, n)
        found = bytes_per_token(sizes, tokens, samples=400, seed=trial)
        inside += found.low <= 3.5 <= found.high
        drawn = random.integers(0, n, (400, n))
        low, high = np.percentile(sizes[drawn].sum(1) / tokens[drawn].sum(1), [2.5, 97.5])
        plain += low <= 3.5 <= high
    assert inside / 300 >= 0.92
    assert inside > plain  # the bootstrap alone promises too much


def test_the_same_seed_gives_the_same_interval_and_samples_count():
    sizes, tokens = documents(np.random.default_rng(0), 500)
    assert bytes_per_token(sizes, tokens) == bytes_per_token(sizes, tokens, seed=0)
    assert bytes_per_token(sizes, tokens) != bytes_per_token(sizes, tokens, seed=1)
    assert bytes_per_token(sizes, tokens) != bytes_per_token(sizes, tokens, samples=100)


def test_four_times_the_documents_halve_the_interval():
    random = np.random.default_rng(0)
    found = [bytes_per_token(*documents(random, n, spread=0.3)) for n in (1000, 4000)]
    widths = [e.high - e.low for e in found]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)


def test_random_groups_have_the_interval_of_their_documents(monkeypatch):
    sizes, tokens = documents(np.random.default_rng(0), 8000)
    whole = bytes_per_token(sizes, tokens)
    monkeypatch.setattr("openko.corpus.forecast.GROUPS", 1000)
    grouped = bytes_per_token(sizes, tokens)
    assert grouped.value == whole.value
    assert grouped.high - grouped.low == pytest.approx(whole.high - whole.low, rel=0.15)


def test_a_million_documents_take_seconds_and_little_memory():
    sizes, tokens = documents(np.random.default_rng(0), 1_000_000)
    tracemalloc.start()
    began = time.process_time()
    found = bytes_per_token(sizes, tokens)
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 8 and peak < 200e6
    assert found.low < 3.5 < found.high and found.high - found.low < 0.01


def test_one_document_says_nothing_of_its_spread():
    found = bytes_per_token(np.array([350]), np.array([100]))
    assert (found.value, found.low, found.high) == (3.5, 0.0, math.inf)
    assert found.note == "only 1 document"
    made = forecast({"one": found})
    assert (made.low, made.high) == (0.0, math.inf)
    assert json.loads(json.dumps(made.to_json(), allow_nan=False))["high"] is None
    assert "inf" in made.table()


def test_one_huge_document_among_many_is_told_and_widens():
    random = np.random.default_rng(0)
    sizes, tokens = documents(random, 1000, spread=0.2)
    even = bytes_per_token(sizes, tokens)
    sizes[0], tokens[0] = 3_500_000, 1_000_000
    uneven = bytes_per_token(sizes, tokens)
    assert even.note == "" and even.effective > 900
    assert uneven.effective < 3 and "1000 documents of very unequal size tell as much as" in uneven.note
    assert uneven.note in forecast({"books": uneven}).table()


def test_tokens_are_the_sum_over_sources_of_bytes_by_bytes_per_token():
    a, b = Estimate(3.0, 2.9, 3.1, 100, 90, 300, 100), Estimate(4.0, 3.8, 4.2, 100, 90, 100, 25)
    by_bytes = forecast({"a": a, "b": b}, 1200)
    assert by_bytes.weights == {"a": 0.75, "b": 0.25} and by_bytes.tokens == pytest.approx(900 / 3 + 300 / 4)
    given = forecast({"a": a, "b": b}, 1200, weights={"a": 1, "b": 3})
    assert given.tokens == pytest.approx(300 / 3 + 900 / 4)
    assert given.bytes_per_token == pytest.approx(1200 / given.tokens)
    assert given.low == pytest.approx(given.tokens - math.hypot(100 - 300 / 3.1, 225 - 900 / 4.2))
    assert given.high == pytest.approx(given.tokens + math.hypot(300 / 2.9 - 100, 900 / 3.8 - 225))
    assert given.if_all == {"a": pytest.approx(400), "b": pytest.approx(300)}
    alone = forecast({"a": a, "b": b}, 1200, weights={"a": 1, "b": 0})
    assert alone.tokens == pytest.approx(400) and alone.high == pytest.approx(1200 / 2.9)


def test_the_table_stands_beside_the_card_and_names_what_no_interval_covers():
    random = np.random.default_rng(0)
    made = forecast({"법령": bytes_per_token(*documents(random, 50)), "news": bytes_per_token(*documents(random, 400))})
    table = made.table()
    assert made.total_bytes == CARD_BYTES and f"{CARD_TOKENS / 1e9:.2f}B of 61 GB" in table and f"{CARD_BYTES / CARD_TOKENS:.3f}" == "3.446"
    assert "3.446" in table and f"{made.tokens / 1e9:.2f}B" in table and "not which sources there will be" in table
    assert all(f"{x / 1e9:.2f}B" in table for x in made.if_all.values())
    assert json.loads(json.dumps(made.to_json()))["sources"]["법령"]["documents"] == 50


@pytest.mark.parametrize(
    ("sizes", "tokens", "message"),
    [
        ([], [], "no document"),
        ([1, 2], [1], "shapes"),
        ([-1], [1], "0 bytes or more"),
        ([10], [0], "1 token or more"),
        ([0, 0], [1, 1], "without a byte"),
    ],
)
def test_what_cannot_be_measured_is_refused(sizes, tokens, message):
    with pytest.raises(InputError, match=message):
        bytes_per_token(np.array(sizes, np.int64), np.array(tokens, np.int64))


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 1, "c": 1}, {"a": -1, "b": 2}, {"a": 0, "b": 0}, {"a": math.nan, "b": 1}])
def test_weights_that_are_none_are_refused(weights):
    e = bytes_per_token(np.array([10, 20]), np.array([3, 6]))
    with pytest.raises(InputError, match="weights are bytes for each of a, b"):
        forecast({"a": e, "b": e}, 100, weights=weights)
    with pytest.raises(InputError, match="one source"):
        forecast({})
    with pytest.raises(InputError, match="more than 0 bytes"):
        forecast({"a": e}, 0)
