"""The one dial: a profile is a frozen dataclass that says what to train, on which mesh, with which budget.

Nothing else in openko asks "where am I?". Sizes, schedules and kernels differ between a laptop and a v5e-256
only through the values below.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from openko.errors import InputError
from openko.rope import Llama3Scaling, Rope


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape and numbers of a Llama, in Hugging Face's names. Nothing has a silent default where models differ."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope: Rope
    max_position_embeddings: int
    tie_word_embeddings: bool
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self):
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            raise InputError(f"head_dim must be even to be rotated in pairs, found {self.head_dim}")


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """Devices along each axis: data (copies), fsdp (weights cut up, gathered when used), tensor (heads, mlp)."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How the training step is computed; none of it changes what is learned, up to rounding.

    attention: a key of openko.attention.IMPLEMENTATIONS. remat: a key of openko.llama.REMAT_POLICIES.
    unroll: layers per step of the scan.
    loss_chunk: positions of the sequence whose logits exist at once.
    param_dtype: bf16 parameters are rounded stochastically after each update, for an update of 1e-5 on a weight near
    0.02 is below half a bf16 step and would always be lost. moment_dtype: of AdamW's moments.
    """

    attention: str
    remat: str
    unroll: int
    loss_chunk: int
    param_dtype: str
    compute_dtype: str
    moment_dtype: str


OPTIMIZERS, SCHEDULES = ("adamw", "adafactor"), ("cosine", "wsd")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run. All schedules are counted in optimizer steps.

    optimizer: "adamw", or "adafactor", which keeps a row and a column in place of a second moment and no first one.
    schedule: "cosine" falls from the peak to the final rate over all steps after the warm-up; "wsd" (warm-up, stable,
    decay: arXiv 2404.06395) stays at the peak and falls in a straight line over the last `decay_steps`, so that a run
    can be made longer from any checkpoint before the fall.
    initial_learning_rate: where the warm-up begins: 0 for a new run; the last rate of an earlier run when a model is
    warmed up again (re-warming: arXiv 2403.08763).
    z_loss: times the mean square of the log-normaliser, added to the loss (PaLM, arXiv 2204.02311: 1e-4).
    accumulate: the batch is computed in that many parts, one after the other; the result is the same.
    within_documents: a token sees its own document only, and positions count from the document's start; without it, a
    row of packed documents is read as one text.
    """

    steps: int
    batch_size: int  # sequences per optimizer step, over all devices
    sequence_length: int
    peak_learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    schedule: str = "cosine"
    decay_steps: int = 0
    initial_learning_rate: float = 0.0
    optimizer: str = "adamw"
    weight_decay: float = 0.1
    adam_b1: float = 0.9
    adam_b2: float = 0.95
    adam_eps: float = 1e-8
    clip_norm: float = 1.0
    z_loss: float = 0.0
    accumulate: int = 1
    within_documents: bool = True
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "batch_size", "sequence_length", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, found {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, found {self.schedule!r}")
        if (self.schedule == "wsd") != (self.decay_steps > 0):
            raise InputError(f"decay_steps ({self.decay_steps}) is the length of the fall in schedule 'wsd', and of no other")
        if not 0 <= self.warmup_steps <= self.steps - max(1, self.decay_steps):
            raise InputError(f"warmup_steps ({self.warmup_steps}) and decay_steps ({self.decay_steps}) do not fit into {self.steps} steps")
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} cannot be computed in {self.accumulate} equal parts (accumulate)")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step


