"""openko.evaluation.ended_turns: what counts as an ended turn, and that the prompts are in nobody's training."""

import pytest
from scipy.stats import binomtest

from openko.corpus.clean import is_hangul
from openko.evaluation import ended_turns
from openko.evaluation.ended_turns import FORMS, PROMPTS, TOPICS, count, is_ended_turn
from openko.sampling import Sample
from openko.tokenizers import END, TURN_END
from openko.training import chat_data


def answer(text: str, tokens: int = 20, stop: str = TURN_END) -> Sample:
    return Sample("물음", text, tokens, stop)


@pytest.mark.parametrize("found, counts", [
    (answer("바다는 넓고 깊다."), True),
    (answer("바다는 넓고 깊다.", stop=END), False),  # the text ended, not the turn
    (answer("바다는 넓고 깊다.", stop="length"), False),
    (answer("바다는 넓다.", tokens=8), False),  # seven tokens and <|eot_id|>
    (answer("바다는 넓다.", tokens=9), True),
    (answer("바다는 넓다.", tokens=64), True),
    (answer("바다는 넓다.", tokens=65), False),
    (answer("바다 sea", tokens=9), False),  # two letters of five
    (answer("바다는 sea", tokens=9), True),  # three of six: half is enough
    (answer("197. 2, 3!", tokens=12), False),  # no letters at all
    (answer("", tokens=12), False),
    (answer("��� 바다", tokens=12), True),  # what could not be decoded is no letter
])  # fmt: skip
def test_what_counts_in_korean(found, counts):
    assert is_ended_turn(found, "ko") == counts


def test_what_counts_in_english():
    assert is_ended_turn(answer("The sea is wide."), "en")
    assert not is_ended_turn(answer("바다는 넓다."), "en")
    assert is_ended_turn(answer("한글 is an alphabet."), "en")


def test_counts_and_interval_by_hand():
    answers = [answer("바다는 넓다.", tokens=n) for n in (10, 20)] + [answer("바다", tokens=64, stop="length"), answer("sea", tokens=30)]
    found = count(answers, "ko")
    assert (found.answers, found.share, found.stopped, found.median_tokens, found.distinct) == (4, 0.5, 0.75, 25.0, 0.75)
    assert found.sentences == 1.0 and count([answer("바다는 넓다."), answer("바다의 넓은")], "ko").sentences == 0.5
    # Wilson: centre (p + z²/2n) / (1 + z²/n), z = 1.96, n = 4
    assert found.low == pytest.approx(0.15004, abs=1e-4) and found.high == pytest.approx(0.84996, abs=1e-4)
    nobody, everybody = count(answers[2:], "ko"), count(answers[:2], "ko")
    assert nobody.share == nobody.low == 0 < nobody.high and everybody.low < everybody.share == everybody.high == 1


def test_two_hundred_different_prompts_in_each_language():
    for language, prompts in PROMPTS.items():
        assert len(prompts) == len(set(prompts)) == len(TOPICS) * len(FORMS[language]) >= 200
    assert all(sum(map(is_hangul, p)) / sum(map(str.isalpha, p)) == 1 for p in PROMPTS["ko"])
    assert all(p.isascii() for p in PROMPTS["en"])


def test_no_prompt_is_trained_on():
    documents = [{"id": f"pydoc/{name}", "text": "Every name is looked up in the nearest scope. " * 3} for name in ("names", "scopes")]
    chats = chat_data.chats(documents, 500, seed=0)
    asked = {m["content"] for chat in chats for m in chat if m["role"] == "user"}
    assert not asked & {p for prompts in PROMPTS.values() for p in prompts}
    assert not {form.split("{")[0] for form in FORMS["en"]} & {form.split("{")[0] for form in chat_data.QUESTIONS}


def test_ask_stops_at_both_end_tokens():
    asked = {}

    class Fake:
        llama3_terminators = (1, 2)

        def answer(self, prompts, **settings):
            asked.update(settings, prompts=prompts)
            return []

    assert ended_turns.ask(Fake(), "en") == []
    assert asked == {
        "prompts": PROMPTS["en"], "terminators": (1, 2), "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 64, "seed": 0
    }  # fmt: skip


@pytest.mark.parametrize("good, asked", [(0, 200), (1, 200), (94, 200), (200, 200), (3, 5)])
def test_intervals_are_those_of_scipy(good, asked):
    interval = binomtest(good, asked).proportion_ci(method="wilson")
    assert ended_turns.wilson_interval(good, asked) == pytest.approx((interval.low, interval.high), abs=1e-12)
