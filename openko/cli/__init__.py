"""The command line: parses, calls one function, prints a table or JSON."""

import dataclasses
import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from openko.cli import card, corpus, evaluate, release, rope, tokens
from openko.cli.printing import AsJson, print_record, print_rows, read_text, to_stderr
from openko.errors import InputError, Interrupted

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Llama-3-Open-Ko, the whole road.")
app.add_typer(rope.app, name="rope")
app.add_typer(corpus.app, name="corpus")
app.add_typer(tokens.app, name="tokens")
app.add_typer(card.app, name="card")
app.command()(evaluate.evaluate)
app.command()(release.release)
app.command()(release.audit)
app.command()(release.push)


@app.command()
def walkthrough(
    profile: Annotated[str, typer.Option(help="the size of the run")] = "laptop",
    out: Annotated[Path, typer.Option(help="where everything is written")] = Path("runs/laptop"),
):
    """Run every notebook in order; goes on where it stopped."""
    from openko.walkthrough import walkthrough

    walkthrough(profile, out)


@app.command()
def profiles(as_json: AsJson = False):
    """List the profiles: what each trains, where, with how many tokens."""
    from openko import hardware, profiles

    rows = [
        {
            "profile": p.name,
            "hardware": p.hardware,
            "parameters": hardware.parameter_count(p.model),
            "context": p.continued.sequence_length,
            "tokens_per_step": p.continued.tokens_per_step,
            "tokens": p.continued.tokens,
        }
        for p in profiles.PROFILES.values()
    ]
    print_rows(rows, as_json)


@app.command()
def fit(
    model: Annotated[str | None, typer.Option(help="llama-3-8b or llama-3.2-1b")] = None,
    topology: Annotated[str | None, typer.Option(help="TPU kind and grid, such as v5e:16x16")] = None,
    batch: Annotated[int | None, typer.Option(help="sequences per step; the profile's by default")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="tokens of a sequence; the profile's by default")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="compile the real step through libtpu: its memory, its collectives")] = False,
    dump_hlo: Annotated[Path | None, typer.Option(metavar="FILE", help="with --compile: write the compiled program here")] = None,
    as_json: AsJson = False,
):
    """Does the training step fit a TPU that you do not have, how long would it take, what would it cost?

    Without --model or without --topology: a table of all of them.
    """
    from openko import rehearsal

    if dump_hlo and not compile:
        raise InputError("--dump-hlo writes what --compile makes: add --compile")
    if model is None or topology is None:
        if compile or batch is not None or sequence_length is not None:
            raise InputError("--batch, --sequence-length and --compile are about one step: name its --model and its --topology")
        models, topologies = (model,) if model else rehearsal.RELEASED, (topology,) if topology else rehearsal.SLICES
        rows = rehearsal.table(models, topologies)
        print_rows(rows if as_json else [_short(row) for row in rows], as_json)
        if not as_json:
            print(f"\nbatch: the largest by the estimate; tokens: in {rehearsal.SESSION_HOURS} hours at the upper bound of a step's time")
        return
    profile = rehearsal.profile_for(model, topology, batch, sequence_length)
    answer = rehearsal.compile_for(profile, topology, dump_hlo, say=to_stderr) if compile else rehearsal.estimate(profile, topology)
    print_record({k: v for k, v in answer.items() if as_json or k not in ("assumptions", "wire", "seconds_at_peak")}, as_json)
    if not as_json:
        if answer.get("wire"):
            print(f"\neach chip sends {answer['collective_bytes_per_step'] / 1e9:.1f} GB a step, "
                  f"{answer['overlapped_share']:.0%} of it while matrix products run:")  # fmt: skip
            print_rows([_sent(row) for row in answer["wire"] if row["bytes_per_step"] >= 1e6], as_json)
            print("\nseconds with each at its peak: " + ", ".join(f"{k} {v:.3f}" for k, v in answer["seconds_at_peak"].items()))
        print("\n" + "\n".join(answer["assumptions"]))
    if not answer["fits"]:
        raise typer.Exit(1)


