"""Hugging Face model directory ⇄ model parameters, tensor by tensor.

The only public model format of openko. Import and export carry every field of config.json; a field that we do not
know is refused, for a field that is silently dropped is how RoPE goes wrong. θ is written under both names:
`rope_theta` (read by transformers 4) and `rope_parameters` (read by transformers 5).

jax is imported where parameters are made or written: who only moves weights from file to file does not wait for it.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from openko.errors import InputError
from openko.profiles import LlamaConfig
from openko.rope import Llama3Scaling, Rope

KIND = "hf-model"
INDEX = "model.safetensors.index.json"
FOREIGN = ("pytorch_model*.bin", "*.pth", "*.gguf")  # weights in forms that are not read
DTYPES = {"F32": np.dtype("float32"), "F16": np.dtype("float16"), "BF16": np.dtype(ml_dtypes.bfloat16)}

# Fields that must have this value: our Llama has no other.
FIXED = {
    "model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    "pretraining_tp": 1,
}  # fmt: skip
# Fields that do not change the forward pass and are carried along as they are.
CARRIED = {
    "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "transformers_version", "dtype",
    "torch_dtype", "_name_or_path",
}  # fmt: skip
OURS = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "initializer_range",
}  # fmt: skip
ROPE = {"rope_theta", "rope_scaling", "rope_parameters"}
# Parts of a model, by what is in the names of their tensors.
PARTS = {"norm": ("norm",), "attention": ("self_attn",), "mlp": ("mlp",), "embed": ("embed_tokens", "lm_head")}
PIECE = 1 << 20  # numbers of a tensor that are compared at once
LARGEST_HEADER = 100_000_000  # bytes: the limit of the safetensors format
SCALING_FIELDS = {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}


# ── config.json ──────────────────────────────────────────────────────────────────────────────────────────────────


def read_config(directory: Path, rope: Rope | None = None) -> tuple[LlamaConfig, dict]:
    """The model's config and the fields that are only carried along.

    rope: used in place of what config.json says, for a directory whose RoPE fields are known to be wrong.
    """
    return config_from_hf(read_json(directory), where=str(Path(directory) / "config.json"), rope=rope)


def read_json(directory: Path) -> dict:
    """config.json as it is written."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist: is {directory} a Hugging Face model directory?")
    return _object(path, "the fields of a model")


def read_generation_config(directory: Path) -> dict | None:
    """generation_config.json, if the directory has one."""
    path = Path(directory) / "generation_config.json"
    return _object(path, "the settings of a generation") if path.is_file() else None


def _object(path: Path, what: str) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise InputError(f"{path} is not JSON: {problem}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not {what}")
    return found