@dataclass(frozen=True, kw_only=True)
class Saving:
    """When checkpoints are written, and where they survive the machine.

    A checkpoint is written every `steps` optimizer steps and whenever the last one is `minutes` old. `keep` complete
    ones stay. directory: the place that outlives a session of this profile's machine; empty: beside the model that is
    made. limit_gb: what that place holds by its rules, where the file system does not tell (a quota).
    """

    steps: int = 250
    minutes: float = 30
    keep: int = 2
    directory: str = ""
    limit_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class VectorScale:
    """How much of the chat vector each part of a model receives: λ × its number here.

    embed: ordinary rows of the embedding and of lm_head. special: how the rows of the chat format's special tokens
    (headers, <|eot_id|>) are made. "merge": as the rest, target + λ × embed × (chat − base). "transplant": they are the
    chat model's own, for base and target never trained them. "keep": they are the target's own. <|begin_of_text|> and
    <|end_of_text|> are always as the rest.
    """

    attention: float = 1.0
    mlp: float = 1.0
    norm: float = 1.0
    embed: float = 1.0
    special: str = "merge"


@dataclass(frozen=True, kw_only=True)
class ModelNames:
    """What the models of the road are called; the small ones say that they are small.

    koen, koen_merged: the bilingual sibling, and its sum with the chat vector.
    control: a Korean model of the same size and budget from fresh weights; None where nobody would pay for it.
    """

    base: str
    chat: str
    continued: str
    merged: str
    koen: str
    koen_merged: str
    control: str | None = None