def _short(row: dict) -> dict:
    """A row of `fit` that 80 columns hold."""
    return {
        "model": row["model"],
        "topology": row["topology"],
        "fits": "yes" if row["fits"] else "no",
        "state": {"float32": "fp32", "bfloat16": "bf16"}[row["state_dtype"]],
        "length": row["sequence_length"],
        "batch": row["batch"],
        "hbm_gb": row["hbm_gb_per_chip"],
        "tokens": f"{row['tokens_per_session'] / 1e9:.2f}B",
        "checkpoint": f"{row['checkpoint_gb']} GB",
    }


def _sent(row: dict) -> dict:
    """A row of `fit --compile`: one kind of collective in one part of the step."""
    return {
        "where": row["where"],
        "collective": row["kind"],
        "dtype": row["dtype"],
        "chips": row["chips"],
        "runs": row["count"] * row["runs"],
        "GB": f"{row['bytes_per_step'] / 1e9:.2f}",
        "beside products": "yes" if row["overlaps"] else "no",
    }


@app.command()
def train(
    data: Annotated[list[str], typer.Option(help="token-shard directory or URL, or PLACE=SHARE; may be repeated")],
    tokenizer: Annotated[str, typer.Option(help="directory or URL with tokenizer.json")],
    out: Annotated[Path, typer.Option(help="model directory to write")],
    profile: Annotated[str, typer.Option(help="the size of the run")] = "laptop",
    start: Annotated[str | None, typer.Option(help="model directory or URL to continue from; without it, fresh weights")] = None,
    changes: Annotated[
        list[str], typer.Option("--set", metavar="NAME=VALUE", help="a field of profiles.Training, such as steps=100; may be repeated")
    ] = (),
    mesh: Annotated[str | None, typer.Option(metavar="AXIS=N,…", help="another mesh, such as data=2,fsdp=4")] = None,
    checkpoint_dir: Annotated[str | None, typer.Option(help="directory or gs:// URL for checkpoints")] = None,
    time_budget: Annotated[str | None, typer.Option(help="save and stop before the session ends, such as 8h30m")] = None,
    evaluate: Annotated[list[str], typer.Option("--eval", metavar="NAME=FILE", help="text or .jsonl whose bits per byte to follow")] = (),
    eval_every: Annotated[int, typer.Option(min=1, help="steps between evaluations")] = 500,
    tensorboard: Annotated[Path | None, typer.Option(help="write TensorBoard's event files here")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done; needs no device")] = False,
    distributed: Annotated[bool, typer.Option("--distributed", help="several hosts; start this on each")] = False,
    coordinator: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="of process 0; a Cloud TPU finds it")] = None,
    processes: Annotated[int | None, typer.Option(help="how many, with --coordinator")] = None,
    process: Annotated[int | None, typer.Option(help="which of them this is, with --coordinator")] = None,
    as_json: AsJson = False,
):
    """Train on token shards and write a Hugging Face directory; run again after a crash, it goes on."""
    from openko import profiles

    chosen = profiles.get(profile)
    training = profiles.changed(chosen.continued, changes)
    chosen = profiles.resized(chosen, training, None if mesh is None else profiles.mesh_from(mesh))
    settings = {"profile": chosen, "training": training, "data": _shares(data), "tokenizer": tokenizer, "start": start}
    if dry_run:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # jax would otherwise take hold of a TPU, and it is not needed
        from openko.training.plan import make_plan

        plan = make_plan(out, **settings, checkpoint_dir=checkpoint_dir)
        weights = plan.shapes()
        print_record(plan.describe() | ({"weights": weights} if as_json else {}), as_json)
        if not as_json:
            print("\nweights (whole: on one device)")
            for row in weights:
                print(f"  {row['weight']:<38} {row['shape']}: {row['on_a_device']}")
        return
    from openko.training import hosts, stopping
    from openko.training.loop import train

    if distributed or coordinator is not None:
        hosts.join(coordinator, processes, process)
    made = train(
        out, **settings, checkpoint_dir=checkpoint_dir, tensorboard=tensorboard,
        evaluate=_texts(evaluate, "--eval"), evaluate_every=eval_every,
        time_budget=None if time_budget is None else stopping.seconds(time_budget),
        say=to_stderr,
    )  # fmt: skip
    if made is not None:
        print_record({"out": str(out), **made.facts}, as_json)


