"""The peer of dedup.py, in a process of its own: datatrove's MinHash pipeline for Korean, with its default options.

    python benchmarks/dedup_peer.py DIRECTORY_OF_JSONL OUT WORKERS

5-grams of Kiwi's words, 14 buckets of 8 hashes; dedup.py says what must be installed. Writes OUT/documents/*.jsonl; what datatrove
says goes to OUT/log.txt. What was chosen in its favour: plain JSON lines in and out in place of gzip; as many tasks as workers where
documents are read, so that each loads Kiwi's model once; workers forked, so that none imports datatrove anew.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    given, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    out.mkdir(parents=True)
    with open(out / "log.txt", "w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # of the workers too
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.typeshelper import Languages

    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    signatures, matches, removed = (str(out / name) for name in ("signatures", "matches", "removed"))

    def run(name: str, tasks: int, *pipeline) -> None:
        options = {"tasks": tasks, "workers": min(tasks, workers), "start_method": "fork", "logging_dir": str(out / "logs" / name)}
        LocalPipelineExecutor(list(pipeline), **options).run()

    def read() -> JsonlReader:
        return JsonlReader(str(given), glob_pattern="*.jsonl", compression=None)

    run("signatures", workers, read(), MinhashDedupSignature(signatures, config, language=Languages.korean))
    run("buckets", config.num_buckets, MinhashDedupBuckets(signatures, matches, config=config))
    run("cluster", 1, MinhashDedupCluster(matches, removed, config=config))
    run("filter", workers, read(), MinhashDedupFilter(removed), JsonlWriter(str(out / "documents"), compression=None))


if __name__ == "__main__":
    main()
