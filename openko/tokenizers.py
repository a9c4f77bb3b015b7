"""Tokenizers in Llama-3's form: load, train a small one, encode chats, count what Korean costs.

The real Llama-3 tokenizer is read from Meta's own package (PyPI `llama-models`) into tiktoken, which gives the
same ids as Hugging Face's tokenizer.json, three times as fast. Everything else is a directory with a
tokenizer.json.
"""

import base64
import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import jinja2
import numpy as np
import tokenizers as hf
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openko import manifest
from openko.errors import InputError

# How Llama-3 cuts text before byte-pair encoding (Meta's tokenizer.py; the same in tokenizer.json).
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

BEGIN, END, HEADER, HEADER_END, TURN_END = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

# Llama-3's chat format as a Jinja template: every turn a header with the role, the text, <|eot_id|>.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def special_tokens(count: int) -> list[str]:
    """Llama-3's special tokens in order (256 in the real one): begin and end of text, headers, <|eot_id|>, reserves."""
    named = {0: BEGIN, 1: END, 6: HEADER, 7: HEADER_END, 9: TURN_END}
    reserved = (f"<|reserved_special_token_{n}|>" for n in range(count))
    return [named.get(i) or next(reserved) for i in range(count)]


LLAMA_3 = "llama-3"  # what `load` calls the real one


class Tokenizer:
    """Text to ids and back. `encode` never turns text that looks like a special token into one."""

    name: str
    vocab_size: int
    special: dict[str, int]
    chat_template: str = CHAT_TEMPLATE

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them special."""
        raise NotImplementedError("a Tokenizer is one of the classes below")

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of many texts, spread over the cores."""
        raise NotImplementedError("a Tokenizer is one of the classes below")

    def encode_arrays(self, texts: list[str]) -> Iterable[np.ndarray]:
        """`encode` of many texts in this thread alone, uint32 arrays: for those who spread work over processes themselves."""
        return (np.array(ids, np.uint32) for ids in map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens left out."""
        raise NotImplementedError("a Tokenizer is one of the classes below")

    def vocabulary(self) -> list[tuple[str, int]]:
        """Every token, its bytes as hexadecimal, with its id; special tokens apart."""
        raise NotImplementedError("a Tokenizer is one of the classes below")

    @cached_property
    def fingerprint(self) -> str:
        """Equal for two tokenizers with equal vocabularies and special tokens, whatever library holds them."""
        content = json.dumps([sorted(self.vocabulary()), sorted(self.special.items())])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, special: str) -> int:
        """Id of a special token by its name."""
        if special not in self.special:
            raise InputError(f"tokenizer {self.name} has no special token {special}")
        return self.special[special]

    def chat_text(self, messages: list[dict], *, add_generation_prompt: bool = True) -> str:
        """Chat messages ({"role", "content"}) through the directory's own template."""
        if not self.chat_template:
            raise InputError(f"tokenizer {self.name} has no chat template: take the directory of a chat model, or prompt it as plain text")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse  # what templates call for turns that they do not know
        try:
            template = environment.from_string(self.chat_template)
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, bos_token=BEGIN, eos_token=END)
        except jinja2.TemplateError as problem:
            raise InputError(f"the chat template of tokenizer {self.name} cannot be used: {problem}") from problem

    def encode_chat(self, messages: list[dict], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a chat. The template's own special tokens become ids; those inside a message's text do not."""
        # Text that a person typed must not end a turn: it is taken out of the template's way and put back as text.
        # Its outer spaces stay, for it is the template that decides whether to trim them.
        texts = [m["content"].strip() for m in messages]
        held = [
            {"role": m["role"], "content": m["content"].replace(text, f"\x00{i}\x00", 1) if text else m["content"]}
            for i, (m, text) in enumerate(zip(messages, texts, strict=True))
        ]
        rendered = self.chat_text(held, add_generation_prompt=add_generation_prompt)
        ids, text = [], ""
        for piece in _cut_at(rendered, self.special):
            if piece in self.special:
                ids += self.encode(text) if text else []
                ids, text = [*ids, self.special[piece]], ""
            else:
                text += re.sub("\x00(\\d+)\x00", lambda m: texts[int(m[1])], piece)
        return ids + (self.encode(text) if text else [])


class HFTokenizer(Tokenizer):
    """A tokenizer.json read by the `tokenizers` library."""

    def __init__(self, backend: hf.Tokenizer, name: str, chat_template: str = CHAT_TEMPLATE):
        self.backend, self.name, self.chat_template = backend, name, chat_template
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.special = {t.content: i for i, t in backend.get_added_tokens_decoder().items() if t.special}
        backend.no_truncation()  # what a fine-tuning left in the file is not ours
        backend.no_padding()
        backend.encode_special_tokens = True  # "<|eot_id|>" inside a document is text

    def encode(self, text):
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts):
        return [e.ids for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids):
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def vocabulary(self):
        to_byte = {char: byte for byte, char in _byte_characters().items()}
        found = []
        for token, number in self.backend.get_vocab(with_added_tokens=False).items():
            if token not in self.special:
                if all(c in to_byte for c in token):
                    token = bytes(to_byte[c] for c in token).hex()
                found.append((token, number))
        return found

    def save(self, directory: Path) -> None:
        """tokenizer.json and tokenizer_config.json, as transformers reads them."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BEGIN,
            "eos_token": END,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "chat_template": self.chat_template,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")


class Llama3Tokenizer(Tokenizer):
    """The real one, by tiktoken, from Meta's tokenizer.model."""

    def __init__(self, path: Path, name: str = LLAMA_3):
        import tiktoken

        self.name = name
        # Not tiktoken's own reader, which keeps a copy in /tmp and then reads only that.
        lines = (line.split() for line in Path(path).read_bytes().splitlines() if line)
        self._ranks = {base64.b64decode(piece): int(rank) for piece, rank in lines}
        self.special = {token: len(self._ranks) + i for i, token in enumerate(special_tokens(256))}
        self.vocab_size = len(self._ranks) + len(self.special)
        self._encoding = tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=self._ranks, special_tokens=self.special)

    def encode(self, text):
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts):
        return self._encoding.encode_ordinary_batch(texts)

    def encode_arrays(self, texts):
        # A third faster than lists of Python's integers; `allowed_special` is empty, so special tokens in texts stay text.
        return (self._encoding.encode_to_numpy(text, disallowed_special=()) for text in texts)

    def decode(self, ids):
        return self._encoding.decode([i for i in ids if i < len(self._ranks)])

    def vocabulary(self):
        return [(token.hex(), rank) for token, rank in self._ranks.items()]


