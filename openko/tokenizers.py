"""Tokenizers in Llama-3's form: load, train a small one, encode chats, count what Korean costs.

The real Llama-3 tokenizer is read from Meta's own package (PyPI `llama-models`) into tiktoken, which gives the
same ids as Hugging Face's tokenizer.json, three times as fast. Everything else is a directory or a file in one of three
forms, told apart by what is in it: tokenizer.json, tiktoken's lines, or a SentencePiece model.
"""

import base64
import datetime
import hashlib
import importlib.util
import json
import re
import shutil
import types
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
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
HUB = "hub:"  # how `load` tells a repository of the Hugging Face hub from a directory: hub:ORG/NAME or hub:ORG/NAME@REVISION
MODEL_FILE = "tokenizer.model"  # a SentencePiece model (Llama-2) or tiktoken's lines (Llama-3)

LLAMA_3_RANKS = 128_000
OPENAI_RANKS = {100_256: "cl100k_base", 199_998: "o200k_base"}  # tiktoken's names

SPACE_MARK = "\u2581"  # SentencePiece's space
MARKS = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")  # conjoining vowels and finals, which belong to the initial before them
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's form of a byte that no piece holds


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
    def pieces(self) -> list[bytes | None]:
        """What each id stands for in a text, by id, a space as a space; None where it stands for nothing certain: special, unknown."""
        raise NotImplementedError("a Tokenizer is one of the classes below")

    @property
    def joins(self) -> bool:
        """Whether the pieces of any text, put together, are its bytes: byte-level, and nothing is normalised."""
        return False

    @property
    def llama_2_form(self) -> bool:
        """Whether there is a piece for each byte, <0x00> to <0xFF>, and spaces are ▁: as in Llama-2's tokenizer and those made of it."""
        return False

    def aligned(self, text: str) -> np.ndarray:
        """Where in the text its tokens come from, for texts that are not their pieces put together.

        int64 [tokens, 3]: begin and end in bytes of UTF-8, and 1 where the token holds what stands there, 0 where it is
        unknown or one byte of a character.
        """
        raise NotImplementedError("a Tokenizer is one of the classes below")

    @cached_property
    def fingerprint(self) -> str:
        """Equal for two byte-level tokenizers with equal vocabularies and special tokens, read by tiktoken or from a tokenizer.json.

        Merges, and how text is cut or normalised, are not in it. A SentencePiece model and the tokenizer.json that was made of
        it have different ones.
        """
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
        try:
            return _template(self.chat_template).render(
                messages=messages, add_generation_prompt=add_generation_prompt, bos_token=BEGIN, eos_token=END
            )
        except jinja2.TemplateError as problem:
            raise InputError(f"the chat template of tokenizer {self.name} cannot be used: {problem}") from problem

    @cached_property
    def _at_special(self) -> re.Pattern:
        """Splits a text into special tokens and what lies between them; of two that begin alike the longer is taken."""
        names = sorted(self.special, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})" if names else "(?!)")  # the latter is nowhere

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
        for piece in self._at_special.split(rendered):
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

    @cached_property
    def _form(self) -> tuple[list[dict], bool, str | None]:
        """The steps before the model, whether text is normalised, and the unknown token."""
        form = json.loads(self.backend.to_str())
        model, steps = form["model"], _parts(form["pre_tokenizer"], "pretokenizers")
        number = model.get("unk_id")  # where the vocabulary is a list (Unigram)
        return steps, form["normalizer"] is not None, model.get("unk_token") if number is None else model["vocab"][number][0]

    @cached_property
    def _byte_level(self) -> bool:
        return any(step["type"] == "ByteLevel" for step in self._form[0])

    @property
    def joins(self):
        steps, normalised, _ = self._form
        return self._byte_level and not normalised and not any(step.get("add_prefix_space") for step in steps)

    @property
    def llama_2_form(self):
        known = self.backend.get_vocab(with_added_tokens=False)
        return not self._byte_level and SPACE_MARK in known and all(f"<0x{b:02X}>" in known for b in range(256))

    @cached_property
    def pieces(self):
        added = self.backend.get_added_tokens_decoder()
        unknown = self._form[2]
        found: list[bytes | None] = [None] * (max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1)
        for token, number in self.backend.get_vocab(with_added_tokens=False).items():
            found[number] = None if token == unknown else self._piece(token)
        for number, token in added.items():
            found[number] = None if token.special or token.content == unknown else token.content.encode()
        return found

    def _piece(self, token: str) -> bytes | None:
        if self._byte_level:
            return bytes(TO_BYTE[c] for c in token) if all(c in TO_BYTE for c in token) else token.encode()
        byte = BYTE_PIECE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE_MARK, " ").encode()

    def aligned(self, text):
        made = self.backend.encode(text, add_special_tokens=False)
        held = [
            self.pieces[i] is not None and not BYTE_PIECE.fullmatch(token)
            # The space that is put before a text is said to come from its first character.
            and (self.pieces[i] != b" " or text[begin:end].isspace())
            for i, token, (begin, end) in zip(made.ids, made.tokens, made.offsets, strict=True)
        ]  # fmt: skip
        in_bytes = np.concatenate([[0], np.cumsum([len(c.encode()) for c in text], dtype=np.int64)])
        claimed = {i for begin, end in made.offsets for i in range(begin, end)}
        offsets = np.array([(begin, _with_marks(text, end, claimed)) for begin, end in made.offsets], np.int64).reshape(-1, 2)
        return np.column_stack([in_bytes[offsets], np.array(held, np.int64)])

    def encode_arrays(self, texts):
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]

    def vocabulary(self):
        found = []
        for token, number in self.backend.get_vocab(with_added_tokens=False).items():
            if token not in self.special:
                if all(c in TO_BYTE for c in token):
                    token = bytes(TO_BYTE[c] for c in token).hex()
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