TINY_NAMES = ModelNames(
    base="tiny-llama3", chat="tiny-llama3-instruct", continued="tiny-llama3-open-ko",
    merged="tiny-llama3-open-ko-instruct-preview", koen="tiny-llama3-koen", koen_merged="tiny-llama3-koen-instruct-preview",
    control="tiny-ko-from-scratch",
)  # fmt: skip
CARD_NAMES = ModelNames(
    base="Meta-Llama-3-8B", chat="Meta-Llama-3-8B-Instruct", continued="Llama-3-Open-Ko-8B",
    merged="Llama-3-Open-Ko-8B-Instruct-preview", koen="Llama-3-KoEn-8B-preview", koen_merged="Llama-3-KoEn-8B-Instruct-preview",
)  # fmt: skip
ONE_BILLION_NAMES = ModelNames(
    base="Llama-3.2-1B", chat="Llama-3.2-1B-Instruct", continued="Llama-3.2-Open-Ko-1B",
    merged="Llama-3.2-Open-Ko-1B-Instruct-preview", koen="Llama-3.2-KoEn-1B", koen_merged="Llama-3.2-KoEn-1B-Instruct-preview",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One size of the whole road.

    tokenizer: "llama-3" or "tiny" (own BPE with Llama-3's pre-tokenizer, trained in the run).
    pretraining, chat_tuning: Meta's part of the road, rehearsed at small size; None where released weights are used.
    continued: the continued pretraining on Korean that makes Open-Ko.
    korean_in_base: the share of Korean tokens in pretraining (Llama-3: about 5% is not English, Meta's blog).
    korean_of_base: the corpus source they come from; another kind of text than most of what Open-Ko learns later.
    korean_in_tokenizer: the share of Korean in the text that makes the tiny tokenizer, chosen so that Korean costs as
    many bytes per token as in the real one (3.6 against 3.7 on the held-out text, notebook 01).
    chat_vector_lambda: λ of the chat vector; chat_vector_parts: what of it each part receives.
    english_in_koen: shares of English in the mixtures that notebook 08 compares, each trained like `continued`; the last is
    KoEn's. No card says what the published KoEn had.
    """

    name: str
    hardware: str
    platform: str  # "cpu", "tpu" or "gpu": which of jax's backends it is meant for
    model: LlamaConfig
    tokenizer: str
    mesh: MeshShape
    step: StepConfig
    pretraining: Training | None
    chat_tuning: Training | None
    continued: Training
    chip: str = ""  # a key of openko.hardware.CHIPS, where it is known
    saving: Saving
    export_dtype: str  # of the weights in the model directory that a run ends in
    korean_in_base: float = 0.0
    korean_of_base: str = ""
    korean_in_tokenizer: float = 0.0
    chat_vector_lambda: float = 1.0
    chat_vector_parts: VectorScale = VectorScale()
    english_in_koen: tuple[float, ...] = ()
    corpus: str = "laptop"  # the recipe of its text (openko.corpus.recipe)
    corpus_bytes: int | None  # of each language, at most; None: all
    standin_vocab_size: int  # of the tokenizer that stands in for Llama-2-Ko's (46,336 pieces)
    names: ModelNames


def changed(training: Training, changes: Iterable[str]) -> Training:
    """A run with other values for some fields: ["steps=100", "schedule=wsd", …]."""
    types = {field.name: type(getattr(training, field.name)) for field in dataclasses.fields(training)}
    values = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in types:
            raise InputError(f"--set {change}: write NAME=VALUE, with NAME one of {', '.join(types)}")
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if types[name] is bool else types[name](text)
        except (ValueError, KeyError):
            raise InputError(f"--set {change}: {name} must be a {types[name].__name__}, found {text!r}") from None
    return dataclasses.replace(training, **values)


def resized(profile: Profile, training: Training, mesh: MeshShape | None = None) -> Profile:
    """The profile with this training in place of its continued one, and on another mesh if one is given.

    Where a device gets more tokens than in the profile itself, remat "attention" becomes "full": what it keeps grows with them, and
    was reckoned for the profile's.
    """
    made = dataclasses.replace(profile, continued=training, mesh=mesh or profile.mesh)
    if made.step.remat == "attention" and _tokens_per_device(made) > _tokens_per_device(profile):
        return dataclasses.replace(made, step=dataclasses.replace(made.step, remat="full"))
    return made


def _tokens_per_device(profile: Profile) -> float:
    return profile.continued.tokens_per_step / profile.continued.accumulate / (profile.mesh.data * profile.mesh.fsdp)


def mesh_from(text: str) -> MeshShape:
    """ "data=2,fsdp=4" -> MeshShape; an axis that is not named is 1."""
    axes = {}
    for entry in text.split(","):
        name, _, size = entry.partition("=")
        if name not in ("data", "fsdp", "tensor") or name in axes or not size.isdigit() or int(size) < 1:
            raise InputError(f"--mesh {text}: write AXIS=N with axes data, fsdp and tensor, such as data=2,fsdp=4")
        axes[name] = int(size)
    return MeshShape(**axes)


def fingerprint(value) -> str:
    """Sixteen hex digits that change when any field of a dataclass (or plain JSON value) does."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def plain(value):
    """A dataclass as nested dicts, anything else as it is."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


LLAMA_3_ROPE = Rope(theta=500_000.0)

# Sources: the config.json files that Meta published, as listed in their model cards.
MODELS = {
    "llama-3-8b": LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, rope=LLAMA_3_ROPE, max_position_embeddings=8192, tie_word_embeddings=False,
    ),
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131_072, tie_word_embeddings=True,
        rope=Rope(theta=500_000.0, scaling=Llama3Scaling(
            factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)),
    ),
    "tiny-llama3": LlamaConfig(
        vocab_size=4096, hidden_size=128, intermediate_size=352, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, rope=LLAMA_3_ROPE, max_position_embeddings=4096, tie_word_embeddings=True,
        initializer_range=0.088,  # about 1 / sqrt(hidden_size); with 0.02 so narrow a model idles at unigram statistics
    ),
    "smoke-llama3": LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, rope=LLAMA_3_ROPE, max_position_embeddings=4096, tie_word_embeddings=True,
    ),
}  # fmt: skip

CPU_STEP = StepConfig(
    attention="blocked", remat="none", unroll=64, loss_chunk=64,
    param_dtype="float32", compute_dtype="float32", moment_dtype="float32",
)  # fmt: skip
SMALL_TPU_STEP = StepConfig(
    attention="splash", remat="full", unroll=1, loss_chunk=512,
    param_dtype="bfloat16", compute_dtype="bfloat16", moment_dtype="bfloat16",
)  # fmt: skip
POD_STEP = dataclasses.replace(SMALL_TPU_STEP, param_dtype="float32", moment_dtype="float32")
GPU_STEP = dataclasses.replace(POD_STEP, attention="cudnn")

# What carries over at this size (docs/log.md): the MLPs, norms and special tokens' rows. The vector's ordinary rows of the
# embedding cost Korean most, and its attention adds cost without ending more turns.
TINY_PARTS = VectorScale(attention=0.0, embed=0.0, special="transplant")

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke", hardware="2 CPU cores, for tests", platform="cpu", model=MODELS["smoke-llama3"], tokenizer="tiny",
            mesh=MeshShape(), step=CPU_STEP, corpus_bytes=300_000, names=TINY_NAMES, standin_vocab_size=8_192,
            korean_in_base=0.05, korean_of_base="korean-rnd-regs-mcp", korean_in_tokenizer=0.12, chat_vector_lambda=2.0,
            chat_vector_parts=TINY_PARTS, english_in_koen=(0.5,),
            pretraining=Training(steps=12, batch_size=4, sequence_length=128, peak_learning_rate=3e-3,
                                 final_learning_rate=3e-4, warmup_steps=4),
            chat_tuning=Training(steps=8, batch_size=4, sequence_length=128, peak_learning_rate=1e-3,
                                 final_learning_rate=1e-4, warmup_steps=2, seed=1),
            continued=Training(steps=12, batch_size=4, sequence_length=128, peak_learning_rate=2e-3,
                               final_learning_rate=2e-4, warmup_steps=4, seed=2),
            saving=Saving(steps=8), export_dtype="float32",
        ),
        # adam_eps: with tied weights every word's row is in every step, and at 1e-8 Adam moves the rows of words that
        # never occur (Korean ones in English text, <|eot_id|> in Korean) as far as all others. docs/log.md has the
        # figures: less English forgotten, better Korean, and a chat vector that carries over.
        Profile(
            name="laptop", hardware="2 CPU cores, 4 GB", platform="cpu", model=MODELS["tiny-llama3"], tokenizer="tiny",
            mesh=MeshShape(), step=CPU_STEP, corpus_bytes=2_000_000, names=TINY_NAMES, standin_vocab_size=46_336,
            korean_in_base=0.05, korean_of_base="konlpy", korean_in_tokenizer=0.12, chat_vector_lambda=2.25,
            chat_vector_parts=TINY_PARTS, english_in_koen=(0.3, 0.1),
            pretraining=Training(steps=500, batch_size=4, sequence_length=256, peak_learning_rate=5e-3, adam_eps=1e-5,
                                 final_learning_rate=5e-4, warmup_steps=50),
            chat_tuning=Training(steps=200, batch_size=4, sequence_length=256, peak_learning_rate=1e-3, adam_eps=1e-4,
                                 final_learning_rate=1e-4, warmup_steps=20, seed=1),
            continued=Training(steps=1150, batch_size=4, sequence_length=256, peak_learning_rate=5e-3, adam_eps=1e-5,
                               final_learning_rate=5e-4, warmup_steps=100, seed=2),
            saving=Saving(steps=250), export_dtype="float32",
        ),
        Profile(
            name="gpu-1", hardware="one GPU, 80 GB", platform="gpu", model=MODELS["llama-3.2-1b"], tokenizer="llama-3",
            mesh=MeshShape(), step=GPU_STEP, corpus_bytes=2_000_000_000, names=ONE_BILLION_NAMES,
            standin_vocab_size=46_336, pretraining=None, chat_tuning=None, english_in_koen=(0.05, 0.1, 0.5, 0.25),
            continued=Training(steps=4_000, batch_size=4, sequence_length=4096, peak_learning_rate=5e-5,
                               final_learning_rate=1e-5, warmup_steps=200),
            saving=Saving(), export_dtype="bfloat16",
        ),
        Profile(
            name="colab-v5e-1", hardware="TPU v5e-1 (Colab), 16 GB", platform="tpu", chip="v5e", model=MODELS["llama-3.2-1b"],
            tokenizer="llama-3", mesh=MeshShape(), step=SMALL_TPU_STEP,
            corpus_bytes=2_000_000_000, names=ONE_BILLION_NAMES,
            standin_vocab_size=46_336, pretraining=None, chat_tuning=None, english_in_koen=(0.05, 0.1, 0.5, 0.25),
            continued=Training(steps=4_000, batch_size=4, sequence_length=4096, peak_learning_rate=5e-5,
                               final_learning_rate=1e-5, warmup_steps=200),
            # A free Google Drive: 15 GB, and two checkpoints of 7.4 GB.
            saving=Saving(steps=1_000, minutes=60, keep=1, directory="/content/drive/MyDrive/openko", limit_gb=15), export_dtype="bfloat16",
        ),
        Profile(
            name="kaggle-v5e-8", hardware="TPU v5e-8 (Kaggle), 8 × 16 GB", platform="tpu", chip="v5e", model=MODELS["llama-3-8b"],
            tokenizer="llama-3", mesh=MeshShape(fsdp=8), step=SMALL_TPU_STEP,
            corpus_bytes=2_000_000_000, names=CARD_NAMES,
            standin_vocab_size=46_336, pretraining=None, chat_tuning=None, english_in_koen=(0.05, 0.1, 0.5, 0.25),
            continued=Training(steps=4_000, batch_size=8, sequence_length=2048, peak_learning_rate=5e-5,
                               final_learning_rate=1e-5, warmup_steps=200),
            # Kaggle keeps 20 GB of a session's output, and one checkpoint of 8B with two bf16 moments has 48 GB: the
            # run asks for a bucket (--checkpoint-dir gs://…) at the start and not after nine hours.
            saving=Saving(steps=1_000, minutes=120, keep=1, directory="/kaggle/working/checkpoints", limit_gb=20), export_dtype="bfloat16",
        ),
        # The card: v5e-256, context 8k, 17.7B tokens. 256 × 8192 tokens a step make 8,440 steps. The card gives no
        # learning rate: AdamW, weight decay 0.1, cosine 5e-5 → 1e-5 and 1-2k steps of warm-up are the author's
        # earlier recipe for Llama-2-Ko (its training configuration, EasyLM fork).
        Profile(
            name="v5e-256", hardware="TPU v5e-256, 256 × 16 GB", platform="tpu", chip="v5e", model=MODELS["llama-3-8b"],
            tokenizer="llama-3", mesh=MeshShape(fsdp=256), step=dataclasses.replace(POD_STEP, remat="attention"),
            corpus="open-ko", corpus_bytes=None, names=CARD_NAMES,
            standin_vocab_size=46_336, pretraining=None, chat_tuning=None,
            continued=Training(steps=8_440, batch_size=256, sequence_length=8192, peak_learning_rate=5e-5,
                               final_learning_rate=1e-5, warmup_steps=1_000),
            saving=Saving(steps=250), export_dtype="bfloat16",
        ),
    )
}  # fmt: skip

# KoEn at full size: the card's Korean tokens, and English ones that make a fifth of all (recipe koen: English Wikipedia). No card gives a
# share: this one is a choice. arXiv 2403.08763 studies how much of the old text must be seen again, from English to German among others.
POD = PROFILES["v5e-256"]
PROFILES["v5e-256-koen"] = dataclasses.replace(
    POD, name="v5e-256-koen", corpus="koen", english_in_koen=(0.2,), continued=dataclasses.replace(POD.continued, steps=10_550)
)


def get(name: str) -> Profile:
    """The profile called `name`."""
    if name not in PROFILES:
        raise InputError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
