"""lm-eval's task files, read without lm-eval: importing it takes seconds, and a study is planned in fewer.

Read in lm-eval 0.4.13, `lm_eval/tasks/_yaml_loader.py`, `lm_eval/tasks/_index.py` and `lm_eval/api/registry.py`.
"""

import ast
import difflib
import hashlib
import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from scripts.common.files import project
from scripts.store.fingerprint import file_sha256

LOCK = "envs/requirements.lock"
CHOICE, WORD, MATCH, PROGRAMS = "choice", "word", "match", "programs"
_ANSWERS = {"multiple_choice": CHOICE, "loglikelihood": WORD, "generate_until": MATCH}
_METRICS = {"multiple_choice": ("acc", "acc_norm"), "loglikelihood": ("acc",), "generate_until": ("exact_match",)}
"""What is recorded where a file has no `metric_list`, but for perplexity, which is no mean."""
MEANS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""lm-eval's metrics that are means of what rises, where a file does not say it; each from 0 to 1."""
_GENERATION = {"until", "do_sample", "temperature", "top_p", "max_gen_toks"}
_CODE_EVAL = "code_eval"


@dataclass(frozen=True)
class Function:
    """What a file names by ``!function``: its name, and the module's file where that lies beside."""

    name: str
    module: Path | None


@dataclass(frozen=True)
class Metric:
    name: str
    rises: bool
    averaged: bool
    """Whether a score is the mean over items."""


@dataclass(frozen=True)
class TaskFile:
    """A task file with those that it includes; what it says wins over what they say."""

    path: Path
    config: Mapping[str, Any]
    read: tuple[Path, ...]
    """It and those that it includes."""

    @property
    def modules(self) -> list[Path]:
        """The modules beside it that its functions are in."""
        return sorted({one.module for one in _functions(self.config) if one.module})

    @property
    def sha256(self) -> str:
        """Of all that it is made of: by their names, the files and the modules."""
        lines = sorted({f"{file_sha256(path)}  {path.name}\n" for path in (*self.read, *self.modules)})
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def output_type(self) -> str:
        return str(self.config.get("output_type", "generate_until"))

    @property
    def answers(self) -> str:
        """The kind of its answers: `CHOICE`, `WORD`, `MATCH` or `PROGRAMS`."""
        kind = _ANSWERS[self.output_type]
        return PROGRAMS if kind == MATCH and self.config.get("unsafe_code") else kind

    @property
    def shots(self) -> int:
        """How many stand before an item unless a study says another number."""
        return int(self.config.get("num_fewshot") or 0)

    @property
    def has_shots(self) -> bool:
        """Whether the file has examples of its own to stand before an item."""
        return bool((self.config.get("fewshot_config") or {}).get("samples"))

    @property
    def max_new_tokens(self) -> int | None:
        """Where an answer is cut off, if it says so."""
        return (self.config.get("generation_kwargs") or {}).get("max_gen_toks")

    @property
    def metrics(self) -> list[Metric]:
        """What is recorded; the first is the value unless a study says another."""
        said = self.config.get("metric_list")
        if said is None:
            return [Metric(name, rises=True, averaged=True) for name in _METRICS[self.output_type]]
        found = []
        for one in said:
            named = one["metric"]
            name = named.name if isinstance(named, Function) else str(named)
            # a metric that lm-eval's tasks for HumanEval have records one for each of its numbers
            counts = one.get("k") if name == "pass_at_k" else None
            names = (
                [name] if counts is None else [f"pass@{k}" for k in (counts if isinstance(counts, list) else [counts])]
            )
            mean = one.get("aggregation", "mean" if name in MEANS else None) == "mean"
            rises = bool(one.get("higher_is_better", name in MEANS))
            found += [Metric(name, rises, mean) for name in names]
        return found

    def problem(self) -> str | None:
        """Why models cannot be asked it here; None where they can."""
        config = self.config
        if "class" in config:
            return "is a class of Python, and only what a file says by itself can be asked"
        if "group" in config or isinstance(config.get("task"), list):
            members = [
                str(one.get("task", one)) if isinstance(one, dict) else str(one) for one in config.get("task", [])
            ]
            some = f" (such as {members[0]})" if members else ""
            return f"is a group of tasks, whose score is made of several; name one of them{some}"
        if self.output_type not in _ANSWERS:
            return f"has the output_type {self.output_type!r}, which must be {' or '.join(_ANSWERS)}"
        for key in ("doc_to_image", "doc_to_audio", "use_prompt", "custom_dataset"):
            if config.get(key) is not None:
                return f"has the key {key}, which is not supported"
        if int(config.get("repeats") or 1) > 1:
            return f"asks for {config['repeats']} answers to an item, and only one is supported"
        if "doc_to_text" not in config:
            return "has no doc_to_text, so nothing to ask"
        return self._problem_of_answers()

    def _problem_of_answers(self) -> str | None:
        config = self.config
        generation = config.get("generation_kwargs") or {}
        if unknown := sorted(set(generation) - _GENERATION):
            return f"has generation_kwargs.{unknown[0]}, which is not supported"
        if generation.get("do_sample", float(generation.get("temperature") or 0) > 0):
            return "draws its answers at random (generation_kwargs.do_sample), and only the likeliest is supported"
        runs = any(_CODE_EVAL in path.read_text(encoding="utf-8") for path in self.modules)
        if config.get("unsafe_code") and not (runs and self.answers == PROGRAMS):
            return (
                f"has `unsafe_code` and judges programs otherwise than by evaluate's {_CODE_EVAL}, so that they would "
                "run outside the sandbox"
            )
        if runs and not config.get("unsafe_code"):
            return f"runs programs by evaluate's {_CODE_EVAL}, and must say `unsafe_code: true`"
        if missing := sorted({name for path in self.modules for name in _missing(path)}):
            return f"needs {', '.join(missing)}, which {LOCK} does not have"
        return None


