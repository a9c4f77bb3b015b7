"""lm-evaluation-harness through openko against its own HFLM (torch), 5-shot haerae and kobest, then kmmlu_direct.

    python benchmarks/evaluate.py [--shape 7M | 135M] [--num-fewshot 5] [--limit 6] [--rounds 3] [--json]

Both answer the same requests of the harness's own tasks (openko's practice questions in their form) with the same random weights in
fp32 and as many threads as there are cores, each in a process of its own, in turn. HFLM has the batch size of 4, 8, 16, 32 that is
best here (of 8 and 16 for answers). Timed is what the harness asks a model for, texts to log-likelihoods or to answers; reading data
and making prompts is the harness's own work and left out. Medians over the rounds, the ratio pair by pair. Compiling happens once and
is said apart. The limit: tokens with every shared beginning counted once, and those that were really drawn, at the speed of one large
matrix product.
--json ends with a line {name, ours, peer, ratio, unit, limit, …} for each kind of request.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median

import side_by_side
from side_by_side import CORES, Side, answer, multiplying, print_result, seconds

from openko import hardware
from openko.profiles import LlamaConfig

# Neither jax nor torch is imported above: each process holds its own alone.
ASKED = {"loglikelihood": ("haerae", "kobest"), "generate_until": ("kmmlu_direct_korean_history", "kmmlu_direct_biology")}
BATCHES = {"loglikelihood": (4, 8, 16, 32), "generate_until": (8, 16)}
# SmolLM2's 135M over a smaller vocabulary, which the tokenizer of `write_model` has.
SHAPES = {"7M": side_by_side.SHAPES["7M"], "135M": replace(side_by_side.SHAPES["135M"], vocab_size=8192)}


def requests_of(kind: str, num_fewshot: int, limit: int) -> list:
    """The harness's own requests of one kind, the same in each process."""
    from openko.evaluation import tasks

    with tasks.quiet():
        loaded = tasks.load(ASKED[kind], data_dir=tasks.PRACTICE, num_fewshot=num_fewshot)["tasks"].values()
        for task in loaded:
            task.set_config(key="num_fewshot", value=num_fewshot)
            task.set_fewshot_seed(seed=1234)
            task.build_all_requests(limit=limit)
    return [instance for task in loaded for instance in task.instances]


def serve(lm, num_fewshot: int, limit: int, pipe) -> None:
    """Answers (kind, batch size or None) with (seconds, what the model answered, how many tokens it drew if it knows)."""
    from openko.evaluation import tasks

    asked_for = {kind: requests_of(kind, num_fewshot, limit) for kind in ASKED}

    def timed(kind: str, batch: int | None) -> tuple[float, list, int]:
        if batch is not None:
            lm.batch_size_per_gpu = batch
        before = getattr(lm, "drawn", 0)
        with tasks.quiet():
            took, answers = seconds(lambda: getattr(lm, kind)(asked_for[kind], disable_tqdm=True))
        return took, answers, getattr(lm, "drawn", 0) - before

    answer(pipe, timed)


def ours(directory: Path, num_fewshot: int, limit: int, pipe) -> None:
    from openko.evaluation.harness import OpenkoLM

    serve(OpenkoLM(directory, say=lambda line: None), num_fewshot, limit, pipe)


def theirs(directory: Path, num_fewshot: int, limit: int, pipe) -> None:
    import torch
    from lm_eval.models.huggingface import HFLM

    from openko.evaluation import tasks

    torch.set_num_threads(CORES)
    with tasks.quiet():
        lm = HFLM(pretrained=str(directory), device="cpu", dtype="float32")
    serve(lm, num_fewshot, limit, pipe)