def config_from_hf(raw: dict, *, where: str = "config.json", rope: Rope | None = None) -> tuple[LlamaConfig, dict]:
    """A parsed config.json -> (LlamaConfig, carried fields). Absent fields get transformers' defaults, θ has none."""
    unknown = set(raw) - OURS - ROPE - CARRIED - set(FIXED)
    if unknown:
        raise InputError(f"{where}: unknown field {', '.join(sorted(unknown))}: openko cannot promise the same model, and refuses")
    for field, value in FIXED.items():
        if raw.get(field, value) != value:
            raise InputError(f"{where}: {field} is {raw[field]!r}, but openko's Llama has {value!r} alone")
    if raw.get("model_type") is None:
        raise InputError(f"{where}: model_type is missing; it should be 'llama'")
    missing = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"} - set(raw)
    if missing:
        raise InputError(f"{where}: field {', '.join(sorted(missing))} is missing")
    heads = raw["num_attention_heads"]
    config = LlamaConfig(
        **{name: raw[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
        num_attention_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        max_position_embeddings=raw.get("max_position_embeddings", 2048),
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        initializer_range=raw.get("initializer_range", 0.02),
        rope=rope or rope_from_hf(raw, where),
    )
    return config, {name: raw[name] for name in raw if name in CARRIED}


def rope_from_hf(raw: dict, where: str) -> Rope:
    """RoPE from either key style, or from both where they agree."""
    new = raw.get("rope_parameters") or {}
    thetas = {value for value in (raw.get("rope_theta"), new.get("rope_theta")) if value is not None}
    if not thetas:
        raise InputError(
            f"{where}: rope_theta is missing, also in rope_parameters; readers would silently take 10000. "
            "Llama-3 was trained with 500000: put the right number there, or pass it (--theta)"
        )
    if len(thetas) > 1:
        raise InputError(f"{where}: rope_theta is {raw['rope_theta']}, but rope_parameters says {new['rope_theta']}: one of them is wrong")
    scalings = [scaling_from_hf(block, where) for block in (raw.get("rope_scaling"), new or None) if block is not None]
    if len(set(scalings)) > 1:
        raise InputError(f"{where}: rope_scaling and rope_parameters describe different scalings")
    return Rope(theta=float(thetas.pop()), scaling=scalings[0] if scalings else None)


def scaling_from_hf(block: dict, where: str) -> Llama3Scaling | None:
    """`rope_scaling`, or `rope_parameters` less its θ; other kinds than Llama-3.1's are refused."""
    kind = block.get("rope_type", block.get("type", "default"))
    fields = set(block) - {"rope_type", "type", "rope_theta"}
    if kind == "default" and not fields:
        return None
    if kind == "llama3" and fields == SCALING_FIELDS:
        odd = [
            n for n in SCALING_FIELDS if isinstance(block[n], bool) or not isinstance(block[n], int | float) or not 0 < block[n] < math.inf
        ]
        if odd or block["high_freq_factor"] <= block["low_freq_factor"]:
            raise InputError(f"{where}: the scaling {block} should have positive numbers, high_freq_factor above low_freq_factor")
        return Llama3Scaling(**{name: block[name] for name in SCALING_FIELDS})
    raise InputError(f"{where}: rope scaling of type {kind!r} with fields {sorted(fields)} is unknown; openko knows 'default' and 'llama3'")


def config_to_hf(config: LlamaConfig, carried: dict | None = None) -> dict:
    """The whole config.json, with θ under both key styles."""
    if config.rope.layout != "half-split":
        raise InputError("Hugging Face directories are half-split: permute q_proj and k_proj (openko.rope.split_rows) before export")
    scaling = None if config.rope.scaling is None else {"rope_type": "llama3"} | asdict(config.rope.scaling)
    return (
        {"architectures": ["LlamaForCausalLM"]}
        | FIXED
        | {name: getattr(config, name) for name in sorted(OURS)}
        | {
            "rope_theta": config.rope.theta,
            "rope_scaling": scaling,
            "rope_parameters": {"rope_theta": config.rope.theta} | (scaling or {"rope_type": "default"}),
        }
        | (carried or {})
    )


# ── tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, from byte `start` of its file on, and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * self.dtype.itemsize


def part_of(name: str) -> str:
    """The key of PARTS that a tensor belongs to."""
    for part, marks in PARTS.items():
        if any(mark in name for mark in marks):
            return part
    raise InputError(f"tensor {name} belongs to no part of a Llama: attention, mlp, norm or embed")


class Tensors:
    """The tensors of a directory: one model.safetensors or shards with an index. Nothing is read before asked."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise InputError(f"model directory {directory} does not exist")
        self.info: dict[str, TensorInfo] = {}
        self._open = {}
        for path in weight_files(self.directory):
            start, fields = header(path)
            for name, field in fields.items():
                if field["dtype"] not in DTYPES:
                    raise InputError(f"{path}: tensor {name} has dtype {field['dtype']}; openko reads {', '.join(DTYPES)}")
                self.info[name] = TensorInfo(path, tuple(field["shape"]), DTYPES[field["dtype"]], start + field["data_offsets"][0])

    def read(self, name: str, index=slice(None)) -> np.ndarray:
        """A tensor or a part of it, in its own dtype; only that part is read from disk."""
        file = self.info[name].file
        if file not in self._open:
            self._open[file] = safetensors.safe_open(file, "numpy")
        return self._open[file].get_slice(name)[index]


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory: those that its index names, or the one model.safetensors."""
    index, single = directory / INDEX, directory / "model.safetensors"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as problem:
            raise InputError(f"{index} cannot be read ({problem!r}): is the download complete?") from None
        absent = [n for n in names if not (directory / n).is_file()]
        if absent:
            raise InputError(f"{directory}: shard {', '.join(absent)}, named in {INDEX}, is missing: download it again")
        return [directory / n for n in names]
    if single.is_file():
        return [single]
    foreign = sorted(path.name for pattern in FOREIGN for path in directory.glob(pattern))
    found = f" but {', '.join(foreign)}: transformers' from_pretrained(…).save_pretrained(…) writes safetensors" if foreign else ""
    raise InputError(f"{directory} has neither model.safetensors nor {INDEX}{found}; other weight formats are not read")


class _TooShort(ValueError):
    """A file that ends before its header says."""


def header(path: Path) -> tuple[int, dict]:
    """Where the data of a safetensors file begins, in bytes, and its tensors: {name: {"dtype", "shape", "data_offsets"}}.

    The offsets [begin, end] count from there. Refused, as by the format's specification: a file that ends elsewhere than its
    header says, and tensors that leave a gap, lie over one another or do not have the bytes of their shape.
    """
    size = path.stat().st_size
    try:
        if size < 8:
            raise _TooShort(f"it has {size} bytes")
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if 8 + length > size:
                # What is no safetensors file begins with any 8 bytes, which are nearly always a number beyond the format's limit.
                problem = ValueError if length > LARGEST_HEADER else _TooShort
                raise problem(f"its header ends at byte {8 + length:,}, and the file has {size:,} bytes")
            fields = json.loads(file.read(length))
        fields.pop("__metadata__", None)
        end = 8 + length + _end_of(fields)
        if end > size:
            raise _TooShort(f"by its header it has {end:,} bytes, and there are {size:,}")
        if end < size:
            raise ValueError(f"by its header it has {end:,} bytes, and there are {size:,}: {size - end:,} belong to no tensor")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as problem:
        hint = "is the download complete?" if isinstance(problem, _TooShort) else "is it a safetensors file?"
        raise InputError(f"{path} cannot be read as safetensors ({problem}): {hint}") from problem
    return 8 + length, fields


def _end_of(fields: dict) -> int:
    """Where the last tensor of a header ends; ValueError, with its name, for one that does not begin where another ends."""
    for name, field in fields.items():
        offsets, shape = field["data_offsets"], field["shape"]
        if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in offsets) or offsets[0] > offsets[1]:
            raise ValueError(f"tensor {name} has the offsets {offsets}, not two positions in the file")
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"tensor {name} has the shape {shape}")
        length = offsets[1] - offsets[0]
        if field["dtype"] in DTYPES and length != math.prod(shape) * DTYPES[field["dtype"]].itemsize:
            raise ValueError(f"{length:,} bytes for tensor {name}, {field['dtype']} {shape}")
    end = 0
    for name in sorted(fields, key=lambda name: fields[name]["data_offsets"]):
        begin, after = fields[name]["data_offsets"]
        if begin != end:
            what = "a gap" if begin > end else "two tensors in one place"
            raise ValueError(f"tensor {name} begins at byte {begin:,} of the data, and the one before ends at {end:,}: {what}")
        end = after
    return end


