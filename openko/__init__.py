"""openko: Llama-3-Open-Ko, the whole road, open and reproducible.

    import openko as ok
    config, parameters = ok.load("runs/laptop/models/tiny-llama3-open-ko")
    ok.Sampler("runs/laptop/models/tiny-llama3-open-ko-instruct-preview").answer(["안녕?"])

The names below are the public ones; each is imported when it is first used, so that `import openko` costs nothing.
"""

import importlib

_PUBLIC = {
    "InputError": "errors", "Rope": "rope", "LlamaConfig": "profiles", "PROFILES": "profiles", "Llama": "llama",
    "load": "hf_weights", "save": "hf_weights", "TokenShards": "shards", "BitsPerByte": "bits_per_byte", "merge": "chat_vector",
    "Sampler": "sampling", "train": "training.loop",
}  # fmt: skip
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"openko has no public name {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"openko.{_PUBLIC[name]}"), name)