class TiktokenTokenizer(Tokenizer):
    """Ranks of tiktoken's, the expression that cuts text before byte-pair encoding, and special tokens."""

    chat_template = ""

    def __init__(self, name: str, *, ranks: dict[bytes, int], pattern: str, special: dict[str, int]):
        import tiktoken

        self.name, self.special, self._ranks = name, special, ranks
        self.vocab_size = 1 + max([len(ranks) - 1, *special.values()])  # some leave ids out before their special tokens
        self._encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)

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

    @property
    def joins(self):
        return True

    @cached_property
    def pieces(self):
        found: list[bytes | None] = [None] * self.vocab_size
        for piece, rank in self._ranks.items():
            found[rank] = piece
        return found


class Llama3Tokenizer(TiktokenTokenizer):
    """The real one, by tiktoken, from Meta's tokenizer.model; any other ranks are taken for Llama-3's (`load` asks first)."""

    chat_template = CHAT_TEMPLATE

    def __init__(self, path: Path, name: str = LLAMA_3):
        # Not tiktoken's own reader, which keeps a copy in /tmp and then reads only that.
        self._set_up(_tiktoken_ranks(Path(path)), name)

    def extended(self, pieces: Iterable[bytes], name: str) -> "Llama3Tokenizer":
        """This tokenizer with more pieces, merged after all of its own, in their order; special tokens follow them.

        pieces: none of them in the vocabulary, none twice; each two tokens put together, or it is never found.
        """
        added = Llama3Tokenizer.__new__(Llama3Tokenizer)
        ranks = dict(self._ranks)
        for piece in pieces:
            if piece in ranks:
                raise InputError(f"tokenizer {name}: the piece {piece!r} is already there: leave it out")
            ranks[piece] = len(ranks)
        added._set_up(ranks, name)
        return added

    def _set_up(self, ranks: dict[bytes, int], name: str) -> None:
        special = {token: len(ranks) + i for i, token in enumerate(special_tokens(256))}
        super().__init__(name, ranks=ranks, pattern=PATTERN, special=special)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (Llama-2's form), by its own library. It puts a space before a text where the model says so."""

    chat_template = ""

    def __init__(self, path: Path, name: str):
        try:
            import sentencepiece
        except ImportError:
            raise InputError(f"{path} is a SentencePiece model: pip install sentencepiece") from None

        self.name = name
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=Path(path).read_bytes())
        except (RuntimeError, ValueError, TypeError) as problem:
            raise InputError(f"{path} cannot be read as a SentencePiece model ({str(problem)[:200]}): fetch it again") from None
        self.vocab_size = self._model.get_piece_size()
        if not self.vocab_size:
            raise InputError(f"{path} is a SentencePiece model without pieces: fetch it again")
        self.special = {self._model.id_to_piece(i): i for i in range(self.vocab_size) if self._model.is_control(i)}

    def encode(self, text):
        return self._model.encode(text, out_type=int)

    def encode_batch(self, texts):
        return self._model.encode(list(texts), out_type=int)

    def encode_arrays(self, texts):
        return [np.array(ids, np.uint32) for ids in self._model.encode(list(texts), out_type=int, num_threads=1)]

    def decode(self, ids):
        return self._model.decode([int(i) for i in ids])

    def vocabulary(self):
        # An unknown and a byte are no text that a piece could hold, so they keep their names.
        named = ((self._model.id_to_piece(i), i) for i in range(self.vocab_size) if not self._model.is_control(i))
        return [(token if self.pieces[i] is None or self._model.is_byte(i) else self.pieces[i].hex(), i) for token, i in named]

    @property
    def llama_2_form(self):
        return sum(map(self._model.is_byte, range(self.vocab_size))) == 256 and SPACE_MARK in map(
            self._model.id_to_piece, range(self.vocab_size)
        )

    @cached_property
    def pieces(self):
        return [self._piece(i) for i in range(self.vocab_size)]

    def _piece(self, number: int) -> bytes | None:
        if self._model.is_control(number) or self._model.is_unknown(number):
            return None
        token = self._model.id_to_piece(number)
        return bytes([int(BYTE_PIECE.fullmatch(token)[1], 16)]) if self._model.is_byte(number) else token.replace(SPACE_MARK, " ").encode()

    def aligned(self, text):
        found = []
        for number, begin, end in _spans(self._model.encode(text, out_type="serialized_proto")):
            found.append((begin, end, self.pieces[number] is not None and not self._model.is_byte(number)))
        return np.array(found, np.int64).reshape(-1, 3)