def tensor_names(config: LlamaConfig) -> dict[tuple[str, ...], str]:
    """Path in our tree -> Hugging Face name; `{}` stands for the layer number of a stacked weight."""
    names = {}
    for keys in tensor_shapes(config):
        if keys[0] == "layers":
            names[keys] = "model.layers.{}." + ".".join(keys[1:]) + ".weight"
        else:
            names[keys] = "lm_head.weight" if keys == ("lm_head",) else f"model.{keys[0]}.weight"
    return names


def tensor_shapes(config: LlamaConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path in our tree -> shape, of one layer where the weight is stacked; the shapes of openko.llama.abstract, without jax."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    in_layer = {
        "input_layernorm": (hidden,),
        "mlp.down_proj": (hidden, inner), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "post_attention_layernorm": (hidden,),
        "self_attn.k_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries), "self_attn.q_proj": (queries, hidden),
        "self_attn.v_proj": (keys, hidden),
    }  # fmt: skip
    ends = {} if config.tie_word_embeddings else {("lm_head",): (config.vocab_size, hidden)}
    return (
        {("embed_tokens",): (config.vocab_size, hidden)}
        | {("layers", *name.split(".")): shape for name, shape in in_layer.items()}
        | ends
        | {("norm",): (hidden,)}
    )


