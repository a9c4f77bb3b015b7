"""The JSON files beside the weights, as readers of two generations of transformers want them."""

import json
from pathlib import Path

from openko import hf_weights, tokenizers
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.tokenizers import BEGIN, CHAT_TEMPLATE, END, TURN_END, Tokenizer

# Settings that mean something only where tokens are drawn; transformers 5 refuses to save them without do_sample.
OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def contradictions(settings: dict) -> list[str]:
    """Names of settings of a generation_config.json that speak of sampling where do_sample does not."""
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
    if settings.get("do_sample"):
        return []
    return [name for name in OF_SAMPLING if settings.get(name) not in (None, neutral.get(name))]


def terminators(tokenizer: Tokenizer) -> list[int]:
    """[<|end_of_text|>, <|eot_id|>], refused where a vocabulary does not have both."""
    return [tokenizer[END], tokenizer[TURN_END]]


def write(directory: Path, *, source: Path, config: LlamaConfig, carried: dict, dtype: str, tokenizer: Tokenizer) -> list[str]:
    """config.json, generation_config.json, the tokenizer's files and the chat template. Answers what a person should know.

    Both terminators go into both JSON files; θ and the dtype stand under the keys of transformers 4 and of transformers 5. A
    chat template stands in tokenizer_config.json, where transformers before 4.47 looks, and in chat_template.jinja.
    """
    notes = []
    ends = terminators(tokenizer)
    given = hf_weights.read_generation_config(source) or {}
    ids = {"bos_token_id": tokenizer[BEGIN], "eos_token_id": ends} | _pad(carried, given)
    kept = {k: v for k, v in carried.items() if k not in ("_name_or_path", "pad_token_id")}
    kept |= {"architectures": ["LlamaForCausalLM"], "dtype": dtype, "torch_dtype": dtype}
    hf_weights.write_configs(directory, config, kept | ids)
    left = contradictions(given)
    if left:
        notes.append(f"generation_config.json: {', '.join(left)} without do_sample: left out")
    eot = {k: v for k, v in given.items() if k not in left and k not in ids and not k.endswith("_token_id")}
    _write_json(directory / "generation_config.json", eot | ids)
    tokenizers.copy_files(source, directory)
    _merges_for_old_readers(directory / "tokenizer.json")
    notes += _write_template(directory, source)
    return notes


def _merges_for_old_readers(path: Path) -> None:
    """Merges as "a b" in place of ["a", "b"]: both are read today, and the libraries before transformers 4.45 read the first alone."""
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content.get("model") or {}
    merges = model.get("merges") or []
    pairs = bool(merges) and all(isinstance(pair, list) for pair in merges)
    if model.get("type") == "BPE" and pairs and not any(" " in piece for pair in merges for piece in pair):
        model["merges"] = [" ".join(pair) for pair in merges]
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def _pad(carried: dict, given: dict) -> dict:
    pad = given.get("pad_token_id", carried.get("pad_token_id"))
    return {} if pad is None else {"pad_token_id": pad}


def _write_template(directory: Path, source: Path) -> list[str]:
    template, notes = tokenizers.chat_template(source), []
    if not template:
        template = CHAT_TEMPLATE
        notes.append(f"{source} has no chat template: Llama-3's is written")
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not path.is_file():
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "clean_up_tokenization_spaces": False,
        }
        notes.append(f"{source} has no tokenizer_config.json: one with Llama-3's settings is written")
    settings = for_old_readers(settings)
    if not isinstance(settings.get("chat_template"), list):  # several templates by name stay as they are
        settings["chat_template"] = template
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write_json(path, settings)
    return notes


def for_old_readers(settings: dict) -> dict:
    """Fields of a tokenizer_config.json in words that transformers 4 and 5 both know, where transformers 5 has written its own.

    Transformers 4 knows no TokenizersBackend, and 4.57 stops at extra_special_tokens that are a list (tried: 4.46.3, 4.57.1, 5.23.0).
    """
    old = dict(settings)
    if old.get("tokenizer_class") == "TokenizersBackend":
        old["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(old.get("extra_special_tokens"), list):
        old["additional_special_tokens"] = old.pop("extra_special_tokens")
    return old


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_vocabulary(directory: Path, largest: int, rows: int) -> None:
    """Refuse a tokenizer with ids up to `largest` where the embedding has no row for them."""
    if largest >= rows:
        raise InputError(
            f"{directory}: the tokenizer has ids up to {largest:,}, but the embedding has {rows:,} rows: it is another model's, or "
            "tokens were added to it and not to the weights"
        )


def largest_id(tokenizer: Tokenizer) -> int:
    """Of every token, also those that were added and are not special. Ids need not be without gaps, so their number is not enough."""
    return len(tokenizer.pieces) - 1
