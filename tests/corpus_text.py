"""Korean and English documents that pass every filter, written by chance from words of our own."""

import json
import random

KOREAN = """
바람 하늘 나무 사람 마을 아침 저녁 강물 언덕 노래 편지 시장 학교 도서관 기차 우산 겨울 여름 가을 봄비 구름 별빛 바다
고양이 강아지 책상 창문 걸음 이야기 친구 가족 음식 사과 커피 운동 약속 시간 거리 골목 자전거 버스 지하철 회의 보고서
연구 실험 결과 자료 기록 질문 대답 생각 마음 기억 문제 방법 이유 목표 계획 준비 시작 끝맺음 순서 차이 관계 변화 발전
경제 정책 법률 제도 기술 과학 예술 문화 역사 지리 언어 문장 낱말 글자 소리
""".split()  # noqa: SIM905 (a list would fill a page)
ENDINGS = """
은 는 이 가 을 를 에 에서 와 과 도 만 으로 부터 까지 처럼 보다 의
""".split()  # noqa: SIM905 (a list would fill a page)
VERBS = """
보았다 들었다 걸었다 만났다 읽었다 썼다 말했다 물었다 웃었다 떠났다 돌아왔다 배웠다 가르쳤다 기다렸다 나누었다 찾았다 지켰다
바꾸었다
""".split()  # noqa: SIM905 (a list would fill a page)
ENGLISH = """
river hill morning evening letter market school library train umbrella winter summer cloud starlight ocean cat dog desk
window story friend family apple coffee promise street corner bicycle meeting report result record question answer
thought memory problem method reason purpose plan order difference relation change policy law system science art culture
history language sentence word sound
""".split()  # noqa: SIM905 (a list would fill a page)


def korean(seed: int, sentences: int = 12) -> str:
    draw = random.Random(seed)
    nouns = [[draw.choice(KOREAN) + draw.choice(ENDINGS) for _ in range(draw.randint(3, 7))] for _ in range(sentences)]
    return " ".join(f"{' '.join(some)} {draw.choice(VERBS)}." for some in nouns)


def english(seed: int, sentences: int = 12) -> str:
    draw = random.Random(seed)
    words = [[draw.choice(ENGLISH) for _ in range(draw.randint(5, 12))] for _ in range(sentences)]
    return " ".join(" ".join(some).capitalize() + "." for some in words)


def write_jsonl(path, documents) -> None:
    """documents: dicts, one a line."""
    content = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != content:  # a file's time is part of what a corpus is made from
        path.write_text(content, encoding="utf-8")
