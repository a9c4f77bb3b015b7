"""The peer of pack.py, in a process of its own: `datasets.map` with transformers' fast tokenizer. Prints the seconds of the map.

python benchmarks/pack_peer.py TOKENIZER_DIRECTORY CACHE PROCESSES FILE.jsonl…
"""

import sys
import time

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast


def encode(batch, fast):
    ids = fast(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return {"input_ids": [[fast.bos_token_id, *some, fast.eos_token_id] for some in ids]}


def main() -> None:
    directory, cache, processes, *files = sys.argv[1:]
    datasets.disable_progress_bars()
    fast = PreTrainedTokenizerFast(tokenizer_file=f"{directory}/tokenizer.json", bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    data = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
    options = {"num_proc": int(processes), "remove_columns": data.column_names, "load_from_cache_file": False}
    began = time.perf_counter()
    mapped = data.map(encode, batched=True, fn_kwargs={"fast": fast}, **options)
    print(time.perf_counter() - began)
    with open(f"{cache}/ids.bin", "wb") as file:  # to be compared
        for batch in mapped.with_format("numpy").iter(1000):
            np.concatenate(batch["input_ids"]).astype("<u4").tofile(file)


if __name__ == "__main__":
    main()
