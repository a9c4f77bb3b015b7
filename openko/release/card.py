"""The model card: what a stranger must know before using a model, written from manifests and not from memory."""

from dataclasses import dataclass

import yaml

from openko import hardware
from openko.profiles import LlamaConfig
from openko.release import lineage
from openko.release.benchmarks import Benchmarks
from openko.release.lineage import Descent, Origin

LANGUAGES = {"ko": "Korean", "en": "English"}
PAPER = "[Chat Vector](https://arxiv.org/abs/2310.04799) (Huang et al.)"
# A sentence of each kind of model in the languages of its readers.
SUMMARY = {
    True: (
        "한국어와 영어로 대화하는 언어 모델입니다. 만든 과정은 아래에 모두 적혀 있습니다.",
        "A language model that talks in Korean and English. How it was made is told below, from the records of the making.",
    ),
    False: (
        "한국어와 영어 글을 잇는 언어 모델입니다. 대화 학습은 하지 않았습니다. 만든 과정은 아래에 모두 적혀 있습니다.",
        "A language model that continues Korean and English text. It was not taught to chat. How it was made is told below, from the "
        "records of the making.",
    ),
}
CHAT_CODE = """
messages = [{"role": "user", "content": "이순신 장군에 대해 설명해줘."}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
TEXT_CODE = """
inputs = tokenizer("대한민국의 수도는", return_tensors="pt", return_token_type_ids=False)
"""
CODE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

model_id = "{model_id}"  # a directory, or a name on the Hub
tokenizer = AutoTokenizer.from_pretrained(model_id)
model = AutoModelForCausalLM.from_pretrained(model_id, torch_dtype="auto")
{inputs}
outputs = model.generate(**inputs.to(model.device), max_new_tokens=256, do_sample=True, temperature=1.0, top_p=0.9)
print(tokenizer.decode(outputs[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is written from. chats: the model was taught to end its turns. licence: the Hub's id. repository: on the Hub,
    or empty. parents: names on the Hub, for `base_model`."""

    name: str
    author: str
    year: int
    licence: str
    repository: str
    parents: tuple[str, ...]
    config: LlamaConfig
    dtype: str
    chats: bool
    origin: Origin
    descent: Descent
    benchmarks: Benchmarks | None


