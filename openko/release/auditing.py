"""Eleven questions to a Hugging Face directory, each answered by itself: what is broken does not hide what else is.

Nothing is believed that the directory says of itself: weights are read, templates rendered, files compared. Memory stays
bounded by one tensor of fp32, whatever the model's size.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import yaml

from openko import hf_weights, manifest, tokenizers
from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.release import configs, licences, lineage, weights
from openko.release.licences import Terms
from openko.rope_lab import diagnosis, directory, faults, windows
from openko.tokenizers import BEGIN, END, HEADER, TURN_END

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"
PROVENANCE = "provenance.json"  # what a release says of its making; openko.release.making writes it
CARD = "README.md"

# What a Korean tokenizer must give back unchanged: particles, ㅋㅋ, 원, Hanja, archaic Hangul, an emoji, lines and spaces.
ROUND_TRIP = (
    "나라의 말이 중국과 달라 문자와 서로 통하지 아니하므로,",
    "오늘 점심값 1000원이래ㅋㅋㅋ  정말?? ㅠㅠ 😀\n\t두 번째 줄",
    "나랏〮말〯ᄊᆞ미〮 國귁之징語ᅌᅥᆼ音ᅙᅳᆷ이〮",
    "def 함수(값): return f'{값:,}원'",
)
CHAT = [
    {"role": "user", "content": "대한민국의 수도는 어디인가요?"},
    {"role": "assistant", "content": "서울입니다."},
    {"role": "user", "content": "고마워요!"},
]
LAYERS = 10_000  # more than any Llama has: so many tensors are not looked for


@dataclass(frozen=True, kw_only=True)
class Check:
    """status: "pass", "fail" or "skipped", the last where the question cannot be answered; reason: why, in words."""

    status: str
    reason: str


class Skipped(Exception):
    """A question that this directory does not let us answer."""


class Directory:
    """A directory under audit: each part is read once, and a part that cannot be read raises InputError whenever it is asked for."""

    def __init__(self, path: Path, text: Path | None, say: Callable[[str], None]):
        self.path, self.text, self.say = Path(path), text, say

    @cached_property
    def raw(self) -> dict:
        return _read("config.json", lambda: hf_weights.read_json(self.path))

    @cached_property
    def config(self) -> LlamaConfig:
        """The shape; its RoPE is a placeholder."""
        known = hf_weights.OURS | hf_weights.ROPE | hf_weights.CARRIED | set(hf_weights.FIXED)
        fields = {name: value for name, value in self.raw.items() if name in known}
        where = str(self.path / "config.json")
        try:
            config = hf_weights.config_from_hf(fields, where=where, rope=directory.PLACEHOLDER)[0]
            hf_weights.tensor_shapes(config)
            if config.num_hidden_layers > LAYERS:
                raise InputError(f"{where}: num_hidden_layers is {config.num_hidden_layers:,}, which no Llama has")
        except (TypeError, ValueError, ZeroDivisionError) as problem:
            raise InputError(f"{where}: a field has a value of a kind that it should not have ({problem})") from None
        return config

    @cached_property
    def stored(self) -> dict[str, weights.Stored]:
        return weights.stored(self.path)

    @cached_property
    def config_of_readers(self):
        """config.json as transformers reads it."""
        import transformers

        load = transformers.AutoConfig.from_pretrained
        return _read("config.json, by transformers,", lambda: load(self.path, local_files_only=True, trust_remote_code=False))

    @cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return _read("the tokenizer", lambda: tokenizers.load(self.path))

    @cached_property
    def tokenizer_of_readers(self):
        """The tokenizer as transformers loads it: from more files than tokenizer.json."""
        import transformers

        load = transformers.AutoTokenizer.from_pretrained
        return _read("the tokenizer, by transformers,", lambda: load(self.path, local_files_only=True, trust_remote_code=False))

    @cached_property
    def tokenizer_settings(self) -> dict:
        path = self.path / "tokenizer_config.json"
        return _json(path) if path.is_file() else {}

    @cached_property
    def template(self) -> str:
        return _read("the chat template", lambda: tokenizers.chat_template(self.path))

    @cached_property
    def generation(self) -> dict | None:
        return _read("generation_config.json", lambda: hf_weights.read_generation_config(self.path))

    @cached_property
    def provenance(self) -> dict:
        """What a release of openko says of its making; empty for other directories."""
        path = self.path / PROVENANCE
        found = _json(path) if path.is_file() else {}
        return found if found.get("made_by") == "openko release" else {}

    @cached_property
    def front_matter(self) -> dict:
        """The YAML at the head of the model card."""
        path = self.path / CARD
        if not path.is_file():
            raise InputError(f"there is no {CARD}, so there is no model card")
        text = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
        found = re.match(r"---\n(.*?)\n---(\n|$)", text, re.DOTALL)
        if not found:
            raise InputError(f"{CARD} does not begin with front matter between two lines of ---: the Hub would know nothing of the model")
        fields = _read(f"the front matter of {CARD}", lambda: yaml.safe_load(found[1]))
        if not isinstance(fields, dict):
            raise InputError(f"the front matter of {CARD} holds a {type(fields).__name__}, not fields")
        return fields

    @property
    def parents(self) -> list[str]:
        """The card's base_model: one name, or a list of them."""
        said = self.front_matter.get("base_model") or []
        return [str(parent) for parent in (said if isinstance(said, list) else [said])]

    @property
    def is_metas(self) -> bool:
        """Whether this is Meta's own model, by the place in the Hub's cache or the name of the directory."""
        return not self.provenance and (lineage.hub_name(self.path) or "").startswith("meta-llama/")

    @property
    def name(self) -> str:
        """What the model is called: by its release, its card, the Hub's cache, or the directory."""
        if self.provenance.get("name"):
            return str(self.provenance["name"])
        try:
            said = self.front_matter.get("model_name")
        except InputError:
            said = None
        hub = lineage.hub_name(self.path)
        return str(said or (hub or self.path.resolve().name).rsplit("/", 1)[-1])


