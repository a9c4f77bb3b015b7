"""openko.training.data: which tokens are in step s is a function of (seed, s) alone, and no token is dropped."""

import numpy as np
import pytest

from openko import manifest, shards
from openko.errors import InputError
from openko.profiles import MeshShape, Training
from openko.training import sharding
from openko.training.data import batches, local_rows, place
from openko.training.step import abstract_batch

WIDTH = 16
KEYS = ("tokens", "targets", "positions", "segment_ids", "weights")


def training(**changes):
    settings = {"steps": 10, "batch_size": 4, "sequence_length": WIDTH, "peak_learning_rate": 1e-3, "final_learning_rate": 1e-4}
    return Training(**settings | {"warmup_steps": 1} | changes)


def write(directory, documents, *, tokenizer="abc", vocab_size=10_000, **options):
    def make(partial):
        return shards.write(partial, documents, shard_tokens=100, **options) | {"tokenizer": tokenizer, "vocab_size": vocab_size}

    manifest.build(directory, kind=shards.KIND, recipe={}, inputs={}, module="openko.shards", make=make, say=lambda line: None)
    return directory


def numbered(total, first=0, seed=0):
    """Documents of 1 to 40 tokens, every token with an id of its own."""
    lengths, draw = [], np.random.default_rng(seed)
    while sum(lengths) < total:
        lengths.append(min(int(draw.integers(1, 41)), total - sum(lengths)))
    ends = first + np.cumsum(lengths)
    return [list(range(end - length, end)) for end, length in zip(ends.tolist(), lengths, strict=True)]


def run(sources, settings, **options):
    sources = sources if isinstance(sources, dict) else {sources: 1.0}
    return list(batches(sources, settings, vocab_size=10_000, **options))


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for key in KEYS:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """One pass of it is 10 steps of 4 windows."""
    return write(tmp_path_factory.mktemp("data") / "shards", numbered(40 * WIDTH))


@pytest.fixture(scope="module")
def two(directory, tmp_path_factory):
    return {directory: 0.7, write(tmp_path_factory.mktemp("data") / "more", numbered(555, first=5_000, seed=1)): 0.3}


def test_batches_have_the_shapes_and_types_of_the_step(directory):
    made = run(directory, training())
    assert len(made) == 10
    for batch in made:
        kinds = dict.fromkeys((*KEYS[:4], "source"), "int32") | {"weights": "float32"}
        assert {k: v.dtype.name for k, v in batch.items()} == kinds
        assert {batch[k].shape for k in KEYS} == {(4, WIDTH)} and batch["source"].shape == (4,)