def write(facts: Facts) -> str:
    """The text of README.md: front matter between lines of ---, then markdown."""
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        _built_with(facts),
        *SUMMARY[facts.chats],
        _details(facts),
        _method(facts),
        _benchmarks(facts),
    ]
    parts += [_usage(facts), _limits(facts), _citation(facts), _licence(facts)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _front_matter(facts: Facts) -> str:
    sources = _sources(facts.origin)
    languages = [code for code in LANGUAGES if code in {source["language"] for source in sources}] or list(LANGUAGES)
    datasets = sorted({source["dataset"] for source in sources if "dataset" in source})
    fields = {
        "language": languages, "license": facts.licence, "library_name": "transformers", "pipeline_tag": "text-generation",
        "model_name": facts.name, "tags": ["openko", "korean", *(["llama-3", "chat-vector"] if _is_merged(facts.origin) else ["llama-3"])],
    }  # fmt: skip
    if facts.descent.parent is None:
        fields["tags"] = [tag for tag in fields["tags"] if tag != "llama-3"]
    if facts.parents:
        fields["base_model"] = list(facts.parents)
    if datasets:
        fields["datasets"] = datasets
    return f"---\n{yaml.safe_dump(fields, allow_unicode=True, sort_keys=False)}---"


def _built_with(facts: Facts) -> str:
    """The licence wants it to be seen."""
    return f"**{facts.descent.parent.terms.built_with}**" if facts.descent.parent else ""


# ── sections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _details(facts: Facts) -> str:
    config = facts.config
    rows = {
        "Author": facts.author,
        "Parameters": f"{hardware.parameter_count(config):,}",
        "Architecture": f"Llama: {config.num_hidden_layers} layers, width {config.hidden_size:,}, {config.num_attention_heads} query and "
        f"{config.num_key_value_heads} key-value heads of {config.head_dim}",
        "Context": f"{config.max_position_embeddings:,} tokens",
        "RoPE": f"θ = {config.rope.theta:,.0f}, "
        + ("no scaling" if config.rope.scaling is None else f"frequencies scaled by {config.rope.scaling.factor:g} as in Llama-3.1"),
        "Vocabulary": f"{config.vocab_size:,}",
        "Weights": facts.dtype,
        "Made from": ", ".join(facts.parents) or "fresh weights: no parent",
    }
    table = "\n".join(f"| {name} | {value.replace('|', '&#124;')} |" for name, value in rows.items())
    return f"## Model details\n\n| | |\n|---|---|\n{table}"


def _method(facts: Facts) -> str:
    steps = [step for step in _steps(facts.origin) if step]
    if not steps:
        steps = [f"- **{facts.origin.name}** came without a record of its making: nothing can be told here."]
    return (
        "## How it was made\n\nEach line is read from the manifest that the step left behind; hashes are in `provenance.json`.\n\n"
        + "\n".join(steps)
    )


def _benchmarks(facts: Facts) -> str:
    if facts.benchmarks is None:
        return "## Benchmarks\n\nNot evaluated."
    return "## Benchmarks\n\n" + "\n".join(f"{line}." for line in facts.benchmarks.how) + "\n\n" + facts.benchmarks.markdown


def _usage(facts: Facts) -> str:
    inputs = (CHAT_CODE if facts.chats else TEXT_CODE).strip()
    code = CODE.format(model_id=facts.repository or facts.name, inputs=inputs).strip()
    ends = "Answers end on `<|end_of_text|>` or `<|eot_id|>`, which `generation_config.json` names both."
    return f"## Sample usage\n\n```python\n{code}\n```\n\n{ends}"


def _limits(facts: Facts) -> str:
    lines = ["The model says false things with confidence, and repeats what the texts it learned from got wrong or meant ill."]
    if facts.chats and _is_merged(facts.origin):
        lines.append(
            "It learned to chat from another model's weights, without Korean chats: it may answer in the wrong language, or stop late."
        )
    if not facts.chats:
        lines.append("It was not taught to follow instructions or to refuse; its chat template is there for those who will teach it.")
    lines.append("Nobody has tested its safety: test it for your use before you deploy it.")
    parameters = hardware.parameter_count(facts.config)
    if parameters < 100_000_000:
        lines.append(f"With {parameters:,} parameters it is a demonstration of the method; what it writes means nothing.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _citation(facts: Facts) -> str:
    key = "".join(c for c in facts.name.lower() if c.isascii() and c.isalnum()) or "model"
    url = f",\n  url = {{https://huggingface.co/{facts.repository}}}" if facts.repository else ""
    own = f"@misc{{{key},\n  title = {{{facts.name}}},\n  author = {{{facts.author}}},\n  year = {{{facts.year}}}{url}\n}}"
    llama = ""
    if facts.descent.parent is not None and facts.descent.parent.terms.hub == "llama3":
        llama = (
            "\n\n@misc{llama3modelcard,\n  title = {Llama 3 Model Card},\n  author = {AI@Meta},\n  year = {2024},\n"
            "  url = {https://github.com/meta-llama/llama3/blob/main/MODEL_CARD.md}\n}"
        )
    return f"## Citation\n\n```bibtex\n{own}{llama}\n```"


def _licence(facts: Facts) -> str:
    parent = facts.descent.parent
    if parent is None:
        return (
            f"## Licence\n\n{facts.licence}. No Llama parent ({facts.descent.how}), so the Llama licences ask nothing of it. What the "
            "texts it learned from allow is in the licences named above."
        )
    terms = parent.terms
    return (
        f"## Licence\n\n{terms.notice}\n\nThe licence is in [{parent.licence.name}]({parent.licence.name}), and "
        f"every use follows the Acceptable Use Policy in [{parent.policy.name}]({parent.policy.name}). Both are the parent's, to the byte."
    )


# ── the making ───────────────────────────────────────────────────────────────────────────────────────────────────


def _steps(origin: Origin) -> list[str]:
    """From the first parents to the model itself; a step that several descend from is told once."""
    found: list[str] = []
    for one in origin.models:
        found += [line for line in _steps(one) if line not in found]
    return [*found, *_step(origin)]


def _step(origin: Origin) -> list[str]:
    made = origin.manifest
    if made is None:
        state = {
            lineage.FOREIGN: "taken as it was",
            lineage.GONE: "no longer there to be read",
            lineage.CHANGED: "changed since it was used",
        }
        return [f"- **{origin.name}**: {state[origin.state]}."] if origin.role in lineage.MODELS else []
    recipe = made.recipe
    if "training" in recipe:
        return [_training(origin), *_data(origin)]
    if "method" in recipe and "scale" in recipe:
        return [_merge(origin)]
    if "repair" in recipe:
        repair = recipe["repair"]
        return [f"- **{origin.name}**: RoPE put right (θ = {repair['theta']:,.0f}); no weight changed by a bit, rows apart."]
    return [f"- **{origin.name}**: made by openko, code {made.code}."]


def _training(origin: Origin) -> str:
    recipe, facts = origin.manifest.recipe, origin.manifest.facts
    training = recipe["training"]
    start = next((one.name for one in origin.models if one.role == "start"), None)
    begins = f"continued from {start}" if start else "trained from fresh weights"
    tokens = training["steps"] * training["batch_size"] * training["sequence_length"]
    said = [
        f"{begins} on {tokens:,} tokens: {training['steps']:,} steps of {training['batch_size']} × {training['sequence_length']:,}",
        f"{training['optimizer']}, learning rate {training['peak_learning_rate']:g} → {training['final_learning_rate']:g} "
        f"({training['schedule']}, {training['warmup_steps']:,} steps of warm-up), seed {training['seed']}",
    ]
    if "precision" in recipe:
        weights, products, moments, _ = recipe["precision"]
        said.append(f"weights in {weights}, products in {products}, moments in {moments}")
    if "final_loss" in facts:
        said.append(f"loss at the end {facts['final_loss']:.3f} nats per token")
    return f"- **{origin.name}**: {'; '.join(said)}."


def _data(origin: Origin) -> list[str]:
    shares = origin.manifest.recipe.get("shares") or []
    return [line for number, one in enumerate(_of_role(origin, "data-")) for line in _shards(one, shares, number)]


def _shards(shards: Origin, shares: list, number: int) -> list[str]:
    share = f", share {shares[number]:g}" if len(shares) > 1 else ""
    if shards.manifest is None:
        return [f"  - data {shards.name}{share}: no longer there to be read."]
    facts, recipe = shards.manifest.facts, shards.manifest.recipe
    kind = (
        f"{recipe['chats']:,} generated chats, of which only the answers are learned"
        if "chats" in recipe
        else f"part {recipe.get('part', '')}"
    )
    counts = ", ".join(f"{facts[name]:,} {name}" for name in ("documents", "tokens") if name in facts)
    lines = [f"  - data {shards.name}{share}: {kind}; {counts}."]
    of_source = facts.get("sources") or {}
    for corpus in _of_role(shards, "corpus"):
        if corpus.manifest is None or "recipe" not in corpus.manifest.facts:
            continue
        for source in lineage.sources(corpus.manifest):
            told = of_source.get(source["name"])
            if of_source and not (told and told.get("documents")):
                continue
            some = f", {told['documents']:,} documents, {told['tokens']:,} tokens" if told else ""
            lines.append(f"    - {source['name']} ({source['reader']}, {source['language']}){some}; licence: {source['licence']}")
    return lines


def _merge(origin: Origin) -> str:
    recipe, facts = origin.manifest.recipe, origin.manifest.facts
    roles = {one.role: one.name for one in origin.models}
    scales = recipe["scale"]
    scale = (
        f"λ = {next(iter(scales.values())):g}"
        if len(set(scales.values())) == 1
        else ", ".join(f"λ of {part} = {v:g}" for part, v in scales.items())
    )
    norms = ""
    if "vector_norm" in facts and facts.get("target_norm"):
        norms = f"; the vector's norm is {facts['vector_norm'] / facts['target_norm']:.1%} of the target's"
    special = {
        "transplant": "; rows of the chat format's special tokens from the chat model",
        "keep": "; rows of the chat format's special tokens kept",
    }
    return (
        f"- **{origin.name}**: {roles.get('target', 'the target')} + λ ({roles.get('chat', 'the chat model')} − "
        f"{roles.get('base', 'the base')}), after {PAPER}; {scale}{special.get(recipe.get('special'), '')}{norms}. No Korean chat was used."
    )


def _of_role(origin: Origin, role: str) -> list[Origin]:
    return [one for one in origin.inputs if one.role.startswith(role)]


def _is_merged(origin: Origin) -> bool:
    made = origin.manifest
    return (made is not None and "method" in made.recipe and "scale" in made.recipe) or any(
        _is_merged(one) for one in origin.models if one.role in ("source", "model")
    )


def _sources(origin: Origin) -> list[dict]:
    """Of every corpus that any step learned from."""
    found = []
    for one in (*origin.inputs,):
        found += _sources(one)
    if origin.manifest is not None and isinstance(origin.manifest.facts.get("recipe"), dict):
        found += lineage.sources(origin.manifest)
    return found
