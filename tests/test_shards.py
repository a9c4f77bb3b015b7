"""openko.shards: what was written is read back, token by token."""

import numpy as np
import pytest

from openko import manifest, shards
from openko.errors import InputError

DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]


def write(directory, documents, **options):
    def make(partial):
        return shards.write(partial, documents, **options) | {"tokenizer": "abc", "vocab_size": 16}

    return manifest.build(directory, kind=shards.KIND, recipe={}, inputs={}, module="openko.shards", make=make, say=lambda line: None)


@pytest.mark.parametrize(("shard_tokens", "number"), [(1, 5), (4, 3), (2**28, 1)])
def test_documents_come_back_in_order_from_any_number_of_shards(tmp_path, shard_tokens, number):
    made = write(tmp_path / "shards", DOCUMENTS, shard_tokens=shard_tokens)
    found = shards.TokenShards(tmp_path / "shards")
    assert [d.tolist() for d in found] == DOCUMENTS
    assert len(found) == 5 and found.lengths.tolist() == [3, 1, 6, 2, 3] and found.tokenizer == "abc"
    assert all(found.mask(i).tolist() == [1] * len(d) for i, d in enumerate(DOCUMENTS))
    assert {k: made.facts[k] for k in ("documents", "tokens", "shards")} == {"documents": 5, "tokens": 15, "shards": number}


def test_the_bytes_are_little_endian_without_header(tmp_path):
    write(tmp_path / "shards", DOCUMENTS)
    assert np.fromfile(tmp_path / "shards" / "tokens-00000.bin", "<u4").tolist() == list(range(1, 16))
    assert np.fromfile(tmp_path / "shards" / "offsets-00000.bin", "<u8").tolist() == [0, 3, 4, 10, 12, 15]


def test_masks_come_back_with_their_tokens(tmp_path):
    pairs = [(d, [i % 2 for i in d]) for d in DOCUMENTS]
    made = write(tmp_path / "shards", pairs, with_mask=True, shard_tokens=4)
    found = shards.TokenShards(tmp_path / "shards")
    assert [(found[i].tolist(), found.mask(i).tolist()) for i in range(5)] == pairs
    assert made.facts["targets"] == sum(sum(mask) for _, mask in pairs)


def test_a_mask_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a mask of 1 for a document of 2 tokens"):
        write(tmp_path / "shards", [([1, 2], [1])], with_mask=True)


def test_ids_beyond_16_bits_survive(tmp_path):
    ids = [0, 65535, 65536, 128_255, 2**32 - 1]
    write(tmp_path / "shards", [ids])
    assert shards.TokenShards(tmp_path / "shards")[0].tolist() == ids


def test_an_empty_document_survives(tmp_path):
    write(tmp_path / "shards", [[1], [], [2], []], shard_tokens=2)
    assert [d.tolist() for d in shards.TokenShards(tmp_path / "shards")] == [[1], [], [2], []]


@pytest.mark.parametrize("number", [-1, 5])
def test_a_document_number_out_of_range_is_refused(tmp_path, number):
    write(tmp_path / "shards", DOCUMENTS)
    with pytest.raises(IndexError):
        shards.TokenShards(tmp_path / "shards")[number]


@pytest.mark.parametrize("documents", [[], [[]]], ids=["no document", "no token"])
def test_nothing_to_write_is_refused(tmp_path, documents):
    with pytest.raises(InputError, match="no document"):
        write(tmp_path / "shards", documents)
    assert not (tmp_path / "shards").exists()


def test_a_truncated_file_is_refused_by_name(tmp_path):
    write(tmp_path / "shards", DOCUMENTS)
    path = tmp_path / "shards" / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"tokens-00000\.bin has 56 bytes in place of 60.*notebook 02_corpus"):
        shards.TokenShards(tmp_path / "shards", made_by="notebook 02_corpus")
