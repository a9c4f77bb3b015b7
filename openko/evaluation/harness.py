"""lm-evaluation-harness on our model: the harness asks, openko answers.

`OpenkoLM` is to the harness what its own `HFLM` is, and gives its numbers: the same ids for the same texts (the tokenizer is
transformers', as there), the same cut on the left where a prompt exceeds the context, the same stops. What differs is the work:
beginnings that requests share are computed once (openko.evaluation.trees), and a row's padding is small.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from openko import decoding, hf_weights
from openko.decoding import Decoder
from openko.errors import InputError
from openko.evaluation import trees
from openko.progress import Progress

ENCODED = 512  # texts whose ids are made at once: what a tokenizer returns beside ids is many times their size
MAX_GEN_TOKS = 256  # new tokens where a task says nothing, as in HFLM
GENERATED_ROWS = 16  # prompts that are answered at once
LOOK = 16  # tokens between two looks for a stop string
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is there counts
KNOWN = {*LENGTH_NAMES, "until", "do_sample", "temperature", "top_p"}
# Fields of generation_config.json that transformers' generate obeys and openko.decoding does not have, with what changes nothing.
ALWAYS = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "min_length": 0,
    "min_new_tokens": 0, "bad_words_ids": [], "suppress_tokens": [], "begin_suppress_tokens": [], "sequence_bias": [],
    "forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None, "penalty_alpha": 0.0,
    "guidance_scale": 1.0, "dola_layers": None, "watermarking_config": None,
}  # fmt: skip
DRAWING = {"min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}  # obeyed where tokens are drawn


class OpenkoLM(TemplateLM):
    """A Hugging Face directory as a model of the harness, computed by openko.

    dtype: of weights and activations; by default fp32 on CPU where memory holds it, elsewhere as stored. mesh: with the axis
    "tensor", to cut the model over; by default over as few accelerators as hold it. seed: of what is drawn where a task asks for
    sampling. say: told how far the work is.

    truncated: (task, question) of each prompt that was longer than the context and lost its beginning. drawn: tokens of all answers.
    """

    def __init__(self, directory: Path, *, dtype=None, mesh=None, seed: int = 0, say: Callable[[str], None] = print):
        super().__init__()
        self.directory, self.seed, self.say = Path(directory), seed, say
        self.config, carried = hf_weights.read_config(self.directory)
        self._dtype, self._mesh = dtype, mesh
        self.tokenizer = _tokenizer(self.directory)
        if len(self.tokenizer) > self.config.vocab_size:
            raise InputError(
                f"{directory}: the tokenizer has {len(self.tokenizer)} ids, but vocab_size in config.json is {self.config.vocab_size}: "
                "these files belong to two models"
            )
        if self.tokenizer.bos_token_id is None and self.tokenizer.eos_token_id is None:
            raise InputError(
                f"{directory}: the tokenizer names neither bos_token nor eos_token (tokenizer_config.json), and a text without a context "
                "has nothing to begin from: name the model's own"
            )
        self._generation = hf_weights.read_generation_config(self.directory) or {}
        ends = self._generation.get("eos_token_id", carried.get("eos_token_id"))
        self._ends = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        self.truncated: set[tuple[str, int | str]] = set()
        self.drawn = 0

    @cached_property
    def decoder(self) -> Decoder:
        """The weights, read when they are first needed."""
        dtype = decoding.dtype_for(self.directory) if self._dtype is None else self._dtype
        mesh = decoding.mesh_for(self.config, dtype) if self._mesh is None else self._mesh
        return decoding.load(self.directory, dtype=dtype, mesh=mesh, say=self.say)

    @property
    def dtype(self) -> str:
        """Of weights and activations, such as "float32"."""
        return str(self.decoder.weights["lm_head"].dtype)

    @property
    def max_length(self) -> int:
        return self.config.max_position_embeddings

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without a context begins from: <|begin_of_text|>, or the end token where there is none."""
        return self.tokenizer.eos_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    # ── texts to ids, as HFLM does ───────────────────────────────────────────────────────────────────────────────

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        """Ids of a text, with what the tokenizer puts before it, unless the text begins with <|begin_of_text|> itself."""
        return self._encode([string], add_special_tokens)[string]

    def _encode(self, strings: Sequence[str], add_special_tokens: bool | None = None) -> dict[str, list[int]]:
        """{text: ids} for each different text, many at once, for that is several times as fast as one by one."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        found: dict[str, list[int]] = {}
        for has_begin in (False, True):
            texts = [s for s in dict.fromkeys(strings) if s.startswith(begin) == has_begin]
            add = not has_begin if add_special_tokens is None else add_special_tokens
            for start in range(0, len(texts), ENCODED):
                some = texts[start : start + ENCODED]
                found |= zip(some, self.tokenizer(some, add_special_tokens=add, verbose=False)["input_ids"], strict=True)
        return found

    def _pairs(self, texts: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """(ids of the context, ids of the continuation) for each pair of texts.

        Blanks at a context's end go to the continuation, and a pair is encoded whole and then cut where the context alone ends.
        """
        moved = []
        for context, continuation in texts:
            kept = context.rstrip()
            moved.append((kept, context[len(kept) :] + continuation) if context else (context, continuation))
        alone = self._encode([continuation for context, continuation in texts if not context], add_special_tokens=False)
        whole = self._encode(
            [text for pair, (context, _) in zip(moved, texts, strict=True) if context for text in (pair[0], "".join(pair))]
        )
        pairs = []
        for (context, continuation), (kept, rest) in zip(texts, moved, strict=True):
            if context:
                ids = whole[kept]
                pairs.append((ids, whole[kept + rest][len(ids) :]))
            else:
                ids = alone[continuation]
                pairs.append((ids[:1], ids[1:]) if ids[:1] == [self.prefix_token_id] else ([self.prefix_token_id], ids))
        return pairs

    def tok_decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=skip_special_tokens)

    @property
    def tokenizer_name(self) -> str:
        return str(self.directory).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages ({"role", "content"}) through the directory's own template."""
        if not self.tokenizer.chat_template:
            raise InputError(
                f"{self.directory} has no chat template: take the directory of a chat model, or leave out --apply-chat-template"
            )
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    # ── what the harness asks ────────────────────────────────────────────────────────────────────────────────────

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability of the continuation in nats, whether greedy decoding would give it) for each (context, continuation)."""
        texts = [request.args for request in requests]
        asked = [(text, *ids) for text, ids in zip(texts, self._pairs(texts), strict=True)]
        for (_, context, continuation), request in zip(asked, requests, strict=True):
            if len(context) + len(continuation) > self.max_length + 1:
                self.truncated.add((request.task_name, request.doc_id))
        return self._loglikelihood_tokens(asked)

    def _loglikelihood_tokens(self, requests, **kwargs) -> list[tuple[float, bool]]:
        """For each (texts or None, ids of the context, ids of the continuation); too long ones lose their beginning."""
        sequences, scored = [], []
        for texts, context, continuation in requests:
            if not continuation or len(continuation) > self.max_length:
                raise InputError(
                    f"a continuation of {len(continuation)} tokens cannot be scored in a context of {self.max_length} "
                    f"(max_position_embeddings): {texts!r:.200}"
                )
            sequences.append((context + continuation)[-(self.max_length + 1) :])
            scored.append(len(continuation))
        found = trees.log_likelihoods(self.decoder, sequences, scored, say=self.say)
        for (texts, *_), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text in nats; texts beyond the context in windows, each token scored once."""
        encoded = self._encode([text for (text,) in (request.args for request in requests)])
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = encoded[request.args[0]]
            cut = get_rolling_token_windows(token_list=ids, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
            for context, continuation in map(make_disjoint_window, cut):
                windows.append((None, context, continuation))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each prompt, up to the first stop string, an end token or the number of tokens asked for.

        Greedy unless a task asks for a temperature. A prompt that leaves no room for the answer loses its beginning.
        """
        answers: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        ways = [(numbers, *self.settings(requests[numbers[0]].args[1])) for numbers in groups.values()]
        progress, done, batch = Progress(self.say), 0, 0
        encoded = self._encode([request.args[0] for request in requests])
        for numbers, until, how, room in ways:
            for number in numbers:
                if len(encoded[requests[number].args[0]]) > room:
                    self.truncated.add((requests[number].task_name, requests[number].doc_id))
            numbers.sort(key=lambda number: (-len(encoded[requests[number].args[0]]), requests[number].args[0]))
            for start in range(0, len(numbers), GENERATED_ROWS):
                some = numbers[start : start + GENERATED_ROWS]
                # A seed for each batch: under one seed the rows of two batches, often the same prompt again, draw alike.
                prompts = [encoded[requests[number].args[0]][-room:] for number in some]
                texts, batch = self._generate(prompts, until, how | {"seed": self.seed + (batch << 16)}), batch + 1
                for number, text in zip(some, texts, strict=True):
                    answers[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                done += len(some)
                progress(f"answers: {done:,} of {len(requests):,}", done / len(requests))
        return answers

    def settings(self, asked: dict) -> tuple[list[str], dict, int]:
        """(stop strings, settings for the decoder, tokens left for a prompt) of a task's generation_kwargs.

        Raises InputError for what openko does not do: unknown settings, those of generation_config.json that transformers' generate
        would obey, sampling without a temperature; for a model whose answers nothing would end; for one without room for an answer.
        """
        if self.eot_token_id is None and not self._ends:
            raise InputError(
                f"{self.directory}: no eos_token_id in generation_config.json or config.json, no eos_token in tokenizer_config.json: "
                "nothing would end an answer, and this task asks for one"
            )
        if unknown := sorted(set(asked) - KNOWN):
            raise InputError(f"generation_kwargs {', '.join(unknown)} of a task are not supported; {', '.join(sorted(KNOWN))} are")
        until = asked.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        if self.eot_token_id is not None:
            until.append(self.tok_decode([self.eot_token_id], skip_special_tokens=False))
        count = int(next((asked[name] for name in LENGTH_NAMES if asked.get(name) is not None), MAX_GEN_TOKS))
        temperature = 0.0 if asked.get("do_sample") is False else float(asked.get("temperature") or 0.0)
        if asked.get("do_sample") and not temperature:
            raise InputError(
                f"generation_kwargs of a task have do_sample: true and temperature {asked.get('temperature')}: drawing needs a temperature "
                "above 0, such as 1.0; answers without chance are do_sample: false"
            )
        for name, neutral in (ALWAYS | (DRAWING if temperature else {})).items():
            value = self._generation.get(name)
            if value not in (None, neutral) and value != {}:
                raise InputError(
                    f"{self.directory}/generation_config.json: {name} is {value!r}, which transformers' generate obeys and openko does not "
                    "have: scores would not be the harness's; take the field out to ask without it"
                )
        room = self.max_length - count
        if room < 1:
            raise InputError(
                f"a task asks for up to {count} new tokens, and the model has {self.max_length} positions (max_position_embeddings) for "
                "them and the prompt together: take a model with a longer context"
            )
        top_p = float(asked.get("top_p") or 1.0)
        return until, {"temperature": temperature, "top_p": top_p, "max_new_tokens": count}, room

    def _generate(self, prompts: list[list[int]], until: list[str], how: dict) -> list[str]:
        # A stop that is a special token never shows in the text, which is decoded without them.
        special = {str(token): number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        own = () if self.eot_token_id is None else (self.eot_token_id,)
        ends = tuple({*self._ends, *own, *(special[stop] for stop in until if stop in special)})
        rows = 1 << (len(prompts) - 1).bit_length()  # 1, 2, 4, 8 or 16: the last batch is another, and few programs serve all
        filled = prompts + [prompts[-1]] * (rows - len(prompts))
        drawn, texts = [[] for _ in prompts], [""] * len(prompts)
        open_rows = set(range(len(prompts)))
        for piece in self.decoder.stream(filled, terminators=ends, **how, steps=LOOK):
            for row in sorted(open_rows):
                new = piece[row].tolist()
                end = next((at for at, token in enumerate(new) if token in ends), None)
                drawn[row] += new[:end]
                texts[row] = self.tok_decode(drawn[row])
                if end is not None or any(stop and stop in texts[row] for stop in until):
                    open_rows.discard(row)
            if not open_rows:
                break
        self.drawn += sum(map(len, drawn))
        for row, text in enumerate(texts):
            for stop in until:
                text = text.split(stop)[0] if stop else text
            texts[row] = text
        return texts


def _tokenizer(directory: Path):
    import transformers

    if not (directory / "tokenizer.json").is_file() and not (directory / "tokenizer_config.json").is_file():
        raise InputError(f"{directory} has no tokenizer.json: copy the tokenizer's files beside the weights")
    try:
        return transformers.AutoTokenizer.from_pretrained(str(directory))
    except (OSError, ValueError) as problem:
        raise InputError(f"{directory}: the tokenizer cannot be read: {problem}") from None
