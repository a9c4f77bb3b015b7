"""RoPE put right: q_proj and k_proj in the order that Hugging Face readers expect, θ and scaling under both key styles."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openko import hf_weights, manifest
from openko.errors import InputError
from openko.progress import Progress
from openko.rope import Llama3Scaling, Rope
from openko.rope_lab import diagnosis, directory, layouts, rewrite
from openko.rope_lab.directory import ModelDirectory
from openko.rope_lab.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What `repaired` is to be told: θ and scaling as trained, and how the rows lie now."""

    theta: float
    scaling: Llama3Scaling | None
    layout: Layout


def cure(source: Path, *, theta: float | None = None, layout: Layout | None = None, text: Path | None = None, say=print) -> Cure:
    """What to repair, by the diagnosis; `theta` and `layout` are believed where they are given.

    Refused: a directory that is in order, and one whose diagnosis leaves something undetermined that was not told. Told
    both, nothing is read, and the scaling stays as config.json has it.
    """
    model = directory.open_directory(source)
    if theta is not None and not 1 < theta < math.inf:
        raise InputError(f"--theta must be a number above 1, found {theta!r}; Llama-3 has 500000")
    if theta is not None and layout is not None:
        return Cure(theta=theta, scaling=model.written.new_scaling, layout=layout)
    findings = diagnosis.search(model, text=text, say=say)
    answer = diagnosis.judge(model, findings)
    if answer["verdict"] == [diagnosis.OK] and theta is None and layout is None:
        raise InputError(f"{source}: nothing to repair: rows, θ and scaling are those that the weights were trained with")
    sure = (theta is not None or findings.theta.determined) and (layout is not None or findings.layout_sure) and findings.scaling_sure
    if not sure or (theta is None and answer["verdict"] == [diagnosis.UNDETERMINED]):
        raise InputError(
            f"{source}: {'; '.join(answer['notes'])}. If you know how it was trained, say so: --theta 500000 --layout half-split; "
            "or give longer text in the model's language: --text FILE"
        )
    found, says = findings.best.rope.scaling, model.written.new_scaling
    return Cure(
        theta=_trained_theta(source, model, findings.theta) if theta is None else theta,
        scaling=says if says in findings.scalings else found,
        layout=layout or findings.best.layout,
    )


def _trained_theta(source: Path, model: ModelDirectory, theta: diagnosis.Theta) -> float:
    """The config's own θ where it agrees, else the one in common use inside the interval, if there is only one."""
    agreeing = [t for t in (model.written.new_theta, model.written.old_theta) if t is not None and theta.agrees(t)]
    if agreeing:
        return agreeing[0]
    inside = [t for t in diagnosis.COMMON_THETAS if theta.agrees(t)]
    if len(inside) != 1:
        raise InputError(
            f"{source}: θ is {theta.estimate:,.0f} ({theta.low:,.0f} to {theta.high:,.0f}), where "
            f"{'more than one θ is' if inside else 'no θ is'} in common use: say which with --theta"
        )
    return inside[0]


def layout_from(told: str) -> Layout:
    """ "interleaved" for both projections, or "q=interleaved,k=half-split"."""
    names = dict(part.partition("=")[::2] for part in told.split(",")) if "=" in told else {"q": told, "k": told}
    if (
        not set(names) <= {"q", "k"}
        or names.get("q", layouts.SOUND) not in layouts.OF_Q
        or names.get("k", layouts.SOUND) not in layouts.OF_K
    ):
        raise InputError(
            f"--layout {told}: write one of {', '.join(layouts.OF_Q)} for both, or q=NAME,k=NAME; k may be {layouts.HEAD_COUNT} too"
        )
    return Layout(**names)


def repaired(source: Path, out: Path, *, theta: float, scaling: Llama3Scaling | None, layout: Layout, say=print) -> manifest.Manifest:
    """Write the model directory `out`: `source` with sound rows, and `theta` and `scaling` in its config.json.

    layout: how the rows lie in `source` now. Only rows are moved: no weight changes by a bit. The copy is read again and
    compared with what was asked before it gets its name; a copy that differs raises RuntimeError.
    """
    rope, model = Rope(theta=float(theta), scaling=scaling), directory.open_directory(source)
    raw = hf_weights.read_json(source)
    fixed = rewrite.with_rope(raw, rope)
    recipe = {"theta": rope.theta, "scaling": fixed["rope_scaling"], "layout": asdict(layout)}
    stored = {"q": layouts.order(model.config, "q", layout.q), "k": layouts.order(model.config, "k", layout.k)}

    def make(partial: Path) -> dict:
        rewrite.copy(model, partial, say=say)
        if fixed != raw:
            rewrite.write_config(partial, fixed)
        rewrite.permute(model, partial, {projection: np.argsort(index) for projection, index in stored.items()}, say=say)
        _verify(model, partial, rope, stored, say)
        return recipe

    return manifest.build(
        out, kind=hf_weights.KIND, recipe={"repair": recipe}, inputs={"source": model.path}, module="openko.rope_lab.repair", make=make,
        say=say,
    )  # fmt: skip


def _verify(model: ModelDirectory, partial: Path, rope: Rope, stored: dict[str, np.ndarray], say) -> None:
    """Both generations of readers find `rope`, and the rows in the order `stored` are the source's bytes."""
    found = directory.written(hf_weights.read_json(partial))
    if (found.old_theta, found.new_theta, found.old_scaling, found.new_scaling) != (rope.theta, rope.theta, rope.scaling, rope.scaling):
        raise RuntimeError(f"{partial / 'config.json'} was written with {rope}, but is read as {found}")
    tensors, progress = hf_weights.Tensors(partial), Progress(say)
    for layer in range(model.config.num_hidden_layers):
        for projection, index in stored.items():
            name = rewrite.weight_name(layer, projection)
            before, after = model.tensors.read(name).view(np.uint8), tensors.read(name).view(np.uint8)
            if not np.array_equal(after[index], before):
                raise RuntimeError(f"{partial}: {name} is not that of {model.path} with its rows moved: did the source change meanwhile?")
        progress(f"verified {layer + 1} of {model.config.num_hidden_layers} layers")