def of_name(name: str) -> TaskFile:
    """lm-eval's task of a name.

    Raises:
        ValueError: there is none, it is a group, or models cannot be asked it here; said in a sentence.
    """
    _require_locked()
    path = _place(name)
    if path is None:
        near = difflib.get_close_matches(name, _all(), n=3, cutoff=0.6)
        close = f"; close ones are {', '.join(near)}" if near else ""
        raise ValueError(f"lm-eval {version()} has no task {name!r}{close}")
    found = _read(path)
    if problem := found.problem():
        raise ValueError(f"lm-eval's {name} {problem}")
    return found


def of_file(file: str) -> TaskFile:
    """The task of a file of one's own, absolute or relative to the repository.

    Raises:
        ValueError: it is not there, no task file, or models cannot be asked it here; said in a sentence.
    """
    _require_locked()
    path = project(file)
    if not path.is_file():
        raise ValueError(f"{file} is not a file")
    found = _read(path, _state(path))
    if not isinstance(found.config.get("task"), str | list) and "group" not in found.config:
        raise ValueError(f"{file} has no key `task`, so it is no task of lm-eval")
    if problem := found.problem():
        raise ValueError(f"{file} {problem}")
    return found


@cache
def version() -> str:
    """lm-eval's version, as the lock has it."""
    found = re.search(r"^lm-eval==(\S+)", project(LOCK).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{LOCK} has no line lm-eval==VERSION")
    return found[1]


@cache
def _require_locked() -> None:
    """Raises ValueError where another lm-eval is installed: its tasks may not be the locked one's."""
    try:
        there = importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError:
        there = "none"
    if there != version():
        raise ValueError(f"lm-eval {version()} is locked ({LOCK}), and {there} is installed; run `make setup`")


def _tasks() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


@cache
def _files() -> tuple[Path, ...]:
    return tuple(sorted(_tasks().rglob("*.yaml")))


@cache
def _place(name: str) -> Path | None:
    """The file of a task or a group. Those whose path has the name are read first: there are 14,000."""
    pattern = re.compile(
        rf"^[\"']?(?:task|group)[\"']?:\s*[\"']?{re.escape(name)}[\"']?\s*(?:#.*)?$".encode(), re.MULTILINE
    )
    for path in sorted(_files(), key=lambda path: name not in str(path)):
        if pattern.search(path.read_bytes()):
            return path
    return None


def _all() -> Iterator[str]:
    pattern = re.compile(r"^[\"']?(?:task|group)[\"']?:[ \t]*[\"']?([\w.+-]+)", re.MULTILINE)
    for path in _files():
        yield from pattern.findall(path.read_text(encoding="utf-8", errors="replace"))


def _state(path: Path) -> tuple[int, ...]:
    """Changes with any file that the task may be made of."""
    return tuple(file.stat().st_mtime_ns for file in sorted(path.parent.iterdir()) if file.suffix in (".yaml", ".py"))


@cache
def _read(path: Path, _of: tuple[int, ...] = ()) -> TaskFile:
    read: list[Path] = []
    return TaskFile(path, _config(path.resolve(), read), tuple(read))


def _config(path: Path, read: list[Path]) -> dict[str, Any]:
    """The data of a file and those that it includes, which are put into `read`."""
    if path in read:
        raise ValueError(f"{path} includes itself")
    read.append(path)

    class Loader(yaml.SafeLoader):
        pass

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Function:
        module, _, name = str(loader.construct_scalar(node)).rpartition(".")
        beside = path.parent / f"{module.replace('.', '/')}.py"
        return Function(name, beside if beside.is_file() else None)

    Loader.add_constructor("!function", function)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold keys and values")
    included = data.pop("include", [])
    merged: dict[str, Any] = {}
    for one in included if isinstance(included, list) else [included]:
        merged |= _config((path.parent / one).resolve(), read)
    return merged | data


def _functions(value: Any) -> Iterator[Function]:
    if isinstance(value, Function):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _functions(one)


def _missing(module: Path) -> Iterator[str]:
    """The packages that importing a module would fail for."""
    with warnings.catch_warnings(action="ignore"):  # of another's module
        tree = ast.parse(module.read_text(encoding="utf-8"))
    for name in _imported(tree.body):
        if not (module.parent / f"{name}.py").is_file() and importlib.util.find_spec(name) is None:
            yield name


def _imported(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """The packages that statements import, but for those whose absence they handle."""
    for one in statements:
        if isinstance(one, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in one.names)
        elif isinstance(one, ast.ImportFrom) and one.module and not one.level:
            yield one.module.partition(".")[0]
        elif isinstance(one, ast.Try) and any(isinstance(s, ast.Raise) for h in one.handlers for s in ast.walk(h)):
            yield from _imported(one.body)
