"""A study's numbers as figures, for `openko.figures.save`."""

from openko.token_study.study import parts_of

LABELS = {
    "bytes_per_token": ("토큰당 바이트: 클수록 싸다", "Bytes per token: more is cheaper", "토큰당 바이트", "bytes per token"),
    "syllables_per_token": ("토큰당 음절", "Syllables per token", "토큰당 음절", "syllables per token"),
    "tokens_per_eojeol": ("어절당 토큰: 작을수록 싸다", "Tokens per eojeol: fewer is cheaper", "어절당 토큰", "tokens per eojeol"),
    "broken_syllables": ("바이트로 쪼개진 음절의 비율", "Share of syllables broken into bytes", "음절의 비율", "share of syllables"),
    "tokens_ratio": ("같은 글의 토큰 수", "Tokens of the same text", "비율", "ratio"),
}


def bars(study: dict, measure: str = "bytes_per_token") -> dict:
    """One measure by domain and tokenizer, with its intervals; domains where it is not defined are left out."""
    korean, english, y_korean, y_english = LABELS[measure]
    cells = {name: {d: part["tokenizers"][name][measure] for d, part in parts_of(study).items()} for name in study["tokenizers"]}
    cells = {name: {d: cell for d, cell in row.items() if cell["value"] is not None} for name, row in cells.items()}
    against = f" ÷ {study['baseline']}" if measure == "tokens_ratio" else ""
    return {
        "kind": "bars", "title": [korean, english], "x": ["영역", "domain"], "y": [y_korean + against, y_english + against],
        "series": {name: {d: cell["value"] for d, cell in row.items()} for name, row in cells.items()},
        "intervals": {
            name: {d: cell["interval"] for d, cell in row.items() if cell["interval"] is not None} for name, row in cells.items()
        },
    }  # fmt: skip


def merges(rows: list[dict], *, base: str = "llama-3", levels: dict[str, float] | None = None) -> dict:
    """Bytes a token against the number of added pieces. levels: of other tokenizers, drawn as level lines."""
    x = [row["added"] for row in rows]
    level = {name: {"x": [x[0], x[-1]], "y": [value, value]} for name, value in (levels or {}).items()}
    return {
        "kind": "lines", "title": ["한국어 조각을 더하면", f"Korean pieces added to {base}, learned from texts of this very kind"],
        "x": ["더한 조각의 수", "added pieces"], "y": ["토큰당 바이트", "bytes per token"],
        "series": {base: {"x": x, "y": [row["bytes_per_token"] for row in rows]}} | level,
    }  # fmt: skip