def write_model(directory: Path, config: LlamaConfig) -> None:
    """Random weights, and a tokenizer that has seen the questions' Korean and Python's English."""
    from openko import tokenizers
    from openko.evaluation import tasks

    korean = [" ".join(str(v) for v in row.values()) for path in sorted(tasks.PRACTICE.rglob("*.jsonl")) for row in tasks.records(path)]
    tokenizer = tokenizers.train([*korean * 4, *topics.values()], config.vocab_size, "benchmark")
    ends = {"bos_token_id": tokenizer[tokenizers.BEGIN], "eos_token_id": tokenizer[tokenizers.END]}
    side_by_side.write_model(directory, config, carried=ends)
    tokenizer.save(directory)


def least_tokens(directory: Path, kind: str, num_fewshot: int, limit: int, drawn: int) -> int:
    """Tokens of all requests, each shared beginning once; for answers the prompts and the tokens drawn."""
    from openko.evaluation.harness import OpenkoLM

    asked, lm = requests_of(kind, num_fewshot, limit), OpenkoLM(directory)
    if kind == "generate_until":
        return sum(len(lm.tok_encode(request.args[0])) for request in asked) + drawn
    ways, beginnings = lm._pairs([request.args for request in asked]), set()
    for context, continuation in ways:
        whole = tuple(context + continuation)
        beginnings.update(hash(whole[:k]) for k in range(1, len(whole)))
    return len(beginnings)


def compare(config: LlamaConfig, directory: Path, mine: Side, peer: Side, kind: str, num_fewshot: int, limit: int, rounds: int) -> dict:
    first, answers, drawn = mine(kind, None)
    tried = {}
    for batch in BATCHES[kind]:
        tried[batch], reference, _ = peer(kind, batch)
    best = min(tried, key=tried.get)
    pairs = [(peer(kind, best)[0], mine(kind, None)[0]) for _ in range(rounds)]
    theirs, own = (median(column) for column in zip(*pairs, strict=True))
    tokens = least_tokens(directory, kind, num_fewshot, limit, drawn)
    weights = hardware.parameter_count(config) - (0 if kind == "generate_until" else config.vocab_size * config.hidden_size)
    if kind == "loglikelihood":
        unlike = {"worst": max(abs(a[0] - b[0]) for a, b in zip(answers, reference, strict=True))}
    else:
        unlike = {"equal": sum(a == b for a, b in zip(answers, reference, strict=True)) / len(answers)}
    return {
        "ours": len(answers) / own, "peer": len(answers) / theirs, "ratio": median(theirs / own for theirs, own in pairs),
        "limit": len(answers) / (2 * weights * tokens * multiplying()), "peer_batch": best, "requests": len(answers),
        "compile_seconds": first - own, **unlike,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7M")
    parser.add_argument("--num-fewshot", type=int, default=5)
    parser.add_argument("--limit", type=int, default=6, help="questions of each task")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", choices=ASKED, action="append", help="may be repeated; both by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config, results = SHAPES[arguments.shape], {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write_model(directory, config)
        mine, peer = (Side(work, directory, arguments.num_fewshot, arguments.limit) for work in (ours, theirs))
        for kind in arguments.kind or ASKED:
            found = compare(config, directory, mine, peer, kind, arguments.num_fewshot, arguments.limit, arguments.rounds)
            results[kind] = found
            print(
                f"{arguments.shape}, {kind}, {found['requests']} requests, {arguments.num_fewshot}-shot: {found['ours']:.1f} a second, ",
                end="",
            )
            print(
                f"limit {found['limit']:,.1f}; HFLM {found['peer']:.1f} with batches of {found['peer_batch']}: {found['ratio']:.2f} times"
            )
            alike = (
                f"{found['equal']:.0%} equal answers"
                if "equal" in found
                else f"log-likelihoods differ by {found['worst']:.1e} nats at most"
            )
            print(f"    compiling {found['compile_seconds']:.1f} s; {alike}", flush=True)
        mine.end()
        peer.end()
    if arguments.json:
        for kind, found in results.items():
            print_result(f"evaluate-{arguments.shape}-{kind}", unit="requests/s", **found)


if __name__ == "__main__":
    main()
