"""MT-bench: conversations that a judge grades."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from scripts.components.asking.answers import TURNS, Conversations
from scripts.components.asking.shown import Shown
from scripts.components.forms import Filled, Form
from scripts.components.part import Count, Name, Part, field
from scripts.components.tasks import Settings, Size, Task


class Judge(Part):
    """A language model that grades answers, behind an endpoint that speaks OpenAI's chat interface."""

    model: str = field("its name at the endpoint", min_length=1, paper="appendix C; which version: not said")
    temperature: Annotated[float, Field(ge=0)] = field(
        "temperature of its answers; 0: always the likeliest", paper="not said"
    )
    url_variable: str = field("name of the environment variable with the endpoint's address", min_length=1)
    key_variable: str = field(
        "name of the environment variable with the key; it may be unset where none is asked for", min_length=1
    )


class MtBench(Settings):
    """Two-turn answers, each graded from 1 to 10 by a judge (paper, appendix C)."""

    judging: ClassVar[frozenset[str]] = frozenset({"judge"})

    dataset: Name = field("name of the dataset with the questions", paper="appendix C")
    max_new_tokens: Count = field("where an answer is cut off that does not end", unit="tokens", paper="not said")
    judge: Judge = field("who grades the answers", paper="appendix C")

    def asked(self) -> dict[str, Any]:
        # where the judge is reached decides nothing about what it says
        judge = {key: getattr(self.judge, key) for key in ("model", "temperature")}
        return super().asked() | {"judge": judge}


class Conversation(Form):
    """The turns of a user, of which the second asks about the answer to the first."""

    called: ClassVar[str] = "item of mt_bench"

    question_id: int | str
    category: str
    turns: list[Filled]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.turns) != TURNS:
            raise ValueError(f"turns must be {TURNS}, and are {len(self.turns)}")
        return self


TASK = Task(
    name="mt_bench",
    forms=(Conversation,),
    settings=MtBench,
    meaning="conversations that a judge grades",
    paper="figure S4, table S10",
    measures=frozenset(),
    shown=Shown(
        label="MT-bench",
        axis="MT-bench score, 1 to 10",
        scored="",
        averaged="the mean grade of a judge model",
        least=1.0,
        most=10.0,
        lower_is_better=False,
        note="MT-bench: mean grade of a judge model, from 1 (worst) to 10 (best)",
    ),
    items=None,
    metrics=("score",),
    file=None,
    answers=Conversations(),
    check=None,
    size=Size(read=1700, written=2400),
)