def audit(path: Path, *, text: Path | None = None, say: Callable[[str], None] = print) -> dict:
    """{"passed": bool, "checks": {name: {"status", "reason"}}} of any Hugging Face directory of a Llama.

    passed: no check failed. The checks are those of CHECKS, in its order. text: UTF-8 text in the model's language for the
    diagnosis of RoPE, in place of the built-in Korean and English. A directory that does not exist is refused, and so is a text.
    """
    if not Path(path).is_dir():
        raise InputError(f"{path} is not a directory: give the directory of a Hugging Face model")
    if text is not None:
        windows.read_text(text)
    seen, found = Directory(Path(path), text, say), {}
    for name, check in CHECKS.items():
        answer = asdict(_answer(check, seen))
        found[name] = answer | {"reason": _without_place(answer["reason"], str(Path(path)))}
    return {"passed": all(check["status"] != FAIL for check in found.values()), "checks": found}


def _without_place(reason: str, place: str) -> str:
    """Which directory it is, everybody knows; without its place two audits of one content are equal."""
    inside = re.sub(rf"(?<![\w./-]){re.escape(place)}(/|: )", "", reason)
    return re.sub(rf"(?<![\w./-]){re.escape(place)}(?= has )", "the directory", inside)


def _answer(check: Callable[[Directory], str], seen: Directory) -> Check:
    try:
        return Check(status=PASS, reason=check(seen))
    except Skipped as why:
        return Check(status=SKIPPED, reason=str(why))
    except InputError as fault:
        return Check(status=FAIL, reason=str(fault))
    except Exception as problem:  # other people's files hold whatever they hold, and the other checks are still to be answered
        return Check(status=FAIL, reason=f"it cannot be checked ({type(problem).__name__}: {problem})")


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────


def loadable(seen: Directory) -> str:
    """Configuration and files are whole and of a kind that readers load; no forward pass (that is the RoPE diagnosis)."""
    config = seen.config
    if "LlamaForCausalLM" not in (seen.raw.get("architectures") or []):
        raise InputError(
            f"config.json names as architectures {seen.raw.get('architectures')}, not LlamaForCausalLM: vLLM and others do not know which "
            "model it is"
        )
    files = hf_weights.weight_files(seen.path)
    stored = seen.stored
    lacking = weights.without_format(seen.path)
    if lacking:
        raise InputError(f"{', '.join(lacking)}: no format in the metadata that transformers 4 knows, and it refuses to load")
    found = seen.config_of_readers
    if found.model_type != "llama":
        raise InputError(f"transformers takes it for a model of type {found.model_type}, not llama")
    if seen.raw.get("quantization_config"):
        raise InputError("config.json has a quantization_config: these are not a Llama's plain weights")
    unknown = sorted(set(seen.raw) - hf_weights.OURS - hf_weights.ROPE - hf_weights.CARRIED - set(hf_weights.FIXED))
    note = f"; config.json has fields that openko does not know: {', '.join(unknown)}" if unknown else ""
    return f"{config.num_hidden_layers} layers, {len(stored)} tensors in {len(files)} file{'s' * (len(files) > 1)}, all of them whole{note}"


