"""The three directories of a merge: what fits together, what is refused, and what each tensor is made of."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash

from openko import hf_weights, manifest, tokenizers
from openko.errors import InputError
from openko.hf_weights import TensorInfo, Tensors
from openko.profiles import LlamaConfig, VectorScale

SMALL = 10_000_000  # bytes: the files of weights that are cheap to read whole
PIECE = 1 << 16  # bytes that are read of larger ones, at the beginning, in the middle and at the end
KEEP = "--scale embed=0 --special-tokens keep"
NO_ROWS = np.array([], np.int64)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """One tensor of the merge: target + scale × (chat − base), with `rows` taken from `rows_of` as they are.

    base and chat are None where theirs has other rows and the target's is copied.
    """

    name: str
    part: str
    target: TensorInfo
    base: TensorInfo | None
    chat: TensorInfo | None
    scale: float
    rows: np.ndarray = field(default_factory=lambda: NO_ROWS)  # ids, int64 [n]
    rows_of: str = "chat"

    @property
    def sources(self) -> dict[str, TensorInfo]:
        found = {"target": self.target, "base": self.base, "chat": self.chat}
        return {role: info for role, info in found.items() if info is not None}

    @property
    def place(self) -> str:
        """ "layer 3", or the name of a tensor outside the layers."""
        words = self.name.split(".")
        return f"layer {words[2]}" if words[1] == "layers" else words[-2]


@dataclass(frozen=True)
class Model:
    path: Path
    config: LlamaConfig
    carried: dict
    tensors: Tensors
    names: list[str]

    def tensor(self, name: str) -> TensorInfo | None:
        """Where a tensor lies; a tied model's lm_head is its embedding."""
        if name == "lm_head.weight" and self.config.tie_word_embeddings:
            name = "model.embed_tokens.weight"
        return self.tensors.info[name] if name in self.names else None


@dataclass(frozen=True, kw_only=True)
class Models:
    """The three of a merge, each by itself a whole Llama. generation: the chat model's generation_config.json, if it has one."""

    target: Model
    base: Model
    chat: Model
    generation: dict | None

    @classmethod
    def open(cls, *, target: Path, base: Path, chat: Path) -> "Models":
        """Reads configs and headers, no weight. Refused: what `hf_weights` refuses of a single model."""
        tensors = {role: Tensors(Path(path)) for role, path in (("target", target), ("base", base), ("chat", chat))}
        models = {}
        for role, found in tensors.items():
            config, carried = hf_weights.read_config(found.directory)
            models[role] = Model(found.directory, config, carried, found, hf_weights.check_tensors(found, config))
        return cls(**models, generation=hf_weights.read_generation_config(models["chat"].path))

    @property
    def all(self) -> dict[str, Model]:
        return {"target": self.target, "base": self.base, "chat": self.chat}

    @cached_property
    def one_vocabulary(self) -> bool:
        """Whether the chat model's tokenizer counts as the target's: as many rows, and the same ordinary tokens in them."""
        same_rows = self.target.config.vocab_size == self.chat.config.vocab_size
        return same_rows and self.other_tokens.isdisjoint({("target", "chat")})

    @cached_property
    def other_tokens(self) -> set[tuple[str, str]]:
        """Pairs of roles whose tokenizers, where both have one, give other ids to the ordinary tokens.

        Special tokens do not count: those of Llama-3 and Llama-3-Instruct have other names in the same rows.
        """
        # By content: three directories have one tokenizer.json as a rule, and reading a large one takes half a second.
        contents, vocabularies = {}, {}
        for role, model in self.all.items():
            path = model.path / "tokenizer.json"
            if path.is_file():
                contents[role] = hashlib.sha256(path.read_bytes()).hexdigest()
        for role, content in contents.items():
            if content not in vocabularies and len(set(contents.values())) > 1:
                vocabularies[content] = dict(tokenizers.load(self.all[role].path).vocabulary())
        return {
            (one, other)
            for one, other in (("target", "chat"), ("target", "base"), ("base", "chat"))
            if one in contents and other in contents and contents[one] != contents[other]
            and vocabularies[contents[one]] != vocabularies[contents[other]]
        }  # fmt: skip

    def additions(self, lambdas: VectorScale) -> list[Addition]:
        """What each of the target's tensors is made of, in the order of the model.

        lambdas: λ of each part. Refused, with both sides and the choices: other layers, other shapes, other tokens in the
        same rows, a target with one matrix for embedding and lm_head where the vector has two.
        """
        keeps_embedding = lambdas.embed == 0 and lambdas.special == "keep"
        for other in (self.base, self.chat):
            _check(self.target, other, keeps_embedding)
        for one, other in sorted(self.other_tokens):
            if not keeps_embedding:
                raise InputError(
                    f"{self.all[one].path} and {self.all[other].path} have tokenizers with other tokens in the same rows: their embeddings "
                    "cannot be summed. Either give models of one vocabulary, or leave the target's embedding, lm_head and tokenizer as "
                    f"they are and add the rest of the vector: {KEEP}"
                )
        rows = special_rows(self.chat.path, lambdas)
        made = []
        for name in self.target.names:
            part, of_target = hf_weights.part_of(name), self.target.tensor(name)
            of_base, of_chat = self.base.tensor(name), self.chat.tensor(name)
            fits = of_base.shape == of_chat.shape == of_target.shape and not (part == "embed" and self.other_tokens)
            made.append(
                Addition(
                    name=name, part=part, target=of_target, base=of_base if fits else None, chat=of_chat if fits else None,
                    scale=getattr(lambdas, part), rows=rows if part == "embed" else NO_ROWS,
                    rows_of="chat" if lambdas.special == "transplant" else "target",
                )
            )  # fmt: skip
        return made