def load(source: str | Path) -> Tokenizer:
    """A tokenizer by its name or its place.

    source: "llama-3" (the real one, from the package llama-models); a directory with a tokenizer.json or a tokenizer.model;
    such a file, or another of tiktoken's or SentencePiece's; or "hub:ORG/NAME" with "@REVISION" if wanted. It is called after the
    directory, the repository or the file.

    InputError: a file in none of these forms, or cut short; tiktoken's lines whose number tells not how text is cut (Llama-3's,
    cl100k_base's and o200k_base's do); a hub that does not answer.
    """
    if str(source) == LLAMA_3:
        spec = importlib.util.find_spec("llama_models")
        if spec is None:
            raise InputError("the real Llama-3 tokenizer comes with the package llama-models: pip install 'openko[laptop]'")
        return Llama3Tokenizer(Path(spec.submodule_search_locations[0]) / "llama3" / "tokenizer.model")
    if str(source).startswith(HUB):
        directory = _from_hub(str(source))
        return _read(_file_of(directory), str(source).removeprefix(HUB).partition("@")[0].rpartition("/")[2])
    path = Path(source) if Path(source).is_file() else _file_of(Path(source))
    general = path.name in ("tokenizer.json", MODEL_FILE)  # the same name everywhere: the directory tells more
    return _read(path, path.absolute().parent.name if general else path.stem)


def _file_of(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    if not path.is_file() and (directory / MODEL_FILE).is_file():
        return directory / MODEL_FILE
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: give 'llama-3' or a model directory with a tokenizer.json or {MODEL_FILE}, "
            "such a file, or hub:ORG/NAME"
        )
    return path


def _read(path: Path, name: str) -> Tokenizer:
    """The tokenizer in a file; what is in it, and not its name, tells the form."""
    with path.open("rb") as file:
        head = file.read(4096)
    if path.name == "tokenizer.json" or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        try:
            backend = hf.Tokenizer.from_file(str(path))
        except Exception as problem:  # the library raises plain Exception for a file it cannot parse
            raise InputError(f"{path} cannot be read: {problem}") from problem
        return HFTokenizer(backend, name, chat_template(path.parent))
    if TIKTOKEN_LINE.match(head):
        return _by_number_of_ranks(path, name)
    if head[:1] == SENTENCEPIECE_START:
        return SentencePieceTokenizer(path, name)
    found = "an empty file" if not head else "a Git LFS pointer" if head.startswith(b"version https://git-lfs") else repr(head[:24])
    what = "fetch the file itself (git lfs pull)" if "LFS" in found else "give one of them"
    raise InputError(
        f"{path} is no tokenizer: neither a tokenizer.json nor tiktoken's lines nor a SentencePiece model, but {found}: {what}"
    )


TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
SENTENCEPIECE_START = b"\x0a"  # protobuf's mark of the first piece: field 1, with its length


def _tiktoken_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            piece, rank = line.split()
            ranks[base64.b64decode(piece, validate=True)] = int(rank)
        except ValueError:
            raise InputError(f"{path}, line {number}: {line[:40]!r} is not a piece in base64 and its rank: fetch the file again") from None
    missing = [b for b in range(256) if bytes([b]) not in ranks]
    if missing or sorted(ranks.values()) != list(range(len(ranks))):
        lacks = f"the byte {missing[0]:#04x} is missing" if missing else f"the ranks are not 0 to {len(ranks) - 1:,}"
        raise InputError(f"{path} is not whole: it has {len(ranks):,} pieces, and {lacks}: fetch the file again")
    return ranks