@app.command()
def merge(
    target: Annotated[Path, typer.Option(help="model that receives the vector")],
    base: Annotated[Path, typer.Option(help="what the chat model was tuned from")],
    chat: Annotated[Path, typer.Option(help="the chat model")],
    out: Annotated[Path | None, typer.Option(help="model directory to write; required but for --dry-run")] = None,
    scale: Annotated[
        list[str], typer.Option(metavar="λ | NAME=λ", help="of every part, or of attention, mlp, norm or embed; may be repeated")
    ] = ("1",),
    special_tokens: Annotated[
        str, typer.Option(help="rows of the chat format's tokens: merge as the rest, transplant the chat model's, keep the target's")
    ] = "merge",
    method: Annotated[str, typer.Option(help="add; or damped, which spares weights that the target's training moved most")] = "add",
    shard_size: Annotated[str, typer.Option(metavar="BYTES", help="of a file of weights, such as 500MB")] = "5GB",
    workers: Annotated[int | None, typer.Option(min=1, help="threads; one a core by default, 8 at most")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="measure the vector by layer and write nothing")] = False,
    as_json: AsJson = False,
):
    """target + λ (chat − base), streamed; run again after a crash, it goes on."""
    from openko import chat_vector, hf_weights

    if out is None and not dry_run:
        raise InputError("--out is missing: the model directory to write (or --dry-run, which writes none)")
    settings = {
        "target": target, "base": base, "chat": chat, "parts": chat_vector.parts_from(scale, special_tokens), "method": method,
        "shard_bytes": hf_weights.bytes_from(shard_size), "workers": workers, "say": to_stderr,
    }  # fmt: skip
    if dry_run:
        _print_survey(chat_vector.survey(**settings), as_json)
        return
    facts = chat_vector.merge(out, **settings).facts
    # Norms and hashes by tensor are for the manifest and for --json.
    print_record({"out": str(out)} | {k: v for k, v in facts.items() if as_json or not isinstance(v, dict | list)}, as_json)


