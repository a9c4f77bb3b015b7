"""Which RoPE a model was trained with, from its weights and text alone; then what is wrong with its config and rows.

The search goes from what shows most to what shows least, on paired losses: the same tokens under every hypothesis.
Wrong rows are a cliff (whole nats), a wrong θ is a bowl (hundredths), a scaling lies between. After the search, every
change of one thing is tried again at the place that was found. What the losses do not tell apart is undetermined.
"""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from openko import tokenizers
from openko.errors import InputError
from openko.progress import scaled
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import faults, layouts, windows
from openko.rope_lab.directory import READERS_DEFAULT_THETA, ModelDirectory, open_directory
from openko.rope_lab.layouts import Layout
from openko.rope_lab.reading import Hypothesis, Reader, flops_per_second

UNDETERMINED, OK = "undetermined", "ok"

# θ of models that many people use: Llama-2; SmolLM2 and DeepSeek-Coder; Llama-3; Code Llama and Qwen2; Yi; Yi-200K.
COMMON_THETAS = (1e4, 1e5, 5e5, 1e6, 5e6, 1e7)
PUBLISHED_SCALINGS = (faults.LLAMA_3_1, replace(faults.LLAMA_3_1, factor=32.0))  # Llama-3.1 and Llama-3.2
SMALL = 20_000_000  # parameters

BLOCK = 32  # neighbouring tokens are not independent: spreads are taken over blocks of them
SURE, CLEAR = 4.0, 0.003  # a difference counts from this many standard errors and nats per token on
COPIES = 0.3  # a model that reads a passage so many nats per token better the second time copies
SHARP = 8.0  # standard errors on both sides from which a bowl can be looked at more closely
DECADE = 16  # steps of θ from one power of ten to the next
LOWEST, HIGHEST = 1e2, 1e9  # where the search for θ ends
SAME, OTHER = 1.5, 1.8  # θ within the first factor agree; beyond the second they differ; between them, nobody knows


@dataclass
class Evidence:
    """Every hypothesis that was tried and its losses, fp64 [rows, blocks]; short and long windows apart."""

    reader: Reader
    windows: windows.Windows
    long: dict[Hypothesis, np.ndarray] = field(default_factory=dict)
    short: dict[Hypothesis, np.ndarray] = field(default_factory=dict)

    def read(self, hypotheses: Sequence[Hypothesis], *, on: str = "long", what: str) -> None:
        """Losses of those that were not tried yet."""
        known = getattr(self, on)
        new = [h for h in dict.fromkeys(hypotheses) if h not in known]
        if new:
            losses = self.reader.losses(getattr(self.windows, on), new, what=what)
            known |= zip(new, losses.reshape(*losses.shape[:2], -1, BLOCK).mean(axis=-1), strict=True)

    def losses(self, hypothesis: Hypothesis, on: str = "long") -> np.ndarray:
        """fp64 [blocks]: those that count. The second reading of a passage does if the model copies."""
        losses = getattr(self, on)[hypothesis]
        return losses if on == "short" else losses[self._counts()]

    def running(self, hypothesis: Hypothesis) -> np.ndarray:
        """fp64 [blocks] of the long windows of running text alone."""
        return self.long[hypothesis][0::2]

    def _counts(self) -> np.ndarray:
        best = min(self.long.values(), key=lambda rows: rows[0::2].mean())
        half, counts = best.shape[1] // 2, np.ones(best.shape, bool)
        counts[1::2, half:] = best[1::2, :half].mean() - best[1::2, half:].mean() > COPIES
        return counts

    def best(self, hypotheses: Sequence[Hypothesis], on: str = "long") -> Hypothesis:
        return min(hypotheses, key=lambda h: self.losses(h, on).mean())

    def excess(self, worse: Hypothesis, better: Hypothesis, on: str = "long") -> tuple[float, float]:
        """Mean of the paired difference in nats per token, and how many standard errors it is from nothing."""
        apart = (self.losses(worse, on) - self.losses(better, on)).ravel()
        error = apart.std(ddof=1) / math.sqrt(len(apart))
        return float(apart.mean()), float(apart.mean() / max(error, 1e-12))

    def beaten(self, worse: Hypothesis, better: Hypothesis, on: str = "long") -> bool:
        """Whether the first is read worse beyond doubt."""
        nats, errors = self.excess(worse, better, on)
        return nats > CLEAR and errors > SURE


