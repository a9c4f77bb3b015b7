"""What a notebook needs to run anywhere: set-up on Colab and Kaggle, checked parameters, and places on disk.

The notebooks meet only through what lies under `out_dir`: directories with manifests, and the numbers in results/.
`start` is the first call of each.
"""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

from openko import manifest, profiles
from openko.errors import InputError
from openko.profiles import Profile

ROOT = Path(__file__).parent.parent
NAMES = ("01_tokenizers", "02_corpus", "03_pretraining", "04_rope", "05_chat_vector", "06_samples", "07_evaluation", "08_koen")
JUPYTER_NAMES = {"In", "Out", "exit", "quit", "open", "get_ipython", "nb"}


@dataclass(frozen=True)
class Run:
    """One run of the road: the profile, and where each step's directory lies."""

    notebook: str
    profile: Profile
    out: Path
    base_dir: str = ""
    chat_dir: str = ""

    @property
    def packages(self) -> Path:
        """Installed text packages and the Hangul font."""
        return self.out / "packages"

    @property
    def corpus(self) -> Path:
        return self.out / "corpus"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer trained in the run, or the released model's own."""
        return self.out / "tokenizer" if self.profile.tokenizer == "tiny" else self.base

    @property
    def base(self) -> Path:
        """The model that is continued: released, or pretrained in the run."""
        return Path(self.base_dir) if self.base_dir else self.model(self.profile.names.base)

    @property
    def chat(self) -> Path:
        """Its chat version."""
        return Path(self.chat_dir) if self.chat_dir else self.model(self.profile.names.chat)

    @property
    def continued(self) -> Path:
        return self.model(self.profile.names.continued)

    @property
    def control(self) -> Path | None:
        return self.model(self.profile.names.control) if self.profile.names.control else None

    @property
    def merged(self) -> Path:
        return self.model(self.profile.names.merged)

    def koen(self, share: float) -> Path:
        """The model whose continued pretraining had this share of English; the last of the profile's is KoEn."""
        name = self.profile.names.koen
        return self.model(name if share == self.profile.english_in_koen[-1] else f"{name}-{100 * share:g}")

    @property
    def koen_merged(self) -> Path:
        return self.model(self.profile.names.koen_merged)

    def shards(self, part: str) -> Path:
        return self.out / "shards" / part

    def model(self, name: str) -> Path:
        return self.out / "models" / name

    def need(self, directory: Path, made_by: str) -> Path:
        """`directory`, or a message that names the notebook that makes it; a released model needs no manifest."""
        if directory.as_posix() in (self.base_dir, self.chat_dir):
            return directory
        manifest.read(directory, made_by=f"notebook {made_by}")
        return directory

    def figure(self, name: str, data: dict):
        """Save NAME.json and NAME.png under out/figures and show the picture."""
        from IPython.display import Image

        from openko import figures

        return Image(str(figures.save(self.out / "figures", name, data, packages=self.packages)))

    def record(self, **values) -> None:
        """Keep numbers for summary.json: results/NOTEBOOK.json under `out`, one key at a time."""
        path = self.out / "results" / f"{self.notebook}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        manifest.write_json(path, known | values)

    def recorded(self, notebook: str) -> dict:
        """What another notebook recorded: its results/NOTEBOOK.json."""
        path = self.out / "results" / f"{notebook}.json"
        if not path.is_file():
            raise InputError(f"{path} is not there: run notebook {notebook} first")
        return json.loads(path.read_text(encoding="utf-8"))


def start(notebook: str, namespace: dict) -> Run:
    """Check the parameters in a notebook's globals() and open the run; to be called right after the parameters.

    Unknown names are refused: papermill would set a mistyped parameter and go on with the default.
    """
    declared = declared_parameters(ROOT / "notebooks" / f"{notebook}.ipynb")
    if "_openko_started" in namespace:  # the cell is run a second time, and the story's own names are there
        namespace = {k: v for k, v in namespace.items() if k in declared}
    plain = {k: v for k, v in namespace.items() if not k.startswith("_") and not callable(v) and not isinstance(v, types.ModuleType)}
    unknown = set(plain) - set(declared) - JUPYTER_NAMES
    if unknown:
        raise InputError(f"{notebook}: unknown parameter {', '.join(sorted(unknown))}; it takes {', '.join(declared)}")
    for name, default in declared.items():
        value = namespace.get(name, default)
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise InputError(f"{notebook}: parameter {name} must be a {type(default).__name__}, found {value!r}")
    os.chdir(ROOT)  # relative directories count from the repository, wherever Jupyter started
    profile = profiles.get(namespace["profile"] or os.environ.get("OPENKO_PROFILE") or "laptop")
    for name, stage in (("base_dir", profile.pretraining), ("chat_dir", profile.chat_tuning)):
        if stage is None and name in declared and not namespace[name]:
            raise InputError(f"{notebook}: profile {profile.name} uses a released model: set {name} to its Hugging Face directory")
        if namespace.get(name) and not Path(namespace[name]).is_dir():
            raise InputError(f"{notebook}: {name} {namespace[name]!r} is not a directory")
    if profile.platform == "cpu":
        # Before jax is imported: the same bits on a machine that also has an accelerator, and no search for a TPU.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "false")  # openko.training.pages.compute_in_line, in time
    out = Path(namespace["out_dir"] or os.environ.get("OPENKO_OUT") or f"runs/{profile.name}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"out_dir {out} cannot be made ({problem.strerror}): choose another place") from None
    # What one notebook compiled, another finds there, and so does the same one when it is run again.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((out / ".cache" / "jax").absolute()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))  # only with a limit does jax lock it against a second notebook
    warnings.filterwarnings("ignore", message="IProgress not found")  # of libraries' progress bars, which openko does without
    namespace["_openko_started"] = True
    print(f"profile {profile.name} ({profile.hardware}) → {out}")
    released = {name: Path(namespace[name]).as_posix() if namespace.get(name) else "" for name in ("base_dir", "chat_dir")}
    return Run(notebook, profile, out, **released)


def declared_parameters(path: Path) -> dict:
    """{name: default} of a notebook's `parameters` cell."""
    # As JSON: importing nbformat takes two seconds where jsonschema's grammars are installed, as they are with Jupyter.
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            assignments = [node for node in ast.parse("".join(cell["source"])).body if isinstance(node, ast.Assign)]
            return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}
    raise InputError(f"{path} has no cell tagged 'parameters'")


def install_missing() -> list[str]:
    """On Colab and Kaggle: add what openko needs and the image lacks, and leave the rest (its jax above all) alone."""
    missing = []
    for line in importlib.metadata.requires("openko") or ():
        if "extra ==" in line:
            continue
        name = re.match(r"[\w.-]+", line).group()
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(line)
    if missing:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *missing], check=True)
    return missing
