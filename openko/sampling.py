"""Text from a model directory: prompts through its own chat template, answers as they are drawn, conversations."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openko import decoding, hf_weights, tokenizers
from openko.decoding import Decoder
from openko.errors import InputError
from openko.tokenizers import Tokenizer

STREAM_STEPS = 8  # tokens between two looks at what has been drawn: one by one would cost a fifth of the speed


@dataclass(frozen=True)
class Sample:
    """One answer. stop: the special token that ended it, or "length"."""

    prompt: str
    text: str
    tokens: int
    stop: str


class Sampler:
    """A model directory, ready to answer.

    parameters: weights to use in place of the directory's (openko.llama's tree), such as those of a merge that was not
    written. form: another directory whose tokenizer and chat template are used, for a base model has none. dtype: of
    weights, cache and activations; by default fp32 on CPU where memory holds it, for products of bf16 are slow there, and
    elsewhere as stored. A model too large for one accelerator is cut over several. say: told how far reading and answering
    are, where they take long.
    """

    def __init__(
        self, directory: Path, parameters: dict | None = None, *, form: Path | None = None, dtype=None,
        say: Callable[[str], None] = print,
    ):  # fmt: skip
        self.directory, self.say = Path(directory), say
        self.config, carried = hf_weights.read_config(directory)
        self.tokenizer = tokenizers.load(directory if form is None else form)
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise InputError(
                f"{directory}: the tokenizer has {self.tokenizer.vocab_size} ids, but vocab_size in config.json is "
                f"{self.config.vocab_size}: these files belong to two models"
            )
        self.terminators = _terminators(self.directory, carried)
        self._parameters, self._dtype = parameters, dtype

    @cached_property
    def decoder(self) -> Decoder:
        """The weights, read when they are first needed: what can be refused without them is refused before."""
        if self._parameters is not None:
            return decoding.from_parameters(self.config, self._parameters)
        dtype = decoding.dtype_for(self.directory) if self._dtype is None else self._dtype
        return decoding.load(self.directory, dtype=dtype, mesh=decoding.mesh_for(self.config, dtype), say=self.say)

    def answer(
        self, prompts: list[str], *, system: str | None = None, temperature: float = 1.0, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int = 0, terminators: tuple[int, ...] | None = None,
    ) -> list[Sample]:  # fmt: skip
        """Each prompt as one user turn through the directory's chat template.

        temperature 0 is greedy. terminators: ids that end an answer; by default those that the directory names.
        """
        ids = [self.tokenizer.encode_chat([*opening(system), user_turn(prompt)]) for prompt in prompts]
        how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
        return self._samples(prompts, ids, self.terminators if terminators is None else terminators, **how)

    def complete(
        self, prompts: list[str], *, temperature: float = 1.0, top_p: float = 0.9, max_new_tokens: int = 512, seed: int = 0
    ) -> list[Sample]:
        """Each prompt continued as plain text, for models that were never taught to chat."""
        ids = [[self.tokenizer[tokenizers.BEGIN], *self.tokenizer.encode(p)] for p in prompts]
        how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
        return self._samples(prompts, ids, self.terminators, **how)

    def reply(
        self, messages: list[dict], show: Callable[[str], None], *, temperature: float = 1.0, top_p: float = 0.9,
        max_new_tokens: int = 512, seed: int = 0,
    ) -> Sample:  # fmt: skip
        """The next turn of a conversation ({"role", "content"}), its text given to `show` piece by piece."""
        stream, drawn, ids = TextStream(self.tokenizer), [], [self.tokenizer.encode_chat(messages)]
        how = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        decoding.check(self.config, ids, **how)
        for piece in self.decoder.stream(ids, terminators=self.terminators, **how, seed=seed, steps=STREAM_STEPS):
            new = piece[0].tolist()
            drawn += new
            if text := stream.push(t for t in new if t not in self.terminators):
                show(text)
        if text := stream.rest():
            show(text)
        return self._sample(messages[-1]["content"], drawn, self.terminators)

    @property
    def llama3_terminators(self) -> tuple[int, int]:
        """<|end_of_text|> and <|eot_id|>, which the card stops at, whatever the directory names."""
        return self.tokenizer[tokenizers.END], self.tokenizer[tokenizers.TURN_END]

    def _samples(self, prompts, ids, terminators, **how) -> list[Sample]:
        decoding.check(self.config, ids, **{name: value for name, value in how.items() if name != "seed"})
        found = self.decoder.generate(ids, terminators=terminators, say=self.say, **how)
        return [self._sample(prompt, new, terminators) for prompt, new in zip(prompts, found, strict=True)]

    def _sample(self, prompt: str, new: list[int], terminators: tuple[int, ...]) -> Sample:
        ended = bool(new) and new[-1] in terminators
        names = {number: token for token, number in self.tokenizer.special.items()}
        stop = names.get(new[-1], str(new[-1])) if ended else "length"
        return Sample(prompt, self.tokenizer.decode(new[:-1] if ended else new), len(new), stop)


def opening(system: str | None) -> list[dict]:
    """How a conversation begins: with the system's turn, if there is one."""
    return [{"role": "system", "content": system}] if system else []


