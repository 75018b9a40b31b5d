"""HumanEval: programs that pass their tests."""

import ast
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from scripts.components.asking.answers import Programs
from scripts.components.asking.items import Item
from scripts.components.asking.shown import accuracy
from scripts.components.forms import Filled, Form
from scripts.components.part import Count, Name, field
from scripts.components.tasks import Settings, Task


class HumanEval(Settings):
    """pass@1 from `samples` programs a problem, each executed in the sandbox."""

    judging: ClassVar[frozenset[str]] = frozenset({"timeout_seconds", "memory_mb", "packages"})

    dataset: Name = field("name of the dataset with the problems", paper="section 3.2")
    samples: Count = field("programs written for a problem", unit="programs", paper="section 3.2: 50; figure S9: 256")
    temperature: Annotated[float, Field(gt=0)] = field(
        "divides the logits before a token is drawn", paper="section 3.2: 0.2; figure S9: 0.8"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] = field(
        "tokens are drawn from the fewest likeliest that have this mass together",
        unit="probability",
        paper="section 3.2: 0.95; figure S9: not said",
    )
    max_new_tokens: Count = field("where a program is cut off that does not end", unit="tokens", paper="not said")
    timeout_seconds: Annotated[float, Field(gt=0)] = field(
        "how long a program with its tests may run; then it has failed", default=3.0, unit="seconds", paper="not said"
    )
    memory_mb: Count = field("address space of a program's process", default=2048, unit="MiB", paper="not said")
    packages: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = field(
        "packages of the evaluation's environment that programs may import, beside the standard library",
        default=[],
        paper="not said",
    )

    def asked(self) -> dict[str, Any]:
        asked = super().asked()
        if self.packages:
            return asked | {"packages": sorted(set(self.packages))}
        return {key: value for key, value in asked.items() if key != "packages"}


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


TASK = Task(
    name="humaneval",
    forms=(Problem,),
    settings=HumanEval,
    meaning="learning of code: programs that pass their tests",
    paper="section 3.2",
    always=True,
    measures=frozenset({"learning"}),
    shown=accuracy("HumanEval", scored="pass@1", averaged=""),
    printed=True,
    items=164,
    metrics=("pass@1",),
    file="humaneval",
    answers=Programs(errors=False),
    check=None,
)


def programs(completions: Iterable[Sequence[str]], items: Iterable[Item]) -> list[list[str]]:
    """The programs of each problem: its prompt, stripped as the model saw it, and each completion.

    How many newlines end a program makes no difference to it; with one, a third fewer have to be run.
    """
    return [
        [item["prompt"].strip() + completion.rstrip("\n") + "\n" for completion in row]
        for row, item in zip(completions, items, strict=True)
    ]
