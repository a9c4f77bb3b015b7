"""openko.bits_per_byte: every token is scored exactly once, and the measure does not depend on the tokenizer's taste."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from openko import llama
from openko.bits_per_byte import BATCH, BitsPerByte, windows
from openko.errors import InputError
from openko.profiles import MODELS
from openko.tokenizers import BEGIN, Tokenizer

VOCABULARY = 512
CONFIG = dataclasses.replace(MODELS["smoke-llama3"], vocab_size=VOCABULARY, num_hidden_layers=1)


class Characters(Tokenizer):
    """One token for each character, its code the id; id 0 begins a text."""

    name, vocab_size, special = "characters", VOCABULARY, {BEGIN: 0}

    def encode_batch(self, texts):
        return [[ord(c) for c in text] for text in texts]


def numbered(length, first=1):
    """A text of `length` different characters with codes from `first` on."""
    return "".join(map(chr, range(first, first + length)))


@pytest.fixture(scope="module")
def parameters():
    return llama.init(CONFIG, jax.random.key(0))


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("context", [1, 2, 5, 8])
@pytest.mark.parametrize("length", [1, 4, 7, 8, 9, 12, 13, 100])
def test_every_target_counts_exactly_once(context, length):
    tokens, targets, scored = windows(Characters(), [numbered(length)], context)
    assert sorted(targets[scored == 1].tolist()) == list(range(1, length + 1))
    assert np.isin(scored, (0, 1)).all() and len(tokens) % BATCH == 0


@pytest.mark.parametrize("context", [2, 5, 8])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 100])
def test_a_target_has_half_a_context_before_it_or_all_there_is(context, length):
    """Token n of the text has id n, and begin-of-text is 0: what stands before target n are ids …, n - 2, n - 1."""
    for tokens, targets, scored in zip(*windows(Characters(), [numbered(length)], context), strict=True):
        for place in np.flatnonzero(scored):
            target = int(targets[place])
            assert tokens[: place + 1].tolist() == list(range(target - place - 1, target))
            assert place + 1 >= min(target, context // 2)


def test_documents_do_not_share_a_window():
    tokens, targets, scored = windows(Characters(), [numbered(3), numbered(20, first=100), numbered(2, first=200)], 8)
    assert sorted(targets[scored == 1].tolist()) == [1, 2, 3, *range(100, 120), 200, 201]
    for row, count in zip(tokens, scored, strict=True):
        assert len({int(t) // 100 for t, s in zip(row[1:], count[1:], strict=True) if s}) <= 1


def test_an_empty_document_among_others_counts_nothing():
    _, targets, scored = windows(Characters(), ["", "ab"], 8)
    assert targets[scored == 1].tolist() == [ord("a"), ord("b")]


# ── the measure ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("context", [8, 64])
def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_for_each_token(parameters, context):
    texts = {"short": ["abc", "é"], "long": ["abcdefghij" * 13]}  # 4 tokens in 5 bytes, 130 in 130
    measured = BitsPerByte(CONFIG, Characters(), texts, context=context)(jax.tree.map(jnp.zeros_like, parameters))
    assert measured == pytest.approx({"short": math.log2(VOCABULARY) * 4 / 5, "long": math.log2(VOCABULARY)})


def test_it_is_the_models_own_likelihood_of_the_text(parameters):
    """Held against the whole table of log-probabilities, computed the plain way."""
    ids = np.array([[0, *map(ord, "hello")]])
    model = llama.build(CONFIG, parameters)
    table = jax.nn.log_softmax(model.logits(model(ids[:, :-1])), axis=-1)
    expected = -sum(float(table[0, i, target]) for i, target in enumerate(ids[0, 1:])) / math.log(2) / 5
    assert BitsPerByte(CONFIG, Characters(), {"en": ["hello"]}, context=8)(parameters)["en"] == pytest.approx(expected)


def test_the_context_does_not_matter_where_the_document_fits(parameters):
    texts = {"en": ["To be, or not to be, that is the question.", "hello"]}
    measured = [BitsPerByte(CONFIG, Characters(), texts, context=context)(parameters)["en"] for context in (48, 64, 128)]
    assert measured == pytest.approx([measured[0]] * 3)


def test_a_longer_context_reads_more_of_a_long_document(parameters):
    """Only that the windows are really cut: with random weights the measures differ, if by little."""
    measured = [BitsPerByte(CONFIG, Characters(), {"en": [numbered(100)]}, context=c)(parameters)["en"] for c in (8, 128)]
    assert measured[0] != measured[1]


@pytest.mark.parametrize("documents", [[], [""]], ids=["no document", "no character"])
def test_no_text_is_refused(documents):
    with pytest.raises(InputError, match="bits per byte of 'ko': there is no text"):
        BitsPerByte(CONFIG, Characters(), {"ko": documents}, context=8)


def test_a_context_below_one_is_refused():
    with pytest.raises(InputError, match="context"):
        BitsPerByte(CONFIG, Characters(), {"ko": ["가"]}, context=-1)