def _by_number_of_ranks(path: Path, name: str) -> Tokenizer:
    """tiktoken's lines do not say how text is cut before byte-pair encoding: the number of ranks tells whose they are."""
    ranks = _tiktoken_ranks(path)
    if len(ranks) == LLAMA_3_RANKS:
        return Llama3Tokenizer(path, name)
    if len(ranks) not in OPENAI_RANKS:
        known = ", ".join(f"{n:,} ({whose})" for n, whose in {LLAMA_3_RANKS: LLAMA_3, **OPENAI_RANKS}.items())
        raise InputError(
            f"{path}: how text is cut is not known for {len(ranks):,} ranks, only for {known}: give the tokenizer.json of this tokenizer"
        )
    from tiktoken_ext import openai_public

    # The library's function with its reader replaced: that one would fetch the ranks, which are here.
    made = getattr(openai_public, OPENAI_RANKS[len(ranks)])
    names = vars(openai_public) | {"load_tiktoken_bpe": lambda *_, **__: ranks}
    form = types.FunctionType(made.__code__, names)()
    return TiktokenTokenizer(name, ranks=ranks, pattern=form["pat_str"], special=form["special_tokens"])


def _from_hub(source: str) -> Path:
    """The tokenizer's files of a hub repository, fetched once into the hub's own cache; no weights."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    repository, _, revision = source.removeprefix(HUB).partition("@")
    try:
        if repository.count("/") != 1:
            raise InputError(f"{source}: write hub:ORG/NAME, such as hub:beomi/llama-2-ko-7b")
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=[*FILES, MODEL_FILE]))
    except GatedRepoError:
        raise InputError(f"{source} is gated: accept its licence on the hub, then log in with `hf auth login` or set HF_TOKEN") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as problem:
        raise InputError(
            f"{source} is not on the hub, or not for you ({str(problem).splitlines()[0]}): check name, revision and login"
        ) from None
    # The base of the hub's error is that of the HTTP library of its release: requests, httpx or another.
    except (OSError, *HfHubHTTPError.__bases__) as problem:
        raise InputError(
            f"{source} cannot be fetched ({(str(problem) or type(problem).__name__).splitlines()[0]}): "
            "without the network give a directory or a file"
        ) from None


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


@lru_cache(maxsize=8)  # compiling one takes longer than a thousand turns through it
def _template(source: str) -> jinja2.Template:
    # As transformers offers it to templates: `break`, the date, and what they call for turns that they do not know.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.datetime.now().strftime(form)}
    return environment.from_string(source)


def _refuse(message: str):
    raise jinja2.TemplateError(message)


def _with_marks(text: str, end: int, claimed: set[int]) -> int:
    """The end of a token that was composed (NFC): the library says it to come from the first character of those that became one."""
    while end and end < len(text) and end not in claimed and (unicodedata.combining(text[end]) or MARKS.match(text[end])):
        end += 1
    return end


def _parts(form: dict | None, inside: str) -> list[dict]:
    """The steps of a pre-tokenizer as tokenizer.json has it: none, one, or a sequence of them."""
    if form is None:
        return []
    return [part for each in form[inside] for part in _parts(each, inside)] if form.get("type") == "Sequence" else [form]


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A protobuf integer and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, place


def _fields(data: bytes) -> Iterable[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message that has integers, texts and messages only."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        value, place = _varint(data, place)
        if key & 7 == 2:
            value, place = data[place : place + value], place + value
        yield key >> 3, value


def _spans(message: bytes) -> Iterable[tuple[int, int, int]]:
    """Id, begin and end (bytes) of each piece of a SentencePieceText (sentencepiece.proto); a field that is 0 is left out there.

    Read here because the library's own ways to tell it have other names in each release, and one needs protobuf.
    """
    for field, value in _fields(message):
        if field == 2:
            piece = dict(_fields(value))
            yield piece.get(2, 0), piece.get(4, 0), piece.get(5, 0)


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character for every byte: printable Latin-1 stays, the rest moves above U+0100."""
    stays = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = (b for b in range(256) if b not in stays)
    return {b: chr(b) for b in stays} | {b: chr(256 + n) for n, b in enumerate(moved)}


TO_BYTE = {character: byte for byte, character in _byte_characters().items()}