@pytest.mark.parametrize("step", [0, 1, 6, 9])
def test_a_step_asked_directly_is_that_of_the_stream(two, step):
    assert_equal(run(two, training(), first_step=step), run(two, training())[step:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_rows_of_all_hosts_together_are_those_of_one(two, hosts):
    parts = [run(two, training(), mine=range(host * 4 // hosts, (host + 1) * 4 // hosts)) for host in range(hosts)]
    assert_equal([{k: np.concatenate([p[k] for p in step]) for k in KEYS} for step in zip(*parts, strict=True)], run(two, training()))


def test_a_longer_run_begins_as_the_shorter_one(two):
    assert_equal(run(two, training(steps=30))[:10], run(two, training()))


def test_one_pass_shows_every_token_of_every_document_once(directory):
    seen = np.concatenate([batch["tokens"].ravel() for batch in run(directory, training())])
    assert sorted(seen.tolist()) == list(range(40 * WIDTH))


def test_where_passes_and_windows_do_not_fit_still_no_token_is_dropped(tmp_path):
    """101 tokens in windows of 16: after any number of passes, every token was seen equally often, give or take one."""
    data = write(tmp_path / "shards", numbered(101))
    seen = np.concatenate([batch["tokens"].ravel() for batch in run(data, training(steps=50, batch_size=6))])
    counts = np.bincount(seen, minlength=101)
    assert len(counts) == 101 and counts.max() - counts.min() <= 1


def test_a_corpus_shorter_than_a_window_is_repeated_in_it(tmp_path):
    data = write(tmp_path / "shards", [[1, 2, 3], [4, 5]])
    batch = run(data, training(steps=1, batch_size=1, warmup_steps=0))[0]
    assert sorted(batch["tokens"][0, :5].tolist()) == [1, 2, 3, 4, 5]
    assert batch["segment_ids"][0, -1] > 2


def test_a_target_is_the_next_token_and_counts_only_within_its_document(directory):
    """Ids are consecutive inside a document and nowhere else, for the order of the documents is shuffled."""
    starts = {d[0] for d in numbered(40 * WIDTH)}
    for batch in run(directory, training()):
        tokens, targets, weights = batch["tokens"], batch["targets"], batch["weights"]
        np.testing.assert_array_equal(targets[:, :-1], tokens[:, 1:])
        inside = (targets == tokens + 1) & ~np.isin(targets, list(starts))
        np.testing.assert_array_equal(weights, inside.astype(np.float32))


def test_segments_are_documents_and_positions_restart_in_each(directory):
    starts = {d[0] for d in numbered(40 * WIDTH)}
    for batch in run(directory, training()):
        for tokens, segments, positions in zip(batch["tokens"], batch["segment_ids"], batch["positions"], strict=True):
            begins = [i == 0 or int(t) in starts for i, t in enumerate(tokens)]
            assert segments.tolist() == (np.cumsum(begins) - 1).tolist()
            last = np.maximum.accumulate(np.where(begins, np.arange(WIDTH), 0))
            assert positions.tolist() == (np.arange(WIDTH) - last).tolist()


def test_masked_tokens_are_read_but_not_learned(tmp_path):
    documents = numbered(160)
    data = write(tmp_path / "shards", [(d, [i % 3 == 0 for i in d]) for d in documents], with_mask=True)
    plain = write(tmp_path / "plain", documents)
    for masked, whole in zip(run(data, training()), run(plain, training()), strict=True):
        np.testing.assert_array_equal(masked["tokens"], whole["tokens"])
        np.testing.assert_array_equal(masked["weights"], whole["weights"] * (masked["targets"] % 3 == 0))


@pytest.mark.parametrize("share", [0.7, 0.95, 0.5])
def test_shares_of_a_mixture_hold_over_a_thousand_rows(two, share):
    sources = dict(zip(two, (share, 1 - share), strict=True))
    rows = [row for batch in run(sources, training(steps=100, batch_size=10)) for row in batch["tokens"]]
    from_first = sum(int(row.max()) < 5_000 for row in rows)
    assert all((row < 5_000).all() or (row >= 5_000).all() for row in rows)
    assert abs(from_first - 1000 * share) <= 5  # grain keeps a share to a hundredth of the smallest one


def test_shares_are_taken_relative_to_their_sum(two):
    assert_equal(run(dict(zip(two, (7, 3), strict=True)), training()), run(two, training()))


def test_a_seed_repeats_its_order_and_another_changes_it(directory):
    first, same, other = (run(directory, training(seed=seed)) for seed in (3, 3, 4))
    assert_equal(first, same)
    assert not np.array_equal(first[0]["tokens"], other[0]["tokens"])


def test_every_pass_has_an_order_of_its_own(directory):
    made = run(directory, training(steps=20))
    first, second = (np.concatenate([b["tokens"].ravel() for b in made[part]]) for part in (slice(10), slice(10, 20)))
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()


def test_documents_follow_one_another_in_an_order_of_the_seed_and_the_pass(directory):
    def borders(made):
        return {pair for b in made for pair in zip(b["tokens"][b["weights"] == 0], b["targets"][b["weights"] == 0], strict=True)}

    made, other = run(directory, training(steps=20, seed=3)), run(directory, training(seed=4))
    first, second, another = borders(made[:10]), borders(made[10:]), borders(other)
    assert max(len(first & second), len(first & another), len(second & another)) < len(first) / 2


def test_neighbouring_windows_of_one_long_document_are_spread_over_the_steps(tmp_path):
    data = write(tmp_path / "shards", [list(range(40 * WIDTH))])
    first = run(data, training())[0]["tokens"][:, 0]
    assert not np.array_equal(np.sort(first), np.arange(4) * WIDTH)


def test_across_documents_a_row_is_one_text_and_every_next_token_counts(directory):
    for apart, together in zip(run(directory, training()), run(directory, training(within_documents=False)), strict=True):
        np.testing.assert_array_equal(apart["tokens"], together["tokens"])
        assert (together["segment_ids"] == 0).all() and (together["weights"] == 1).all()
        np.testing.assert_array_equal(together["positions"], np.tile(np.arange(WIDTH), (4, 1)))


def test_rows_carry_the_number_of_their_source(two):
    for batch in run(two, training()):
        np.testing.assert_array_equal(batch["source"], (batch["tokens"].min(axis=1) >= 5_000).astype(np.int32))


@pytest.mark.parametrize("mesh", [MeshShape(), MeshShape(fsdp=4), MeshShape(data=2, tensor=2), MeshShape(data=2, fsdp=2)], ids=str)
def test_rows_are_placed_where_the_mesh_wants_them(two, mesh):
    like = abstract_batch(training(), sharding.make_mesh(mesh))
    mine = local_rows(like)
    assert mine == [0, 1, 2, 3]  # one process holds all devices
    batch = run(two, training())[3]
    for name, array in place(batch, like, mine).items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.sharding == like[name].sharding


def test_shards_of_two_tokenizers_are_refused(directory, tmp_path):
    other = write(tmp_path / "other", [[1, 2, 3]], tokenizer="xyz")
    with pytest.raises(InputError, match=r"different tokenizers.*other.*'abc', 'xyz'"):
        run({directory: 1, other: 1}, training())


def test_ids_beyond_the_models_vocabulary_are_refused(directory):
    with pytest.raises(InputError, match=r"vocabulary of 10000.*vocab_size is 9999"):
        batches({directory: 1.0}, training(), vocab_size=9_999)


@pytest.mark.parametrize(("settings", "mesh"), [({}, MeshShape(fsdp=8)), ({"accumulate": 2}, MeshShape(data=4))])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(settings, mesh):
    with pytest.raises(
        InputError, match=r"batch_size 4 in [12] parts does not divide over data × fsdp = [48] devices: make it a multiple of 8"
    ):
        abstract_batch(training(**settings), sharding.make_mesh(mesh))


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_share_must_be_a_number_above_zero(two, share):
    with pytest.raises(InputError, match="share"):
        run(dict(zip(two, (1.0, share), strict=True)), training())


def test_shards_that_are_not_there_name_their_notebook(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*notebook 02_corpus"):
        run(tmp_path / "nowhere", training())