def rope(seen: Directory) -> str:
    """First what needs no evidence, then the diagnosis of weights and text."""
    raw = _or_skip(lambda: seen.raw)
    if raw.get("model_type") != "llama":
        raise Skipped(f"config.json says model_type {raw.get('model_type')}: the diagnosis knows the RoPE of Llamas alone")
    written = directory.written(raw, str(seen.path / "config.json"))
    if written.new_theta is None:
        raise InputError(f"{faults.NO_THETA}: config.json gives no θ, and readers take 10,000 without a word")
    if written.old_theta is None:
        raise InputError(f"{faults.NO_OLD_THETA}: θ stands in rope_parameters alone, and readers before transformers 5 take 10,000")
    if (written.old_theta, written.old_scaling) != (written.new_theta, written.new_scaling):
        raise InputError(
            f"config.json says two things: readers before transformers 5 find θ {written.old_theta:g} with scaling {written.old_scaling}, "
            f"later ones {written.new_theta:g} with {written.new_scaling}"
        )
    _or_skip(lambda: (seen.config, seen.tokenizer))
    answer = _or_skip(lambda: diagnosis.diagnose(seen.path, text=seen.text, say=seen.say))
    estimate, notes = answer["theta"], "; ".join(answer["notes"])
    low, high = (f"{side:,.0f}" if side else "no bound" for side in (estimate["low"], estimate["high"]))
    evidence = f"θ by weights and text {estimate['estimate']:,.0f} ({low} to {high}), config.json {written.new_theta:,.0f}"
    if answer["verdict"] == [diagnosis.UNDETERMINED]:
        raise Skipped(f"undetermined: {notes}")
    if answer["verdict"] != [diagnosis.OK]:
        raise InputError(f"{', '.join(answer['verdict'])}: {evidence}; {answer['repair']}")
    return evidence


def dtype(seen: Directory) -> str:
    stored = {name: tensor for name, tensor in _or_skip(lambda: seen.stored).items() if not name.endswith(weights.BUFFER)}
    if not stored:
        raise Skipped("there are no tensors")
    counts: dict[str, list[str]] = {}
    for name, tensor in stored.items():
        counts.setdefault(tensor.dtype, []).append(name)
    if len(counts) > 1:
        fewest = min(counts, key=lambda code: len(counts[code]))
        said = ", ".join(f"{len(names)} of {code}" for code, names in sorted(counts.items()))
        raise InputError(f"tensors of several dtypes: {said}; {counts[fewest][0]} is {fewest}")
    (code,) = counts
    if code not in weights.NAMES:
        raise InputError(f"all tensors are {code}; a Llama's weights are {', '.join(weights.NAMES.values())}")
    raw = _or_skip(lambda: seen.raw)
    said = {key: str(raw[key]).removeprefix("torch.") for key in ("torch_dtype", "dtype") if raw.get(key) is not None}
    if not said:
        raise InputError(f"all tensors are {weights.NAMES[code]}, but config.json names no dtype: readers take float32")
    for key, value in said.items():
        if value != weights.NAMES[code]:
            raise InputError(f"all tensors are {weights.NAMES[code]}, but config.json says {key} {value}")
    return f"all {len(stored)} tensors are {weights.NAMES[code]}, as config.json says ({', '.join(said)})"


def finite(seen: Directory) -> str:
    stored = _or_skip(lambda: seen.stored)
    odd = sorted({tensor.dtype for tensor in stored.values()} - set(weights.EXPONENTS))
    if odd:
        raise Skipped(f"there are tensors of dtype {', '.join(odd)}, which are not read here")
    bad = weights.not_finite(stored, seen.say)
    if bad:
        name = max(bad, key=bad.__getitem__)
        others = f", and {len(bad) - 1} other tensors: {sum(bad.values()):,} in all" if len(bad) > 1 else ""
        raise InputError(f"NaN or infinite: {bad[name]:,} of the numbers in {name}{others}")
    return f"all {sum(tensor.size for tensor in stored.values()):,} numbers are finite"


