"""The laptop's text: real Korean that installed packages carry.

Korean text is not in this repository. `install` fetches pinned PyPI packages into a folder, without what they depend
on, and only their data files are read (recipe `laptop`): no code of theirs is ever imported.
"""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

from openko import manifest
from openko.errors import InputError


def pinned() -> list[str]:
    """The requirements of the extra `text`, each pinned to one version."""
    marked = re.compile(r"""^(?P<pin>\S+)\s*;\s*extra\s*==\s*['"]text['"]$""")
    found = (marked.match(line) for line in importlib.metadata.requires("openko") or ())
    return sorted(m["pin"] for m in found if m)


def install(directory: Path) -> manifest.Manifest:
    """Install the text packages into `directory`, without their dependencies; once."""

    def make(partial: Path) -> dict:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile",
                   "--disable-pip-version-check", "--upgrade", "--target", str(partial), *pinned()]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"pip could not fetch {' '.join(pinned())}: {done.stderr.strip()[-600:]}\n"
                f"Is the package index reachable? The same by hand: {' '.join(command)}"
            )
        licences = {}
        for path in sorted(partial.glob("*.dist-info/METADATA")):
            fields = importlib.metadata.PathDistribution(path.parent).metadata
            licences[fields["Name"]] = fields["License-Expression"] or fields["License"]
        return {"licences": licences}

    return manifest.build(
        directory, kind="text-packages", recipe={"packages": pinned()}, inputs={}, module="openko.corpus.packages", make=make
    )
