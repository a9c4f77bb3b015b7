"""Korean text by the gigabyte for the benchmarks: documents of shuffled sentences of the installed packages' real Korean."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from openko.corpus import build, packages, parts, recipe

DOCUMENT_BYTES = 2500  # the mean; lengths are spread as those of web pages are, from 0.5 to 30 kB


def sentences(directory: Path) -> list[str]:
    """Distinct lines of real Korean: laws, bills and manuals, as the recipe `laptop` reads them. directory: for packages and corpus."""
    packages.install(directory / "packages")
    build.build(directory / "corpus", recipe.load("laptop"), data=directory / "packages", say=lambda line: None)
    lines = {line.strip() for d in parts.stream(directory / "corpus", "ko.train") for line in d["text"].splitlines()}
    return sorted(line for line in lines if 20 <= len(line) <= 400)


def documents(pool: list[str], size: int, seed: int = 0) -> Iterator[dict]:
    """{"id", "text"} until `size` bytes of text are there."""
    draw, made, number = random.Random(seed), 0, 0
    while made < size:
        wanted = min(30_000, max(500, draw.lognormvariate(7.5, 0.8)))
        lines, have = [], 0
        while have < wanted:
            lines.append(draw.choice(pool))
            have += len(lines[-1].encode()) + 1
        text = "\n".join(lines)
        yield {"id": f"made/{number}", "text": text}
        made, number = made + len(text.encode()), number + 1


def write(pool: list[str], size: int, directory: Path, files: int) -> list[Path]:
    """JSON lines of `size` bytes of text in all, in as many files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"made-{number:02d}.jsonl" for number in range(files)]
    for number, path in enumerate(paths):
        with open(path, "w", encoding="utf-8") as file:
            for document in documents(pool, size // files, seed=number):
                file.write(json.dumps(document | {"id": f"made/{number}/{document['id']}"}, ensure_ascii=False) + "\n")
    return paths