def user_turn(text: str) -> dict:
    return {"role": "user", "content": text}


class TextStream:
    """Token ids in, text out as soon as it is whole: a syllable of which only some bytes have come is held back.

    All that `push` and `rest` return, put together, is the tokenizer's decoding of all ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._said: list[int] = []  # what was said last: some tokenizers drop the space of a text's first piece
        self._held: list[int] = []

    def push(self, ids: Iterable[int]) -> str:
        text = ""
        for number in ids:
            self._held.append(number)
            new = self._new()
            if not new.endswith("\ufffd"):  # what an unfinished character decodes to
                text += new
                self._said, self._held = self._held, []
        return text

    def rest(self) -> str:
        """What was held back, at the end of all."""
        text, self._held = self._new(), []
        return text

    def _new(self) -> str:
        return self._tokenizer.decode(self._said + self._held)[len(self._tokenizer.decode(self._said)) :]


class Conversation:
    """Turns with a model. When they no longer fit its context, the oldest question and answer are forgotten."""

    def __init__(self, sampler: Sampler, *, system: str | None = None, **how):
        """how: temperature, top_p, max_new_tokens and seed, as in `Sampler.reply`."""
        self.sampler, self.how = sampler, how
        self.messages = opening(system)
        self._first = len(self.messages)
        self._turn = 0

    def check(self) -> None:
        """Refuse a directory without a template, and settings that cannot be, before the weights are read."""
        ids = self.sampler.tokenizer.encode_chat([*self.messages, user_turn("?")])
        settings = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 512} | self.how
        decoding.check(self.sampler.config, [ids], **{name: value for name, value in settings.items() if name != "seed"})

    def ask(self, text: str, show: Callable[[str], None], say: Callable[[str], None] = print) -> Sample:
        """One question and its answer, shown piece by piece; both stay in the conversation. say: told what is forgotten.

        An interrupted answer leaves the conversation as it was.
        """
        messages = [*self.messages, user_turn(text)]
        room = self.sampler.config.max_position_embeddings - self.how.get("max_new_tokens", 512)
        while len(self.sampler.tokenizer.encode_chat(messages)) > room and len(messages) > self._first + 1:
            del messages[self._first : self._first + 2]
            say("(the oldest question and its answer no longer fit the model's context, and are forgotten)")
        found = self.sampler.reply(messages, show, **self.how | {"seed": self.how.get("seed", 0) + self._turn})
        self.messages, self._turn = [*messages, {"role": "assistant", "content": found.text}], self._turn + 1
        return found

    def clear(self) -> None:
        """Forget all turns but the system's."""
        del self.messages[self._first :]


def _terminators(directory: Path, carried: dict) -> tuple[int, ...]:
    """The end tokens of generation_config.json, else of config.json."""
    found = (hf_weights.read_generation_config(directory) or {}).get("eos_token_id")
    found = carried.get("eos_token_id") if found is None else found
    if found is None:
        raise InputError(f"{directory}: no eos_token_id in generation_config.json or config.json: nothing would end an answer")
    return tuple(found) if isinstance(found, list) else (found,)