def tensors(seen: Directory) -> str:
    """Every tensor that config.json implies, in its shape, no other; the index and the files agree."""
    stored, config = _or_skip(lambda: seen.stored), _or_skip(lambda: seen.config)
    expected = _expected(config)
    extra = [name for name in stored if name not in expected and not name.endswith(weights.BUFFER)]
    if config.tie_word_embeddings:
        extra = [name for name in extra if name != "lm_head.weight"]
    shapes = [name for name in expected if name in stored and stored[name].shape != expected[name]]
    problems = [_named("missing", [name for name in expected if name not in stored]), _named("unknown", extra)]
    problems += [f"{name} is {stored[name].shape} in place of {expected[name]}" for name in shapes[:3]]
    problems += [f"and {len(shapes) - 3} more of another shape"] if len(shapes) > 3 else []
    problems += _index_problems(seen.path, stored)
    if any(problems):
        raise InputError("; ".join(filter(None, problems)))
    if {tensor.dtype for tensor in stored.values()} <= set(hf_weights.DTYPES):
        hf_weights.check_tensors(hf_weights.Tensors(seen.path), config)  # a tied lm_head that is stored must equal the embedding
    return f"all {len(expected)} tensors that config.json implies are there, each in its shape"


def _expected(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    names, shapes, found = hf_weights.tensor_names(config), hf_weights.tensor_shapes(config), {}
    for path, shape in shapes.items():
        layers = range(config.num_hidden_layers) if path[0] == "layers" else [None]
        found |= {names[path] if layer is None else names[path].format(layer): shape for layer in layers}
    return found


def _named(what: str, names: list[str]) -> str:
    some = ", ".join(sorted(names)[:3])
    return f"{len(names)} {what}: {some}{', …' if len(names) > 3 else ''}" if names else ""


def _index_problems(path: Path, stored: dict[str, weights.Stored]) -> list[str]:
    index, used = path / hf_weights.INDEX, {tensor.file.name for tensor in stored.values()}
    stray = sorted(file.name for file in path.glob("*.safetensors") if file.name not in used)
    problems = [f"{', '.join(stray)}: no part of the model{' as its index tells it' * index.is_file()}"] if stray else []
    if index.is_file():
        told = _json(index)["weight_map"]
        wrong = [name for name in told if name not in stored or stored[name].file.name != told[name]]
        problems += [_named(f"tensors not where {hf_weights.INDEX} says", wrong)]
        problems += [_named(f"tensors that {hf_weights.INDEX} does not name", [name for name in stored if name not in told])]
    return problems


# ── text in and out ──────────────────────────────────────────────────────────────────────────────────────────────


def tokenizer(seen: Directory) -> str:
    loaded, rows, readers = seen.tokenizer, _rows(seen), _tokenizer_of_readers(seen)
    if rows is not None:
        largest = configs.largest_id(loaded)
        configs.check_vocabulary(seen.path, max(largest, *readers.get_vocab().values()) if readers else largest, rows)
    for text in ROUND_TRIP:
        ids = loaded.encode(text)
        if loaded.decode(ids) != text:
            raise InputError(f"{text!r} comes back as {loaded.decode(ids)!r}")
        if readers and readers.encode(text, add_special_tokens=False) != ids:
            raise InputError(f"of {text!r} transformers makes other ids than the tokenizer's own file: tokenizer_config.json bends it")
    fits = "" if rows is None else f", fit the {rows:,} rows of the embedding"
    return f"{loaded.vocab_size:,} tokens{fits}, and Korean comes back as it went in"


def _tokenizer_of_readers(seen: Directory):
    """As transformers loads it, refused where transformers 4 would not; None where that hangs on a config.json that cannot be read."""
    import transformers

    try:
        _ = seen.config_of_readers
    except InputError:
        return None
    loaded, settings = seen.tokenizer_of_readers, seen.tokenizer_settings
    if configs.for_old_readers(settings) != settings:
        raise InputError(
            "tokenizer_config.json has tokenizer_class TokenizersBackend or a list of extra_special_tokens, as transformers 5 writes "
            "them: readers before it stop there; `openko release` writes what both read"
        )
    if settings.get("tokenizer_class") and not hasattr(transformers, settings["tokenizer_class"]):
        raise InputError(f"tokenizer_config.json: transformers has no tokenizer_class {settings['tokenizer_class']}")
    return loaded


def _rows(seen: Directory) -> int | None:
    """Rows of the embedding: those stored, else those that config.json says."""
    for find in (lambda: seen.stored["model.embed_tokens.weight"].shape[0], lambda: seen.config.vocab_size):
        try:
            return find()
        except (InputError, KeyError, IndexError):
            continue
    return None


def special_tokens(seen: Directory) -> str:
    """Ids mean the same in tokenizer, config.json and generation_config.json."""
    loaded, raw = _or_skip(lambda: seen.tokenizer), _or_skip(lambda: seen.raw)
    generation = _or_skip(lambda: seen.generation) or {}
    settings = _or_skip(lambda: seen.tokenizer_settings)
    names = {number: token for token, number in loaded.special.items()}
    for where, fields in (("config.json", raw), ("generation_config.json", generation)):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            odd = [number for number in _ids(fields.get(key)) if number not in names]
            if odd and not (key == "pad_token_id" and odd == [-1]):
                raise InputError(f"{where}: {key} {odd[0]} is no special token of the tokenizer")
    begins = {
        where: fields["bos_token_id"]
        for where, fields in (("config.json", raw), ("generation_config.json", generation))
        if _ids(fields.get("bos_token_id"))
    }
    if "config.json" not in begins and (begins or _content(settings.get("bos_token")) is not None or HEADER in loaded.special):
        raise InputError("config.json names no bos_token_id")
    if _content(settings.get("bos_token")) is not None:
        begins["tokenizer_config.json"] = loaded.special.get(_content(settings["bos_token"]))
    if len(set(begins.values())) > 1:
        raise InputError(f"the token that begins a text differs: {', '.join(f'{where}: {number}' for where, number in begins.items())}")
    ends = {
        where: set(_ids(fields.get("eos_token_id"))) for where, fields in (("config.json", raw), ("generation_config.json", generation))
    }
    if not ends["config.json"]:
        raise InputError("config.json names no eos_token_id")
    if ends["generation_config.json"] and not ends["config.json"] & ends["generation_config.json"]:
        raise InputError(
            f"config.json ends on {sorted(ends['config.json'])}, generation_config.json on {sorted(ends['generation_config.json'])}"
        )
    ending = _content(settings.get("eos_token"))
    if ending is not None and loaded.special.get(ending) not in ends["config.json"] | ends["generation_config.json"]:
        raise InputError(
            f"tokenizer_config.json ends on {ending}, id {loaded.special.get(ending)}; config.json on {sorted(ends['config.json'])}"
        )
    begin = names[begins["config.json"]] if begins else "with no token"
    return f"begin {begin}, end {', '.join(names[number] for number in sorted(ends['config.json']))}, everywhere alike"


def template(seen: Directory) -> str:
    """A chat of three turns comes out in Llama-3's form."""
    if not seen.template:
        if _ends_turns(seen):
            raise InputError(f"there is no chat template, though generation ends on {TURN_END} as a chat model's does")
        raise Skipped("there is no chat template, as in a base model's directory")
    for_old = _or_skip(lambda: seen.tokenizer_settings).get("chat_template")
    if isinstance(for_old, str) and for_old.strip() != seen.template.strip():
        raise InputError(
            "there are two chat templates: readers before transformers 4.47 take that of tokenizer_config.json, later ones another one in "
            "chat_template.jinja"
        )
    if not _is_llama_3(seen):
        raise Skipped("the vocabulary is not Llama-3's, so its form of a chat is another")
    rendered, wanted = (_render(text) for text in (seen.template, tokenizers.CHAT_TEMPLATE))
    # Llama-3.1 and later put a system turn of their own, with dates, before every chat.
    own = re.sub(r"(?s)^(<\|begin_of_text\|>)<\|start_header_id\|>system<\|end_header_id\|>\n\n.*?<\|eot_id\|>", r"\1", rendered)
    if wanted not in (rendered, own):
        at = next((i for i, (a, b) in enumerate(zip(rendered, wanted, strict=False)) if a != b), min(len(rendered), len(wanted)))
        raise InputError(
            f"a chat is not written as Llama-3's: from character {at} on {rendered[at : at + 40]!r} in place of {wanted[at : at + 40]!r}"
        )
    return "a chat of three turns is written as Llama-3's" + ("" if rendered == wanted else ", after a system turn of the template's own")


def _render(text: str) -> str:
    """By transformers, whose templates may use more than Jinja's own words; it wants a tokenizer for that, and any will do."""
    import tokenizers as hf
    import transformers

    anyone = transformers.PreTrainedTokenizerFast(tokenizer_object=hf.Tokenizer(hf.models.BPE()), bos_token=BEGIN, eos_token=END)
    return _read(
        "the chat template", lambda: anyone.apply_chat_template(CHAT, chat_template=text, tokenize=False, add_generation_prompt=True)
    )


def _is_llama_3(seen: Directory) -> bool:
    """By the tokenizer, and where that cannot be read as one believes who looks at the template alone."""
    try:
        return HEADER in seen.tokenizer.special
    except InputError:
        return True


def _ends_turns(seen: Directory) -> bool:
    try:
        return seen.tokenizer.special.get(TURN_END, -1) in _ids((seen.generation or {}).get("eos_token_id"))
    except InputError:
        return False


def generation(seen: Directory) -> str:
    """generation_config.json ends a text and a turn, and its settings do not contradict each other."""
    found = seen.generation
    if found is None:
        raise InputError("there is no generation_config.json: readers take config.json's end tokens alone")
    against = configs.contradictions(found)
    if against:
        raise InputError(f"{', '.join(against)} without do_sample: they would do nothing, and transformers refuses to save them")
    special = _or_skip(lambda: seen.tokenizer).special
    if HEADER not in special:
        raise Skipped("the vocabulary is not Llama-3's, so its end tokens are others")
    wanted = [END, TURN_END] if seen.template else [END]
    ends = _ids(found.get("eos_token_id"))
    absent = [token for token in wanted if special.get(token) not in ends]
    if absent:
        raise InputError(
            f"eos_token_id is {ends}, without {' and '.join(f'{token} ({special.get(token)})' for token in absent)}: answers would run on"
        )
    if special.get(BEGIN) not in (None, *_ids(found.get("bos_token_id"))):
        raise InputError(f"bos_token_id is {found.get('bos_token_id')}, but {BEGIN} is {special[BEGIN]}")
    return f"ends on {' and '.join(f'{token} ({special[token]})' for token in wanted)}"


# ── words for people ─────────────────────────────────────────────────────────────────────────────────────────────


def licence(seen: Directory) -> str:
    """The duties of the Llama licences, where the directory shows that it descends from one."""
    _check_unchanged(seen)
    terms = _terms(seen)
    if terms is None:
        if "descent" not in seen.provenance:
            raise Skipped("nothing in this directory says that it descends from Llama, and nothing that it does not")
        licences.check_name_of_exempt(seen.name)
        return f"no Llama parent, {seen.provenance['descent'].get('how')}: the Llama licences ask nothing of it"
    if seen.is_metas:
        raise Skipped(f"it is Meta's own model, by its name {lineage.hub_name(seen.path)}: the duties are of those who pass it on")
    missing = []
    found = licences.licence_file(seen.path)
    if found is None or licences.llama_version(found) is None:
        missing.append("a copy of the licence (LICENSE)" if found is None else f"{found.name} is no Llama community licence")
    if licences.policy_file(seen.path) is None:
        missing.append("the use policy (USE_POLICY.md)")
    notice = licences.notice_file(seen.path)
    if notice is None or not _holds(notice, terms.notice):
        missing.append(f'the attribution "{terms.notice}" in a text file {licences.NOTICE}')
    card = seen.path / CARD
    if not card.is_file() or not _holds(card, terms.built_with):
        missing.append(f'"{terms.built_with}" in {CARD}')
    if not re.match(terms.pattern, seen.name):
        missing.append(f"a name that begins with {terms.begins}: it is {seen.name!r}")
    if missing:
        raise InputError(f"the {terms.title} asks for what is not there: {'; '.join(missing)}")
    return f'{terms.title}: licence, use policy, attribution, "{terms.built_with}" and name are as it asks'


def _check_unchanged(seen: Directory) -> None:
    """Files that a release has copied word for word must still be so."""
    for name, told in (seen.provenance.get("verbatim") or {}).items():
        path = seen.path / name
        if not path.is_file() or manifest.file_hash(path) != told:
            raise InputError(f"{name} is not, byte for byte, the parent's any more: copy it again")


def _terms(seen: Directory) -> Terms | None:
    """Which Llama licence the directory is under, by all that it shows; None where it shows none."""
    if "descent" in seen.provenance:
        version = str(seen.provenance["descent"].get("licence") or "").removeprefix("llama")
        return licences.TERMS.get(version)
    found = licences.licence_file(seen.path)
    version = licences.llama_version(found) if found else None
    if version is None:
        version = _version_of_card(seen)
    if version is None and _has_metas_vocabulary(seen):  # that of Llama 3, 3.1, 3.2 and 3.3 alike
        raise InputError(
            "the tokenizer is Meta's, which is under a Llama licence, but no file and no card here names one: add the parent's"
        )
    if version is not None and version not in licences.TERMS:
        raise Skipped(f"it is under the licence of Llama {version}, whose duties openko does not know")
    return licences.TERMS.get(version)


def _version_of_card(seen: Directory) -> str | None:
    try:
        card = seen.front_matter
    except InputError:
        return None
    for said in (str(card.get("license")), str(card.get("license_name"))):
        if found := re.fullmatch(r"llama-?(\d(?:\.\d)?)", said.lower()):
            return found[1]
    for parent in seen.parents:
        if found := re.search(r"meta-llama/(?:Meta-)?Llama-(\d(?:\.\d)?)-", parent):
            return found[1]
    return None


def _has_metas_vocabulary(seen: Directory) -> bool:
    try:
        return seen.tokenizer.special.get(BEGIN) == lineage.META_FIRST_SPECIAL
    except InputError:
        return False


def _holds(path: Path, words: str) -> bool:
    return words in " ".join(path.read_text(encoding="utf-8", errors="replace").split())


def card(seen: Directory) -> str:
    """The model card's front matter is read by the Hub, and names licence and parents."""
    fields = seen.front_matter
    said = fields.get("license")
    if not isinstance(said, str) or not said.strip():
        raise InputError(f"the front matter of {CARD} names no license")
    if said == "other" and not fields.get("license_name"):
        raise InputError(f"the front matter of {CARD} says license: other, without license_name and license_link")
    if terms_of(seen) is not None and not seen.is_metas and not seen.parents:
        raise InputError(f"the front matter of {CARD} names no base_model, though the model descends from Llama")
    named = [name for name in ("language", "base_model", "library_name", "pipeline_tag") if fields.get(name)]
    return f"license {fields.get('license_name') or said}{'; it names ' + ', '.join(named) if named else ''}"


def terms_of(seen: Directory) -> Terms | None:
    """Which Llama licence a directory shows that it is under; None where it shows none."""
    try:
        return _terms(seen)
    except (Skipped, InputError):
        return None


CHECKS: dict[str, Callable[[Directory], str]] = {
    "loadable": loadable, "rope": rope, "dtype": dtype, "finite": finite, "tensors": tensors, "tokenizer": tokenizer,
    "special_tokens": special_tokens, "template": template, "generation": generation, "licence": licence, "card": card,
}  # fmt: skip


def _read(what: str, find: Callable):
    """Whatever other people's files make a reader raise, as the one error that names them."""
    try:
        return find()
    except InputError:
        raise
    except Exception as problem:
        raise InputError(f"{what} cannot be read ({type(problem).__name__}: {' '.join(str(problem).split())})") from None


def _or_skip(find: Callable):
    """What another check reports as its own fault is a reason to skip here."""
    try:
        return find()
    except InputError as problem:
        raise Skipped(f"cannot be told: {problem}") from None


def _ids(value) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _content(token) -> str | None:
    """A token of tokenizer_config.json, which is a string or the fields of an AddedToken."""
    return token.get("content") if isinstance(token, dict) else token


def _json(path: Path) -> dict:
    found = _read(str(path), lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not fields")
    return found
