"""Does a text come back as it was? Samples of what tokenizers lose: decomposed and archaic Hangul, emoji, white space."""

import unicodedata

from openko.tokenizers import Tokenizer

SENTENCE = "훈민정음은 백성을 가르치는 바른 소리라는 뜻이다."
SAMPLES = {
    "NFC": unicodedata.normalize("NFC", SENTENCE),
    "NFD": unicodedata.normalize("NFD", SENTENCE),
    # With the vowel ㆍ, whose syllables have no precomposed form.
    "archaic": "나랏말\u110a\u119e\u1106\u1175 듕귁에 달아 \u1112\u119e\u11ab 글\u110c\u119e",
    "typed jamo": "ㅋㅋㅋㅋ 진짜? ㅠㅠ ㅇㅇ ㄱㄱ",
    "rare syllables": "뷁 쀍 꿹 똠방각하 펲시콜라 찦차",
    "hanja": "大韓民國은 民主共和國이다(民國).",
    "emoji": "가족 👨‍👩‍👧‍👦 그리고 👍🏽 태극기 🇰🇷 하트 ❤️",
    "code": 'def f(x):\n\tif x > 0:\n\t\treturn "가나다"\t# 주석\r\n\n\n    return None\n',
    "white space": "  앞과  사이   그리고 뒤  \n\n 새 줄\u00a0끝\u3000",
    "mixed": "GPT-4는 2024년 5월 13일에 ₩1,000(＄0.7)짜리 α버전을… “출시”했다—100%?",
    "like a special token": "<s> 와 <|eot_id|> 는 글자일 뿐이다 </s>",
}


def table(tokenizers: dict[str, Tokenizer], samples: dict[str, str] = SAMPLES) -> list[dict]:
    """A row for each sample: {"sample", "text", "tokenizers": {name: {"tokens", "exact", "came_back"}}}.

    exact: the decoded ids are the text, code point by code point. came_back: what they are instead; None where it is exact.
    """
    return [
        {"sample": kind, "text": text, "tokenizers": {n: once(t, text) for n, t in tokenizers.items()}} for kind, text in samples.items()
    ]


def once(tokenizer: Tokenizer, text: str) -> dict:
    ids = tokenizer.encode(text)
    decoded = tokenizer.decode(ids)
    return {"tokens": len(ids), "exact": decoded == text, "came_back": None if decoded == text else decoded}
