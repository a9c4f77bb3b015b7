"""Bits per byte of a model that lies over a mesh: inside a run, or of a finished directory."""

from pathlib import Path

from jax.sharding import Mesh

from openko import hf_weights, llama, tokenizers
from openko.bits_per_byte import BitsPerByte
from openko.profiles import LlamaConfig, Profile
from openko.training import sharding


def on_mesh(
    config: LlamaConfig, profile: Profile, mesh: Mesh, tokenizer: Path, texts: dict[str, list[str]], *, context: int
) -> BitsPerByte:
    """The measure for parameters laid out as the profile's training has them. texts: {name: documents}."""
    step = profile.step
    return BitsPerByte(
        config, tokenizers.load(tokenizer), texts, context=context, rows=mesh.shape["data"] * mesh.shape["fsdp"],
        out_sharding=sharding.place(mesh, ()), dtype=step.compute_dtype, attend=sharding.attention_for(mesh, step), unroll=step.unroll,
        constrain=sharding.constrainer(mesh),
    )  # fmt: skip


def of_directories(
    directories: list[Path], profile: Profile, tokenizer: Path, texts: dict[str, list[str]], *, context: int
) -> dict[str, dict[str, float]]:
    """{directory's name: {text's name: bits per byte}}, each model in turn cut over the profile's mesh."""
    mesh, scores = sharding.make_mesh(profile.mesh), {}
    measure = on_mesh(hf_weights.read_config(directories[0])[0], profile, mesh, tokenizer, texts, context=context)
    for directory in directories:
        config, _ = hf_weights.read_config(directory)
        where = sharding.place_tree(mesh, llama.logical_axes(config), llama.abstract(config))
        scores[directory.name] = measure(hf_weights.load(directory, shardings=where)[1])
    return scores