def load(directory: Path, *, shardings=None, rope: Rope | None = None) -> tuple[LlamaConfig, dict]:
    """Config and parameters of a directory, in the dtype they are stored in.

    shardings: a tree like the parameters; each process then reads only the slices of its own devices. Without it
    the arrays lie on the default device.
    """
    import jax

    from openko import llama

    config, _ = read_config(directory, rope)
    tensors = Tensors(directory)
    check_tensors(tensors, config)
    names, wanted = tensor_names(config), llama.abstract(config)
    if shardings is None:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: here, wanted)

    def place(path, shape, sharding):
        keys = tuple(k.key for k in path)
        name = names[keys]

        def read(index):
            if keys[0] != "layers":
                return tensors.read(name, index)
            layers = range(config.num_hidden_layers)[index[0]]
            return np.stack([tensors.read(name.format(layer), index[1:]) for layer in layers])

        return jax.make_array_from_callback(shape.shape, sharding, read)

    return config, jax.tree_util.tree_map_with_path(place, wanted, shardings)


def check_tensors(tensors: Tensors, config: LlamaConfig) -> list[str]:
    """Every tensor there, none unknown, each of the shape that config.json implies. The names, in the order of the model."""
    names = []
    for _, name, shape in _each(config):  # the first that is missing ends it, however many layers config.json claims
        names.append(name)
        if name not in tensors.info:
            raise InputError(f"{tensors.directory}: tensor {name} is missing; config.json asks for {shape}")
        found = tensors.info[name]
        if found.shape != shape:
            raise InputError(f"{found.file}: tensor {name} has shape {found.shape}, but config.json makes it {shape}")
    # Old Llama exports carry the inverse frequencies, which readers compute from θ; tied ones may repeat the embedding.
    extra = {n for n in set(tensors.info) - set(names) if not re.fullmatch(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", n)}
    if extra == {"lm_head.weight"} and config.tie_word_embeddings:
        if _equal(tensors.info["lm_head.weight"], tensors.info["model.embed_tokens.weight"]):
            return names
        raise InputError(f"{tensors.directory}: lm_head.weight differs from the embedding, but tie_word_embeddings is true")
    if extra:
        raise InputError(f"{tensors.directory}: unknown tensor {', '.join(sorted(extra)[:5])}: this is not a plain Llama")
    return names


def _equal(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors hold the same numbers; read a piece at a time, for a memory map of both would count as memory."""

    def piece(info: TensorInfo, start: int) -> np.ndarray:
        length = min(PIECE, info.size - start) * info.dtype.itemsize
        return np.fromfile(info.file, np.uint8, length, offset=info.start + start * info.dtype.itemsize).view(info.dtype)

    return one.shape == other.shape and all(np.array_equal(piece(one, k), piece(other, k)) for k in range(0, one.size, PIECE))


def _each(config: LlamaConfig) -> Iterator[tuple[tuple, str, tuple[int, ...]]]:
    """(path and layer, Hugging Face name, shape) of every tensor, in the order of the model."""
    names, shapes = tensor_names(config), tensor_shapes(config)
    yield (("embed_tokens",), None), names[("embed_tokens",)], shapes[("embed_tokens",)]
    for layer in range(config.num_hidden_layers):
        for path, name in names.items():
            if path[0] == "layers":
                yield (path, layer), name.format(layer), shapes[path]
    for path in (("norm",), ("lm_head",)):
        if path in names:
            yield (path, None), names[path], shapes[path]


def save(
    directory: Path, config: LlamaConfig, parameters: dict, *, carried: dict | None = None, dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:  # fmt: skip
    """Write config.json, generation_config.json and the weights into `directory` (a temporary one: manifest.build).

    dtype: "float32", "bfloat16" or "float16"; by default that of the parameters. One tensor at a time is on the host.
    Where the parameters lie over several hosts, all call this (`gather` on the others), and the first writes.
    """
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype) if dtype else parameters["embed_tokens"].dtype)

    entries = ((name, dtype, shape, lambda p=path: [_on_host(parameters, *p).astype(dtype)]) for path, name, shape in _each(config))
    write_tensors(directory, entries, shard_bytes=shard_bytes)
    write_configs(directory, config, (carried or {}) | {"dtype": str(dtype), "torch_dtype": str(dtype)})


def gather(config: LlamaConfig, parameters: dict) -> None:
    """What a host that does not write has to do while the first one saves: give its part of each tensor, in order."""
    for path, _, _ in _each(config):
        _on_host(parameters, *path)


def _on_host(parameters: dict, path: tuple[str, ...], layer: int | None) -> np.ndarray:
    leaf = parameters
    for key in path:
        leaf = leaf[key]
    leaf = leaf if layer is None else leaf[layer]
    import jax
    from jax.experimental import multihost_utils

    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def write_configs(directory: Path, config: LlamaConfig, carried: dict) -> None:
    """config.json and generation_config.json (begin and end tokens, as `generate` reads them).

    Refused where config.json, read again, says another RoPE than `config`: fields that are carried must not decide it.
    """
    ids = {k: v for k, v in carried.items() if k in ("bos_token_id", "eos_token_id", "pad_token_id") and v is not None}
    for name, content in (("config.json", config_to_hf(config, carried)), ("generation_config.json", ids)):
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    written = read_config(directory)[0].rope
    if written != config.rope:
        raise InputError(f"{directory}/config.json says {written}, but the weights are turned by {config.rope}: not exported")


@dataclass(frozen=True)
class PlannedFile:
    """A safetensors file before its weights: the bytes of its header, then each of `tensors` at its `start`, without gaps."""

    path: Path
    header: bytes
    tensors: dict[str, TensorInfo]

    @property
    def bytes(self) -> int:
        return len(self.header) + sum(info.bytes for info in self.tensors.values())


def plan_files(directory: Path, tensors: Iterable[tuple[str, np.dtype, tuple[int, ...]]], *, shard_bytes: int) -> list[PlannedFile]:
    """The safetensors files for (name, dtype, shape)s in their order, of at most `shard_bytes` each (one tensor at least)."""
    shards, size = [[]], 0
    for name, dtype, shape in tensors:
        length = math.prod(shape) * dtype.itemsize
        if shards[-1] and size + length > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, dtype, shape, length))
        size += length
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    return [_planned(directory / name, shard) for name, shard in zip(names, shards, strict=True)]


def _planned(path: Path, entries: list[tuple]) -> PlannedFile:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    fields, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, length in entries:
        fields[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(fields).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    start = 8 + len(text)
    infos = {name: TensorInfo(path, tuple(shape), dtype, start + fields[name]["data_offsets"][0]) for name, dtype, shape, _ in entries}
    return PlannedFile(path, struct.pack("<Q", len(text)) + text, infos)


def bytes_from(text: str) -> int:
    """ "5GB" -> 5,000,000,000, as transformers' max_shard_size: kB, MB, GB, TB are powers of ten, KiB to TiB of two."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " ")) if found else 0
    if size < 1:
        raise InputError(f"{text!r} is not a number of bytes: write 5GB or 500MB")
    return size


def write_index(directory: Path, files: list[PlannedFile]) -> None:
    """The index that readers need where there are several files."""
    if len(files) > 1:
        weight_map = {name: file.path.name for file in files for name in file.tensors}
        total = sum(info.bytes for file in files for info in file.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_tensors(directory: Path, tensors: Iterable, *, shard_bytes: int) -> None:
    """safetensors files of at most `shard_bytes` (one tensor at least), with an index when there are several.

    tensors: (name, dtype, shape, function that yields the content in consecutive pieces). Streaming: a shard's
    header needs only names and shapes, so the content is asked for piece by piece.
    """
    tensors = list(tensors)
    contents = {name: content for name, *_, content in tensors}
    files = plan_files(directory, [entry[:3] for entry in tensors], shard_bytes=shard_bytes)
    for planned in files:
        with open(planned.path, "wb") as file:
            file.write(planned.header)
            for name, info in planned.tensors.items():
                written = 0
                for piece in contents[name]():
                    written += file.write(np.ascontiguousarray(piece, info.dtype).view(np.uint8).reshape(-1).data)
                if written != info.bytes:
                    raise ValueError(f"{name}: {written} bytes came for a tensor of {info.bytes}")
    write_index(directory, files)