def load(source: str | Path) -> Tokenizer:
    """The tokenizer "llama-3" (from the package llama-models), or that of a directory with a tokenizer.json."""
    if str(source) == LLAMA_3:
        spec = importlib.util.find_spec("llama_models")
        if spec is None:
            raise InputError("the real Llama-3 tokenizer comes with the package llama-models: pip install 'openko[laptop]'")
        return Llama3Tokenizer(Path(spec.submodule_search_locations[0]) / "llama3" / "tokenizer.model")
    directory = Path(source)
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist: give 'llama-3' or a model directory with a tokenizer.json")
    try:
        backend = hf.Tokenizer.from_file(str(path))
    except Exception as problem:  # the library raises plain Exception for a file it cannot parse
        raise InputError(f"{path} cannot be read: {problem}") from problem
    return HFTokenizer(backend, directory.name, chat_template(directory))


def copy_files(source: Path, directory: Path) -> None:
    """The tokenizer's files of one directory, so that another is complete."""
    for name in FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(directory) / name)


def chat_template(directory: Path) -> str:
    """The chat template of a directory as text; empty where it has none."""
    directory = Path(directory)
    if (directory / "chat_template.jinja").is_file():
        return (directory / "chat_template.jinja").read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    if not settings.is_file():
        return ""
    try:
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") or ""
    except (ValueError, AttributeError) as problem:
        raise InputError(f"{settings} cannot be read: {problem}") from None
    if isinstance(template, list):  # several templates by name: an older form
        template = {t["name"]: t["template"] for t in template}.get("default", "")
    return template


def train(texts: Iterable[str], vocab_size: int, name: str, specials: int = 16) -> HFTokenizer:
    """Byte-level BPE with Llama-3's pre-tokenizer and the first `specials` of its special tokens at the end.

    Deterministic for the same texts in the same order.
    """
    backend = hf.Tokenizer(hf.models.BPE(ignore_merges=True))
    backend.pre_tokenizer = hf.pre_tokenizers.Sequence([
        hf.pre_tokenizers.Split(hf.Regex(PATTERN), behavior="isolated"),
        hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    backend.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(vocab_size=vocab_size - specials, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab_size()
    if learned != vocab_size - specials:
        raise InputError(f"the text for tokenizer {name} is too short: {learned} of {vocab_size - specials} pieces were found in it")
    backend.add_special_tokens([hf.AddedToken(t, special=True, normalized=False) for t in special_tokens(specials)])
    backend.post_processor = hf.processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, backend.token_to_id(BEGIN))]
    )
    return HFTokenizer(backend, name)


def train_directory(directory: Path, *, corpus: Path, texts: list[str], vocab_size: int, name: str, say=print) -> manifest.Manifest:
    """`train` on some of a corpus directory's training texts, saved as a directory with a manifest."""

    def make(partial: Path) -> dict:
        trained = train(texts, vocab_size, name)
        trained.save(partial)
        return {"tokenizer": trained.fingerprint, "vocab_size": trained.vocab_size}

    recipe = {"vocab_size": vocab_size, "name": name, "texts": manifest.digest(texts)}
    return manifest.build(
        directory, kind="tokenizer", recipe=recipe, inputs={"corpus": corpus}, module="openko.tokenizers", make=make, say=say
    )


def measure(tokenizer: Tokenizer, texts: list[str]) -> dict:
    """What texts cost: tokens, UTF-8 bytes, eojeol (space-separated words), Hangul syllables, and their ratios."""
    if not any(t.split() for t in texts):
        raise InputError(f"there is no text to measure tokenizer {tokenizer.name} on")
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    size = sum(len(t.encode()) for t in texts)
    eojeol = sum(len(t.split()) for t in texts)
    syllables = sum("가" <= c <= "힣" for t in texts for c in t)
    return {
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": size / tokens,
        "tokens_per_eojeol": tokens / eojeol,
        "tokens_per_syllable": tokens / syllables if syllables else None,
    }


def _refuse(message: str):
    raise jinja2.TemplateError(message)


def _cut_at(text: str, special: dict[str, int]) -> list[str]:
    """Text cut into special tokens and what lies between them."""
    pieces = [text]
    for token in special:
        pieces = [p for piece in pieces for p in _split_keeping(piece, token)]
    return pieces


def _split_keeping(text: str, token: str) -> list[str]:
    if text == token:
        return [text]
    parts = text.split(token)
    kept = [parts[0]]
    for part in parts[1:]:
        kept += [token, part]
    return [p for p in kept if p]


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character for every byte: printable Latin-1 stays, the rest moves above U+0100."""
    stays = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = (b for b in range(256) if b not in stays)
    return {b: chr(b) for b in stays} | {b: chr(256 + n) for n, b in enumerate(moved)}
