"""HumanEval: programs that pass their tests."""

import ast
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from scripts.common.errors import UserError
from scripts.components.asking.answers import Programs
from scripts.components.asking.items import Item, read
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.part import FILE_IS_READ, Count, Name, field
from scripts.components.tasks import Given, Settings, Size, Task


def _can_be_imported(names: list[str], info: ValidationInfo) -> list[str]:
    """The names, each of which could be one that programs import, and is one where a study's file is read."""
    is_read = names and info.context and info.context.get(FILE_IS_READ)
    installed = metadata.packages_distributions() if is_read else None
    for name in names:
        if not name.isidentifier() or (installed is not None and name not in installed):
            command = "from importlib.metadata import packages_distributions as names; print(*sorted(names()))"
            raise ValueError(
                f"{name!r} is not a name by which Python imports what is installed here; "
                f'`{sys.executable} -c "{command}"` lists those that are allowed'
            )
    return names


_Imported = Annotated[str, Field(json_schema_extra={"pattern": r"^[A-Za-z_]\w*$"})]


class HumanEval(Settings):
    """pass@1 from `samples` programs a problem, each executed in the sandbox."""

    judging: ClassVar[frozenset[str]] = frozenset({"timeout_seconds", "memory_mb", "packages"})

    dataset: Name = field("name of the dataset with the problems", paper="section 3.2")
    preset: Literal["bigcode", "lm-eval"] = field(
        "whose prompts and stop sequences. `bigcode`: the bigcode harness strips prompts, and has three stop sequences "
        "more; `lm-eval`: prompts as they are",
        default="bigcode",
        paper="section 3.2: bigcode",
    )
    samples: Count = field("programs written for a problem", unit="programs", paper="section 3.2: 50; figure S9: 256")
    temperature: Annotated[float, Field(gt=0)] = field(
        "divides the logits before a token is drawn", paper="section 3.2: 0.2; figure S9: 0.8"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = field(
        "tokens are drawn from the fewest likeliest that have this mass together",
        unit="probability",
        paper="section 3.2: 0.95; figure S9: not said",
    )
    max_new_tokens: Count | None = field(
        "where a program is cut off that does not end; stands exactly where `max_length` does not",
        default=None,
        unit="tokens",
        paper="not said",
    )
    max_length: Count | None = field(
        "where prompt and program together are cut off, instead: a longer prompt leaves less room",
        default=None,
        unit="tokens",
        paper="not said; the bigcode harness's default: 512",
    )
    timeout_seconds: Annotated[float, Field(gt=0)] = field(
        "how long a program with its tests may run; then it has failed", default=3.0, unit="seconds", paper="not said"
    )
    memory_mb: Count = field("address space of a program's process", default=2048, unit="MiB", paper="not said")
    packages: Annotated[list[_Imported], AfterValidator(_can_be_imported)] = field(
        "packages of the evaluation's environment that programs may import, beside the standard library",
        default=[],
        paper="not said",
    )

    @model_validator(mode="after")
    def _ends_somewhere(self) -> Self:
        if (self.max_new_tokens is None) == (self.max_length is None):
            raise ValueError("exactly one of max_new_tokens and max_length must stand")
        return self

    def excess(self, context: int) -> str | None:
        if (self.max_length or 0) > context:
            return f"max_length: must not exceed the model's context ({context})"
        return super().excess(context)

    def asked(self) -> dict[str, Any]:
        asked = {key: value for key, value in super().asked().items() if value is not None}
        if self.preset == "bigcode":
            del asked["preset"]
        if self.packages:
            return asked | {"packages": sorted(set(self.packages))}
        del asked["packages"]
        return asked


class Problem(Form):
    """The beginning of a program, and the function ``check`` that tests the one that it defines."""

    called: ClassVar[str] = "item of humaneval"

    prompt: Filled
    test: Filled
    entry_point: Filled

    @model_validator(mode="after")
    def _can_be_tested(self) -> Self:
        if not self.entry_point.isidentifier():
            raise ValueError(f"entry_point must be the name of a function, and is {self.entry_point!r}")
        try:
            defined = {part.name for part in ast.parse(self.test).body if isinstance(part, ast.FunctionDef)}
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"test must be a program in Python ({error})") from error
        if "check" not in defined:
            raise ValueError("test must define the function check(candidate)")
        return self


def _file(settings: Mapping[str, Any], records: Path) -> str:
    return "humaneval_lm_eval" if settings.get("preset") == "lm-eval" else "humaneval"


def _check(given: Given) -> None:
    """Raises UserError where a prompt leaves no room for a program."""
    most = given.settings.get("max_length")
    if most is None:
        return
    text = prompt if given.settings.get("preset") == "lm-eval" else stripped_prompt
    for line, length in enumerate(given.lengths([text(item) for item in read(given.records)]), start=1):
        if length >= most:
            raise UserError(
                f"{given.records}, line {line}: the prompt has {length} tokens and leaves no room for a program, as "
                f"evaluation.tasks.{given.settings['task']}.max_length is {most}, prompt included"
            )


TASK = Task(
    name="humaneval",
    forms=(Problem,),
    settings=HumanEval,
    meaning="learning of code: programs that pass their tests",
    paper="section 3.2",
    measures=frozenset({"learning", "forgetting"}),
    shown=accuracy("HumanEval", scored="pass@1", averaged=""),
    items=164,
    metrics=("pass@1",),
    file=_file,
    answers=Programs(errors=False),
    check=_check,
    size=Size(read=451, written=181),
)


def prompt(item: Item) -> str:
    return str(item["prompt"])


def stripped_prompt(item: Item) -> str:
    return prompt(item).strip()


def programs(completions: Iterable[Sequence[str]], items: Iterable[Item]) -> list[list[str]]:
    """The programs of each problem: its prompt as the model saw it, and each completion."""
    return _whole(completions, map(prompt, items))


def stripped_programs(completions: Iterable[Sequence[str]], items: Iterable[Item]) -> list[list[str]]:
    """The programs of each problem: its prompt, stripped as the model saw it, and each completion."""
    return _whole(completions, map(stripped_prompt, items))


def _whole(completions: Iterable[Sequence[str]], prompts: Iterable[str]) -> list[list[str]]:
    """How many newlines end a program makes no difference to it; with one, a third fewer have to be run."""
    return [
        [before + completion.rstrip("\n") + "\n" for completion in row]
        for row, before in zip(completions, prompts, strict=True)
    ]
