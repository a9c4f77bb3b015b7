"""Ended turns: does an answer come in the language of the question, and does it stop?

The first thing a chat model must do, and the only one that a model of a million weights can be asked for. An answer
counts when it ends by <|eot_id|> in time, is no mere stub, and at least half of its letters are of the question's
script. Nothing is said about whether it is true.
"""

from dataclasses import dataclass
from statistics import NormalDist, median

from openko import tokenizers
from openko.corpus.clean import is_hangul
from openko.sampling import Sample, Sampler

MAX_NEW_TOKENS = 64  # the turn must end within so many, <|eot_id|> included
MIN_TOKENS = 8  # before <|eot_id|>
MIN_SCRIPT_SHARE = 0.5  # of the letters

# Everyday subjects, the same in both languages, far from the manuals, laws and Python pages of the laptop's corpus.
# Forms that fit any Korean noun, whether it ends in a vowel or a consonant.
TOPICS = (
    ("바다", "the sea"), ("태양", "the sun"), ("달", "the moon"), ("겨울", "winter"), ("비", "rain"),
    ("지진", "earthquakes"), ("사막", "deserts"), ("숲", "forests"), ("고래", "whales"), ("고양이", "cats"),
    ("벌", "bees"), ("쌀", "rice"), ("김치", "kimchi"), ("빵", "bread"), ("커피", "coffee"),
    ("축구", "football"), ("바둑", "the game of go"), ("올림픽", "the Olympic games"), ("음악", "music"), ("영화", "films"),
    ("소설", "novels"), ("그림", "paintings"), ("춤", "dancing"), ("한복", "traditional dress"), ("종이", "paper"),
    ("바퀴", "the wheel"), ("자전거", "bicycles"), ("기차", "trains"), ("비행기", "aeroplanes"), ("다리", "bridges"),
    ("도서관", "libraries"), ("시장", "markets"), ("돈", "money"), ("우정", "friendship"), ("꿈", "dreams"),
    ("잠", "sleep"), ("심장", "the heart"), ("백신", "vaccines"), ("한글", "the Korean alphabet"), ("서울", "Seoul"),
)  # fmt: skip
FORMS = {
    "ko": ("{}에 대해 설명해 주세요.", "{}에 관해 아는 것을 이야기해 줘.", "{}에 대해 자세히 알고 싶어요.",
           "{} 이야기를 들려주세요.", "{}에 대해 무엇을 알아야 할까요?"),
    "en": ("Could you say something about {}?", "Give me an overview of {}.", "I would like to learn about {}.",
           "Please tell a story about {}.", "What is important about {}?"),
}  # fmt: skip
PROMPTS = {language: [form.format(topic[i]) for topic in TOPICS for form in FORMS[language]] for i, language in enumerate(("ko", "en"))}


@dataclass(frozen=True)
class EndedTurns:
    """share: of the answers that count, with its 95% interval (Wilson) from low to high.  stopped: share that ended by
    <|eot_id|> in time, whatever they said.  sentences: of those that count, the share whose text ends as a sentence
    does, by . ? or !  median_tokens: of an answer.  distinct: share of different answers."""

    answers: int
    share: float
    low: float
    high: float
    stopped: float
    sentences: float
    median_tokens: float
    distinct: float


def ask(sampler: Sampler, language: str, *, temperature: float = 1.0, top_p: float = 0.9, seed: int = 0) -> list[Sample]:
    """The answers to all prompts of a language ("ko" or "en"), drawn once as the card draws: temperature 1, top-p 0.9.

    Both of Llama-3's end tokens stop an answer, as in the card's code, whatever the directory names.
    """
    return sampler.answer(
        PROMPTS[language], temperature=temperature, top_p=top_p, max_new_tokens=MAX_NEW_TOKENS, seed=seed,
        terminators=sampler.llama3_terminators,
    )  # fmt: skip


def wilson_interval(good: int, asked: int) -> tuple[float, float]:
    """95% interval of a share by Wilson's score (1927), as scipy.stats.binomtest has it, whose import takes longer than all the answers."""
    z2 = NormalDist().inv_cdf(0.975) ** 2
    middle = (good + z2 / 2) / (asked + z2)
    half = (z2 * (good * (asked - good) / asked + z2 / 4)) ** 0.5 / (asked + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def count(answers: list[Sample], language: str) -> EndedTurns:
    """How many of the answers count, with interval."""
    counted = [a for a in answers if is_ended_turn(a, language)]
    good = len(counted)
    low, high = wilson_interval(good, len(answers))
    return EndedTurns(
        answers=len(answers), share=good / len(answers), low=low, high=high,
        stopped=sum(a.stop == tokenizers.TURN_END for a in answers) / len(answers),
        sentences=sum(a.text.rstrip().endswith((".", "?", "!")) for a in counted) / max(1, good),
        median_tokens=float(median(a.tokens for a in answers)),
        distinct=len({a.text for a in answers}) / len(answers),
    )  # fmt: skip


def is_ended_turn(answer: Sample, language: str) -> bool:
    """Ended by <|eot_id|> within 64 tokens, at least 8 before it, at least half of the letters of the language's script."""
    if answer.stop != tokenizers.TURN_END or not MIN_TOKENS < answer.tokens <= MAX_NEW_TOKENS:
        return False  # answer.tokens counts the end token
    letters = [c for c in answer.text if c.isalpha()]
    of_script = is_hangul if language == "ko" else str.isascii
    return bool(letters) and sum(map(of_script, letters)) / len(letters) >= MIN_SCRIPT_SHARE