def _print_survey(found: dict, as_json: bool) -> None:
    """The norms of a chat vector: a row for each layer, |chat − base| / |base| and |chat − base| for each part in it."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    parts = ("attention", "mlp", "norm", "embed")
    rows = {row["place"]: {"": row["place"]} | dict.fromkeys(parts, "") for row in found["norms"]}
    for row in found["norms"]:
        ratio = row["vector"] / row["base"] if row["base"] else math.nan
        rows[row["place"]][row["part"]] = "kept" if row["vector"] is None else f"{ratio:.4f} ({row['vector']:.4g})"
    print_rows(list(rows.values()), as_json)
    print("\n|chat − base| / |base|, and in brackets |chat − base|, by layer and part of the model\n")
    files = {f"would write {name}": f"{size:,} bytes" for name, size in found["files"].items()}
    norms = {"|chat − base|": found["vector_norm"], "|target|": found["target_norm"]}
    print_record(norms | files | {"in all": f"{found['bytes']:,} bytes"}, as_json)


@app.command()
def sweep(
    target: Annotated[Path, typer.Option(help="model that receives the vector")],
    base: Annotated[Path, typer.Option(help="what the chat model was tuned from")],
    chat: Annotated[Path, typer.Option(help="the chat model")],
    text: Annotated[list[str], typer.Option(metavar="NAME=FILE", help="text or .jsonl for bits per byte, such as ko=heldout.txt")],
    out: Annotated[Path | None, typer.Option(help="directory for sweep.json and the picture curve.png")] = None,
    scale: Annotated[list[float], typer.Option(help="λ; may be repeated")] = (0.0, 0.5, 0.7, 1.0, 1.3),
    part: Annotated[list[str], typer.Option(metavar="NAME=SHARE", help="share of λ for attention, mlp, norm or embed")] = (),
    special_tokens: Annotated[str, typer.Option(help="as in merge: merge, transplant or keep")] = "merge",
    method: Annotated[str, typer.Option(help="as in merge: add or damped")] = "add",
    context: Annotated[int, typer.Option(min=2, help="tokens seen at once")] = 256,
    packages: Annotated[Path, typer.Option(help="where the Hangul font lies")] = Path("runs/laptop/packages"),
    as_json: AsJson = False,
):
    """Many λ without writing a model: Korean and English bits per byte, and ended turns."""
    from openko import chat_vector, figures, manifest
    from openko.evaluation import sweep

    def plain(points):
        return [dataclasses.asdict(point) for point in points]

    def keep(points):
        if out is not None:
            manifest.write_json(out / "sweep.json", plain(points))

    if out is not None:
        figures.hangul_font(packages)  # found missing after an hour, it would be found too late
        out.mkdir(parents=True, exist_ok=True)
    points = sweep.sweep(
        scale, target=target, base=base, chat=chat, texts=_texts(text, "--text"), parts=chat_vector.parts_from(part, special_tokens),
        method=method, context=context, say=to_stderr, keep=keep,
    )  # fmt: skip
    if out is not None:
        figures.save(out, "curve", sweep.figure(points), packages=packages)
    print_rows(plain(points) if as_json else [
        {"λ": point.scale} | {f"{name} bits/byte": f"{bits:.3f}" for name, bits in point.bits_per_byte.items()}
        | {f"{name} ended": f"{share:.0%}" for name, share in point.ended_turns.items()}
        for point in points
    ], as_json)  # fmt: skip


@app.command()
def sample(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    prompt: Annotated[list[str], typer.Option(help="one user turn; may be repeated")],
    system: Annotated[str | None, typer.Option(help="the system turn; none by default")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the most probable token")] = False,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 0,
    as_json: AsJson = False,
):
    """Ask a model, through its own chat template."""
    from openko.sampling import Sampler, opening, user_turn

    how = {"temperature": 0.0 if greedy else temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
    sampler = Sampler(directory, say=to_stderr)
    if as_json:
        print(json.dumps([dataclasses.asdict(a) for a in sampler.answer(prompt, system=system, **how)], ensure_ascii=False))
    elif len(prompt) == 1:  # one answer is shown while it comes
        print(f"> {prompt[0]}")
        found = sampler.reply([*opening(system), user_turn(prompt[0])], _show, **how)
        print(f"\n[{found.tokens} tokens, ended by {found.stop}]")
    else:
        for a in sampler.answer(prompt, system=system, **how):
            print(f"> {a.prompt}\n{a.text}\n[{a.tokens} tokens, ended by {a.stop}]\n")


@app.command()
def chat(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    system: Annotated[str | None, typer.Option(help="the system turn; none by default")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the most probable token")] = False,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 0,
):
    """Talk with a model. /clear forgets what was said, /bye or the end of input leaves, Ctrl-C stops an answer."""
    from openko.sampling import Conversation, Sampler

    sampler = Sampler(directory, say=to_stderr)
    talk = Conversation(
        sampler, system=system, temperature=0.0 if greedy else temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed
    )
    talk.check()
    to_stderr(f"{directory}: /clear forgets what was said, /bye leaves, Ctrl-C stops an answer")
    while (line := _read_turn()) not in (None, "/bye"):
        if line == "/clear":
            talk.clear()
        elif line:
            try:
                found = talk.ask(line, _show, say=to_stderr)
            except KeyboardInterrupt:
                to_stderr("\n(stopped; this turn is not kept)")
            except InputError as problem:  # a question that is too long must not end the conversation
                to_stderr(str(problem))
            else:
                print("" if found.stop != "length" else f"\n[stopped after {found.tokens} tokens, the limit]")


def _read_turn() -> str | None:
    """A line of the person's; None at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _show(text: str) -> None:
    print(text, end="", flush=True)


@app.command(name="bits-per-byte")
def bits_per_byte(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    text: Annotated[list[Path], typer.Option(help="UTF-8 text file, one document; may be repeated")],
    context: Annotated[int, typer.Option(help="tokens seen at once")] = 256,
    as_json: AsJson = False,
):
    """How well a model predicts text, in bits per UTF-8 byte."""
    from openko import hf_weights, tokenizers
    from openko.bits_per_byte import BitsPerByte

    documents = {str(path): [read_text(path)] for path in text}
    config, parameters = hf_weights.load(directory)
    print_record(BitsPerByte(config, tokenizers.load(directory), documents, context=context)(parameters), as_json)