@dataclass(frozen=True, kw_only=True)
class Theta:
    """low and high: a 99% interval, 0 and inf where the bowl has no such side.

    near: the same from the first half of the windows alone; None where it was not looked at.
    steady: the quarters of the windows do not contradict each other.
    """

    estimate: float
    low: float
    high: float
    near: tuple[float, float] | None = None
    steady: bool = True

    @property
    def determined(self) -> bool:
        """Within a factor of two on both sides."""
        return self.steady and self.high < 2 * self.estimate and self.low > self.estimate / 2

    @property
    def nearest(self) -> float:
        """The θ in common use that is nearest by ratio."""
        return min(COMMON_THETAS, key=self._ratio)

    def agrees(self, theta: float) -> bool | None:
        """Whether the weights were trained with this θ; None where the evidence does not say.

        Yes, if no other θ in common use could be meant as well. No, if the evidence points to a θ that somebody uses, and
        the first half of the windows, which a model is likelier to have been trained for, says no too.
        """
        if not self.determined:
            return None
        if self._plausible(theta):
            others = (other for other in COMMON_THETAS if max(other / theta, theta / other) > SAME)
            return None if any(map(self._plausible, others)) else True
        near_too = self.near is None or not self.near[0] <= theta <= self.near[1]
        return False if self._ratio(theta) >= OTHER and self._ratio(self.nearest) < OTHER and near_too else None

    def _plausible(self, theta: float) -> bool:
        return self._ratio(theta) <= SAME or self.low <= theta <= self.high

    def _ratio(self, theta: float) -> float:
        return max(theta / self.estimate, self.estimate / theta)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What weights and text say, whatever config.json does: the best hypothesis, and what of it is beyond doubt.

    first: the evidence of the search; evidence: that of the decision, the same or more text.
    scalings: the best one, and those that are not read worse beyond doubt.
    """

    first: Evidence
    evidence: Evidence
    best: Hypothesis
    theta: Theta
    layout_sure: bool
    scalings: tuple[Llama3Scaling | None, ...]

    @property
    def scaling_sure(self) -> bool:
        """Whether there is one; blocks that differ only beyond the windows need not be told apart."""
        return len({scaling is None for scaling in self.scalings}) == 1

    @property
    def sure(self) -> bool:
        return self.layout_sure and self.scaling_sure and self.theta.determined


def diagnose(directory: Path, *, text: Path | None = None, say: Callable[[str], None] = print) -> dict:
    """What is wrong with RoPE in a Hugging Face directory: verdict, evidence and the command that mends it.

    text: a UTF-8 file in the model's language in place of the built-in Korean and English, 10 KB or more.
    Keys of the answer: `verdict` (names of faults.FAULTS, or "ok", or "undetermined" alone), `theta`, `layout`,
    `scaling`, `losses` (every hypothesis with its mean loss, nats per token), `repair` (None where there is nothing to
    repair), `notes`.
    """
    model = open_directory(directory)
    return judge(model, search(model, text=text, say=say), text=text)


def search(model: ModelDirectory, *, text: Path | None = None, say: Callable[[str], None] = print) -> Findings:
    """Evidence from weights and text. What config.json says of scaling is tried as one hypothesis more."""
    if not (model.path / "tokenizer.json").is_file():
        raise InputError(f"{model.path} has no tokenizer.json: copy that of the base model into it; without text nothing can be diagnosed")
    texts = windows.built_in() if text is None else windows.read_text(text)
    parameters = sum(math.prod(info.shape) for info in model.tensors.info.values())
    small = parameters < SMALL
    tokenizer, reader = tokenizers.load(model.path), Reader(model, say=say)
    evidence = Evidence(reader, windows.make(model, tokenizer, texts, 3 if small else 1))
    _say_cost(model, evidence.windows, parameters, say)
    started = time.monotonic()
    own = (s for s in (model.written.old_scaling, model.written.new_scaling) if s is not None)
    scalings = tuple(dict.fromkeys((None, *PUBLISHED_SCALINGS, *(_in_proportion(model) if small else ()), *own)))
    # A large model's rows show whatever θ is, and a scaling that is clearly worse by decades of θ is not looked at more closely.
    ropes = (
        [Rope(theta=theta, scaling=s) for s in scalings for theta in COMMON_THETAS[:4]] if small else [Rope(theta=t) for t in (1e4, 5e5)]
    )
    layout = _find_layout(evidence, model, ropes)
    best = _simplest(evidence, model, _find_rope(evidence, layout, scalings, thorough=small))
    findings = _weigh(evidence, evidence, model, best, "long" if small else "short")
    if small and not findings.sure:
        # Where a reading costs little, those that are left are compared on up to four times the text.
        again = Evidence(reader, windows.make(model, tokenizer, texts, 12))
        again.read([*_bowl(evidence, best), *_rivals(evidence, model, best)], what="once more")
        findings = _weigh(evidence, again, model, best, "long")
    say(f"{len(evidence.short) + len(evidence.long)} hypotheses read in {time.monotonic() - started:.0f} s")
    return findings


def _in_proportion(model: ModelDirectory) -> list[Llama3Scaling]:
    """Blocks that nobody published, but that a small model of one's own may have; tried where a reading costs little."""
    context = model.config.max_position_embeddings
    return [replace(faults.LLAMA_3_1, original_max_position_embeddings=max(1, context // part)) for part in (8, 2)]


def _weigh(first: Evidence, evidence: Evidence, model: ModelDirectory, best: Hypothesis, on: str) -> Findings:
    others = [replace(best, layout=layout) for layout in layouts.possible(model.config) if layout != best.layout]
    evidence.read([best, *others], on=on, what="order of rows again")
    # Blocks that a larger model's search does not go through may still not be read better.
    unpublished = [replace(best, rope=replace(best.rope, scaling=scaling)) for scaling in _in_proportion(model)]
    evidence.read([best, *unpublished], what="other scalings")
    rivals = [rival for rival in _rivals(evidence, model, best) if not evidence.beaten(rival, best)]
    return Findings(
        first=first, evidence=evidence, best=best, theta=_estimate(evidence, best),
        layout_sure=all(evidence.beaten(other, best, on) for other in others),
        scalings=(best.rope.scaling, *(rival.rope.scaling for rival in rivals)),
    )  # fmt: skip


# ── the search ───────────────────────────────────────────────────────────────────────────────────────────────────


def _find_layout(evidence: Evidence, model: ModelDirectory, ropes: Sequence[Rope]) -> Layout:
    """The order of rows under which short text is read best, with the one of `ropes` that suits it."""
    tried = [Hypothesis(rope=rope, layout=layout) for layout in layouts.possible(model.config) for rope in ropes]
    evidence.read(tried, on="short", what="order of rows")
    return evidence.best(tried, on="short").layout


def _find_rope(evidence: Evidence, layout: Layout, scalings: Sequence[Llama3Scaling | None], *, thorough: bool) -> Hypothesis:
    """The best of the best θ under each scaling; no scaling is tried first."""
    unscaled = None
    for scaling in scalings:
        name = "θ" if scaling is None else f"θ with scaling {scaling.factor:g} from {scaling.original_max_position_embeddings}"
        start = Hypothesis(rope=Rope(theta=unscaled.rope.theta if unscaled else 1e5, scaling=scaling), layout=layout)
        best = _walk(evidence, start, name, rival=None if thorough else unscaled)
        unscaled = unscaled or best
    return evidence.best(list(evidence.long))


def _simplest(evidence: Evidence, model: ModelDirectory, best: Hypothesis) -> Hypothesis:
    """No scaling at all in place of one that hardly turns anything in this model's context."""
    if best.rope.scaling is None or _matters(model, best.rope, None):
        return best
    return evidence.best([h for h in evidence.long if h.layout == best.layout and h.rope.scaling is None])


def _walk(evidence: Evidence, start: Hypothesis, what: str, rival: Hypothesis | None = None) -> Hypothesis:
    """Downhill in θ: by decades until both neighbours are worse, then by half the step as long as the bowl is sharp.

    Given up after the decades if `rival` is read better beyond doubt.
    """
    best, step = start, DECADE
    while True:
        while True:
            around = [h for h in (_turned(best, -step), best, _turned(best, step)) if LOWEST <= h.rope.theta <= HIGHEST]
            evidence.read(around, what=what)
            better = evidence.best(around)
            if better == best:
                break
            best = better
        sharp = all(evidence.excess(h, best)[1] > SHARP for h in around if h != best)
        if (step < DECADE and not sharp) or step == 1 or (rival and evidence.beaten(best, rival)):
            return best
        step //= 2


def _turned(hypothesis: Hypothesis, steps: int) -> Hypothesis:
    """The same with a θ some steps higher on the scale of 10 ** (n / DECADE), so that up and down again is the same θ."""
    theta = float(f"{10 ** ((round(math.log10(hypothesis.rope.theta) * DECADE) + steps) / DECADE):.4g}")
    return replace(hypothesis, rope=replace(hypothesis.rope, theta=theta))


def _rivals(evidence: Evidence, model: ModelDirectory, best: Hypothesis) -> list[Hypothesis]:
    """Of each other scaling that would make a difference to this model, the hypothesis that is read best."""
    found: dict[Llama3Scaling | None, Hypothesis] = {}
    for h in evidence.long:
        if h.layout == best.layout and _matters(model, best.rope, h.rope.scaling):
            found[h.rope.scaling] = evidence.best([h, found.get(h.rope.scaling, h)])
    return list(found.values())


def _estimate(evidence: Evidence, found: Hypothesis) -> Theta:
    """Where the bowl of θ around `found` has its floor: a parabola through the nearest three, over resampled blocks.

    By running text alone: copying is done best with a θ below that of training (on a real model by a third and more).
    """
    bowl = _bowl(evidence, found)
    thetas = np.array([h.rope.theta for h in bowl])
    running = np.stack([evidence.running(h) for h in bowl])  # [thetas, rows, blocks]

    def of(part: np.ndarray) -> Theta:
        return _theta(thetas, part.reshape(len(bowl), -1))

    # Text longer than a model was trained on is read best with too high a θ, and the longer the higher.
    quarters = [of(part) for part in np.array_split(running, 4, axis=2)]
    steady = max(part.low for part in quarters) <= SAME * min(part.high for part in quarters)
    near = of(running[:, :, : running.shape[2] // 2])
    return replace(of(running), near=(near.low, near.high), steady=steady)


def _bowl(evidence: Evidence, found: Hypothesis) -> list[Hypothesis]:
    """All that differ from `found` in θ alone, by rising θ."""
    same = (h for h in evidence.long if h.layout == found.layout and h.rope.scaling == found.rope.scaling)
    return sorted(same, key=lambda h: h.rope.theta)


def _theta(thetas: np.ndarray, losses: np.ndarray) -> Theta:
    """losses [thetas, blocks], in the order of rising θ."""
    draw = np.random.default_rng(0).integers(0, losses.shape[1], (1000, losses.shape[1]))
    floors = _floor(np.log(thetas), losses[:, draw].mean(axis=-1))
    low, high = np.quantile(floors, 0.005, method="lower"), np.quantile(floors, 0.995, method="higher")
    middle = np.clip(_floor(np.log(thetas), losses.mean(axis=-1, keepdims=True))[0], np.log(thetas[0]), np.log(thetas[-1]))
    return Theta(estimate=float(np.exp(middle)), low=float(np.exp(low)), high=float(np.exp(high)))


def _floor(x: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Where each column of losses [points, samples] has its minimum, by the lowest point and its neighbours; ±inf at an edge."""
    lowest = losses.argmin(axis=0)
    inside = np.clip(lowest, 1, len(x) - 2)
    columns = np.arange(losses.shape[1])
    (a, b, c), (fa, fb, fc) = ((x[inside + d] for d in (-1, 0, 1)), (losses[inside + d, columns] for d in (-1, 0, 1)))
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    bend = left - right  # nothing where the three are equal
    floor = b - 0.5 * ((b - a) * left - (b - c) * right) / np.where(bend == 0, np.inf, bend)
    return np.where(lowest == 0, -np.inf, np.where(lowest == len(x) - 1, np.inf, floor))


# ── the judgement ────────────────────────────────────────────────────────────────────────────────────────────────


def judge(model: ModelDirectory, findings: Findings, *, text: Path | None = None) -> dict:
    """The config against the findings; the answer of `diagnose`. text: repeated in the command that repairs."""
    best, theta, written = findings.best, findings.theta, model.written
    notes = []
    if not findings.layout_sure:
        notes.append("the order of rows makes too little difference on this text to be told")
    if not theta.steady:
        notes.append("near and far positions ask for different θ: the text is perhaps longer than what the model was trained on")
    elif not theta.determined:
        notes.append("θ makes too little difference on this text to be told")
    if not findings.scaling_sure:
        notes.append("the scaling of frequencies makes too little difference on this text to be told")
    verdict = None if notes else _faults(model, findings)
    if not notes and verdict is None:
        notes.append("config.json is neither near enough to the evidence nor far enough from it")
    if written.old_theta is not None and (written.old_theta, written.old_scaling) != (written.new_theta, written.new_scaling):
        notes.append(f"readers before transformers 5 find θ {written.old_theta:g} and scaling {_plain(written.old_scaling)}")
    if len(findings.scalings) > 1 and findings.scaling_sure:
        notes.append(f"these scalings cannot be told apart on this text: {[_plain(s) for s in findings.scalings]}")
    if model.unknown:
        notes.append(f"config.json has fields that openko does not know: {', '.join(model.unknown)}")
    verdict = [UNDETERMINED] if verdict is None else verdict or [OK]
    losses = [_row(findings.first, h, on, on) for on in ("short", "long") for h in getattr(findings.first, on)]
    if findings.evidence is not findings.first:
        losses += [_row(findings.evidence, h, "long", "long, more text") for h in findings.evidence.long]
    low, high = (side if 0 < side < math.inf else None for side in (theta.low, theta.high))
    return {
        "verdict": verdict,
        "theta": {"config": written.new_theta, "estimate": theta.estimate, "low": low, "high": high, "nearest": theta.nearest},
        "layout": {"q": best.layout.q, "k": best.layout.k} if findings.layout_sure else {"q": None, "k": None},
        "scaling": {"config": _plain(written.new_scaling), "estimate": _plain(best.rope.scaling), "sure": findings.scaling_sure},
        "losses": losses,
        "repair": None if verdict in ([OK], [UNDETERMINED]) else _command(model.path.resolve(), text),
        "notes": notes,
    }


def _command(place: Path, text: Path | None) -> str:
    words = ["openko", "rope", "repair", str(place), "--out", f"{place}-repaired", *(["--text", str(text)] if text else [])]
    return shlex.join(words)


def _row(evidence: Evidence, hypothesis: Hypothesis, on: str, name: str) -> dict:
    rope, layout = hypothesis.rope, hypothesis.layout
    loss = float(evidence.losses(hypothesis, on).mean())
    return {"theta": rope.theta, "scaling": _plain(rope.scaling), "q": layout.q, "k": layout.k, "windows": name, "loss": loss}


def _plain(scaling: Llama3Scaling | None) -> dict | None:
    return None if scaling is None else asdict(scaling)


def _matters(model: ModelDirectory, rope: Rope, scaling: Llama3Scaling | None) -> bool:
    """Whether another scaling turns any pair by over half a turn somewhere in the model's context; if not, it hardly shows."""
    config = model.config
    apart = rope.inv_freq(config.head_dim) - replace(rope, scaling=scaling).inv_freq(config.head_dim)
    return bool(np.abs(apart).max() * config.max_position_embeddings > math.pi)


def _faults(model: ModelDirectory, findings: Findings) -> list[str] | None:
    """The faults by name, in the order of faults.FAULTS; None where config.json cannot be judged."""
    names, written, rope, theta = set(), model.written, findings.best.rope, findings.theta
    given = {t for t in (written.old_theta, written.new_theta) if t is not None}
    judged = {t: theta.agrees(t) for t in given or {READERS_DEFAULT_THETA}}
    if None in judged.values():
        return None
    if not all(judged.values()):
        names.add(faults.WRONG_THETA if given else faults.NO_THETA)
    if given and written.old_theta is None:
        names.add(faults.NO_OLD_THETA)
    for scaling in {written.new_scaling} if written.old_theta is None else {written.old_scaling, written.new_scaling}:
        if _matters(model, rope, scaling) and scaling not in findings.scalings:
            names |= ({faults.SPURIOUS} if scaling else set()) | ({faults.MISSING_SCALING} if rope.scaling else set())
        elif (scaling is None) != (rope.scaling is None):
            return None
    q, k = findings.best.layout.q, findings.best.layout.k
    if q != layouts.SOUND and k not in (layouts.SOUND, layouts.HEAD_COUNT):
        names.add(faults.INTERLEAVED)
    else:
        names |= {faults.Q_PERMUTED} if q != layouts.SOUND else set()
        names |= {layouts.SOUND: set(), layouts.HEAD_COUNT: {faults.HEAD_COUNT}}.get(k, {faults.K_PERMUTED})
    return [name for name in faults.FAULTS if name in names]


def _say_cost(model: ModelDirectory, texts: windows.Windows, parameters: int, say) -> None:
    tokens = texts.short[:, 1:].size * len(layouts.possible(model.config)) * 3 + texts.long[:, 1:].size * 13
    work, largest = 2 * parameters * tokens, max(math.prod(info.shape) for info in model.tensors.info.values())
    minutes = work / flops_per_second() / 60
    time_needed = f"{minutes:,.0f} minutes" if minutes > 1 else "less than a minute"
    weights = "".join(scaled(parameters)).replace("G", "B")  # as models are called
    products, room = (" ".join(scaled(value)) for value in (work, 4 * largest))
    say(
        f"{weights} parameters, read layer by layer on some {tokens:,} tokens: {products}FLOP, {time_needed} "
        f"at the speed of this device's products and more for attention; the largest tensor takes {room}B in fp32"
    )