def _check(target: Model, other: Model, keeps_embedding: bool) -> None:
    here, there = target.config, other.config
    if here.num_hidden_layers != there.num_hidden_layers:
        raise InputError(
            f"{target.path} has {here.num_hidden_layers} layers, but {other.path} has {there.num_hidden_layers}: a chat vector needs one "
            "architecture, and these models have other layers"
        )
    for name in target.names:
        shape, found = target.tensor(name).shape, other.tensor(name).shape
        if shape == found:
            continue
        both = f"tensor {name} is {shape} in {target.path}, but {found} in {other.path}"
        if hf_weights.part_of(name) != "embed" or shape[1:] != found[1:]:
            raise InputError(f"{both}: a chat vector needs one architecture; nothing is cut to fit")
        if not keeps_embedding:
            raise InputError(
                f"{both}: these models have other vocabularies, and nothing is cut to fit. Either give models of one vocabulary, or leave "
                f"the target's embedding, lm_head and tokenizer as they are and add the rest of the vector: {KEEP}"
            )
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        if getattr(here, name) != getattr(there, name):
            raise InputError(
                f"{name} is {getattr(here, name)} in {target.path}, but {getattr(there, name)} in {other.path}: the same shapes mean other "
                "heads, and their difference means nothing"
            )
    if here.tie_word_embeddings and not there.tie_word_embeddings and not keeps_embedding:
        raise InputError(
            f"{target.path} has one matrix for embedding and lm_head (tie_word_embeddings), but {other.path} has two, whose changes "
            f"differ: it cannot receive both. Leave it as it is: {KEEP}"
        )


def special_rows(chat: Path, parts: VectorScale) -> np.ndarray:
    """Ids of the rows that `parts` wants as they are, from the chat model ("transplant") or from the target ("keep"): those
    that the chat model alone has trained.

    They are the special tokens that its chat template writes out, of Llama-3's 256 the three <|start_header_id|>,
    <|end_header_id|> and <|eot_id|>; without those that frame every document, which target and base have trained as well.
    Where the template writes none of them or is missing: all special tokens but Llama-3's frames.
    """
    if parts.special not in ("merge", "transplant", "keep"):
        raise InputError(f"special tokens are made by 'merge', 'transplant' or 'keep', found {parts.special!r}")
    if parts.special == "merge" or (parts.special == "keep" and parts.embed == 0):
        return NO_ROWS
    special, template = tokenizers.load(chat).special, tokenizers.chat_template(chat)
    special = {token: number for token, number in special.items() if token not in (tokenizers.BEGIN, tokenizers.END)}
    frames = _frames(hf_weights.read_json(chat))
    written = {number for token, number in special.items() if token in template and number not in frames}
    return np.array(sorted(written or special.values()), np.int64)


def _frames(config: dict) -> set[int]:
    """Ids with which every document begins and ends, as far as a config.json can tell.

    A list of end tokens names the document's first (Llama-3.1: of the text, of a message, of a turn); a single one may be
    the turn's, as Llama-3-Instruct's is, and then it is no frame.
    """
    ends = config.get("eos_token_id")
    return {config.get("bos_token_id"), ends[0] if isinstance(ends, list) and len(ends) > 1 else None} - {None}


def parts_from(scales: Iterable[str], special: str = "merge") -> VectorScale:
    """["0.7", "embed=0"] -> λ of each part: a bare number is every part's (1 without one), NAME=NUMBER that part's own."""
    lambdas = {}
    for text in scales:
        name, equals, number = text.partition("=") if "=" in text else ("every part", "", text)
        if equals and name not in hf_weights.PARTS:
            raise InputError(f"a part is one of {', '.join(hf_weights.PARTS)} with its λ, such as attention=0.5; found {text!r}")
        if name in lambdas:
            raise InputError(f"λ of {name} is given twice: {lambdas[name]:g} and {number}")
        try:
            lambdas[name] = float(number)
        except ValueError:
            raise InputError(f"λ of {name} must be a number, found {number!r}") from None
        if not math.isfinite(lambdas[name]):
            raise InputError(f"λ of {name} must be a finite number, found {number}")
    every = lambdas.pop("every part", 1.0)
    return VectorScale(**(dict.fromkeys(hf_weights.PARTS, every) | lambdas), special=special)


def identity(directory: Path) -> str:
    """What stands for the content of a model directory without reading all its weights.

    It counts what a merge reads: configs, tokenizer, index and the weights that the index names; not a README, or the lock of
    another result that is written there. Of weights from 10 MB on: size, time of the last change, header, and a hash of
    pieces of the data, since a copy can keep size and time.
    """
    names = ("config.json", "generation_config.json", *tokenizers.FILES, hf_weights.INDEX)
    found = {name: manifest.file_hash(directory / name) for name in names if (directory / name).is_file()}
    for path in hf_weights.weight_files(directory):
        status = path.stat()
        if status.st_size < SMALL:
            found[path.name] = manifest.file_hash(path)
        else:
            start, fields = hf_weights.header(path)
            found[path.name] = [status.st_size, status.st_mtime_ns, fields, _hash_of_pieces(path, start, status.st_size)]
    return manifest.digest(found)


def _hash_of_pieces(path: Path, start: int, end: int) -> str:
    """xxh3_128 of PIECE bytes at the beginning, in the middle and at the end of the bytes from `start` to `end`."""
    found = xxhash.xxh3_128()
    with open(path, "rb") as file:
        for place in (start, (start + end - PIECE) // 2, end - PIECE):
            file.seek(max(start, place))
            found.update(file.read(PIECE))
    return found.hexdigest()
