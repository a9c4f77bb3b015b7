"""Small model directories to release and to audit, and ways to break them. The licence texts are stand-ins with the real headings."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small_config

from openko import hf_weights, llama, manifest, tokenizers

# Not Meta's text: only the heading by which a licence is known, and bytes that a careless copy would change.
LICENCE = b"META LLAMA 3 COMMUNITY LICENSE AGREEMENT\r\n\r\nstand-in for a test \xe2\x80\x9cAgreement\xe2\x80\x9d\r\n \t\n\n"
POLICY = b"# Meta Llama 3 Acceptable Use Policy\r\n\r\nstand-in for a test\n\n\n"
CONTEXT = 64  # too short for RoPE to be diagnosed, which takes a minute and on random weights finds nothing
KOREAN = "안녕하세요. 무엇을 도와드릴까요? 대한민국의 수도는 서울입니다. Hello, how can I help you today? " * 3


@pytest.fixture(scope="module", autouse=True)
def code_known_once():
    """The code is the same in all tests: look at it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "code_fingerprint", functools.cache(manifest.code_fingerprint))
        yield


def quiet(line: str) -> None:
    pass


def write_model(
    directory: Path, *, ends=(tokenizers.END, tokenizers.TURN_END), shard_bytes: int = 10**9, dtype: str = "bfloat16", vocab: int = 300
):
    """Weights, configs and tokenizer of a small Llama of random weights; no manifest."""
    directory.mkdir(parents=True, exist_ok=True)
    trained = tokenizers.train([KOREAN], 300, "test", specials=16)
    config = small_config(vocab_size=vocab, num_hidden_layers=2, max_position_embeddings=CONTEXT)
    ids = {"bos_token_id": trained[tokenizers.BEGIN], "eos_token_id": [trained[end] for end in ends]}
    draw = np.random.default_rng(0)  # not jax's, which compiles for each shape
    parameters = jax.tree.map(lambda x: draw.normal(0, 0.1, x.shape), llama.abstract(config))
    hf_weights.save(directory, config, parameters, carried=ids, dtype=dtype, shard_bytes=shard_bytes)
    trained.save(directory)
    return directory


def write_llama(directory: Path, **how) -> Path:
    """What stands for Meta's directory: no manifest, with licence and use policy."""
    write_model(directory, **how)
    (directory / "LICENSE").write_bytes(LICENCE)
    (directory / "USE_POLICY.md").write_bytes(POLICY)
    return directory


TRAINING = {
    "steps": 24, "batch_size": 8, "sequence_length": 32, "optimizer": "adamw", "peak_learning_rate": 2e-3, "final_learning_rate": 2e-4,
    "schedule": "cosine", "warmup_steps": 2, "seed": 2,
}  # fmt: skip


def write_trained(directory: Path, *, start: Path | None, data: dict[str, Path] | None = None, **how) -> Path:
    """A directory with the manifest that training leaves behind; its weights are random."""

    def make(partial):
        write_model(partial, **how)
        return {"parameters": 1, "tokens": 6144, "final_loss": 2.5}

    inputs = ({"start": start} if start else {}) | (data or {})
    recipe = {"training": TRAINING, "shares": [1.0], "precision": ["float32", "float32", "float32", "bfloat16"]}
    manifest.build(directory, kind=hf_weights.KIND, recipe=recipe, inputs=inputs, module="openko.errors", make=make, say=quiet)
    return directory


def write_card(directory: Path, **fields) -> None:
    """A minimal model card of a model that is no Llama's child, or with other fields of its front matter."""
    lines = "".join(f"{name}: {value}\n" for name, value in ({"license": "apache-2.0", "language": "ko"} | fields).items())
    (directory / "README.md").write_text(f"---\n{lines}---\n\n# {directory.name}\n", encoding="utf-8")


def edit_json(path: Path, change) -> None:
    """`change` the object that a JSON file holds, in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def add_token(directory: Path, *, special: bool) -> None:
    """One token more in tokenizer.json than there were."""

    def change(content):
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        content["added_tokens"].append({"id": 300, "content": "<|new|>"} | flags)

    edit_json(directory / "tokenizer.json", change)


def overwrite(directory: Path, name: str, numbers: np.ndarray) -> None:
    """Put other numbers at the beginning of a tensor, in its file."""
    info = hf_weights.Tensors(directory).info[name]
    content = bytearray(info.file.read_bytes())
    piece = numbers.astype(info.dtype).tobytes()
    content[info.start : info.start + len(piece)] = piece
    info.file.unlink()  # a release's files may be hard links
    info.file.write_bytes(content)


def everything_in(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}