@app.command(name="ended-turns")
def ended_turns(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR")],
    language: Annotated[str, typer.Option(help="ko or en")] = "ko",
    temperature: float = 1.0,
    top_p: float = 0.9,
    seed: int = 0,
    as_json: AsJson = False,
):
    """Of 200 prompts, how many does a model answer in their language and end by <|eot_id|> within 64 tokens?"""
    from openko.evaluation import ended_turns
    from openko.sampling import Sampler

    if language not in ended_turns.PROMPTS:
        raise InputError(f"--language must be one of {', '.join(ended_turns.PROMPTS)}, found {language!r}")
    answers = ended_turns.ask(Sampler(directory, say=to_stderr), language, temperature=temperature, top_p=top_p, seed=seed)
    print_record(vars(ended_turns.count(answers, language)), as_json)


@app.command()
def verify(directory: Path, as_json: AsJson = False):
    """Compare every byte of a directory with its manifest."""
    from openko import manifest

    found = manifest.verify(directory)
    print_record({"kind": found.kind, "files": len(found.files), "content": found.content, **found.facts}, as_json)


@app.command()
def figures(
    results: Annotated[Path | None, typer.Option("--from", help="a finished run; without it the committed JSON is drawn again")] = None,
    packages: Annotated[Path, typer.Option(help="where the Hangul font lies")] = Path("runs/laptop/packages"),
):
    """Refresh the committed figures/ from a run's results."""
    from openko import figures, notebook

    committed = notebook.ROOT / "figures"
    if results is not None:
        if not list((results / "figures").glob("*.json")):
            raise InputError(f"{results / 'figures'} has no results: run openko walkthrough --out {results} first")
        for path in sorted((results / "figures").glob("*.json")):
            (committed / path.name).write_bytes(path.read_bytes())
        packages = results / "packages"
    for picture in figures.redraw(committed, packages=packages):
        print(picture.relative_to(notebook.ROOT))


@app.command()
def notebooks(results: Annotated[Path | None, typer.Option("--from", help="a finished run whose outputs are to be committed")] = None):
    """Refresh the committed notebooks: badges and set-up cell from pyproject.toml, outputs from a run."""
    from openko import committed

    for line in committed.refresh(results):
        print(line)


def _shares(data: list[str]) -> dict[str, float]:
    shares = {}
    for entry in data:
        place, _, share = entry.rpartition("=") if "=" in entry else (entry, "", "")
        if place in shares:
            raise InputError(f"--data {place} is given twice: name it once, with the sum of its shares")
        try:
            shares[place] = float(share or 1)
        except ValueError:
            raise InputError(f"--data {entry}: {share!r} is not a number") from None
    return shares


def _texts(entries: list[str], option: str) -> dict[str, list[str]]:
    texts = {}
    for entry in entries:
        name, _, path = entry.partition("=")
        if not path:
            raise InputError(f"{option} {entry}: write NAME=FILE, such as ko=heldout.txt")
        if name in texts:
            raise InputError(f"{option} {entry}: {name} is given twice: give each text its own name")
        text = read_text(Path(path))
        try:
            texts[name] = [json.loads(line)["text"] for line in text.splitlines()] if path.endswith(".jsonl") else [text]
        except (ValueError, KeyError, TypeError) as problem:
            raise InputError(f'{path}: every line must be a JSON object with "text" ({problem!r})') from None
    return texts


def main() -> None:
    """Entry point: bad input ends with one message and status 2, an interrupt with 130."""
    try:
        app(standalone_mode=True)
    except InputError as problem:
        print(f"openko: {problem}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(f"openko: {stopped}", file=sys.stderr)
        sys.exit(75)  # EX_TEMPFAIL of sysexits.h: not done, and nothing is wrong; run again
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        where = problem.filename or "the directory that is being written"
        print(f"openko: {where}: {problem.strerror}; mend that or choose another --out, then run the same command again", file=sys.stderr)
        sys.exit(2)
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of an interrupt
            goes_on = {"walkthrough", "train", "merge"} & set(sys.argv[1:2])
            print("openko: interrupted" + ("; the same command goes on from here" if goes_on else ""), file=sys.stderr)
        raise
