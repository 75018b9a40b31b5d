"""MT-bench: conversations that a judge grades."""

from typing import Annotated, Any

from pydantic import Field

from scripts.common.errors import UserError
from scripts.components.asking.answers import TURNS, Conversations
from scripts.components.asking.items import read, texts
from scripts.components.asking.shown import Shown
from scripts.components.part import Count, Name, Part, field
from scripts.components.tasks import Given, Settings, Task


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

    dataset: Name = field("name of the dataset with the questions", paper="appendix C")
    max_new_tokens: Count = field("where an answer is cut off that does not end", unit="tokens", paper="not said")
    judge: Judge = field("who grades the answers", paper="appendix C")

    def asked(self) -> dict[str, Any]:
        # where the judge is reached decides nothing about what it says
        judge = {key: getattr(self.judge, key) for key in ("model", "temperature")}
        return super().asked() | {"judge": judge}


def _check(given: Given) -> None:
    """Raises UserError where records have another form."""
    for line, item in enumerate(read(given.records), 1):
        turns = texts(item, "turns")
        well_formed = len(turns) == TURNS and all(turns)
        if not well_formed or "question_id" not in item or not isinstance(item.get("category"), str):
            raise UserError(
                f"{given.records}: line {line} is no item of mt_bench, which has a question_id, the text category, and "
                f"{TURNS} texts as turns"
            )


TASK = Task(
    name="mt_bench",
    settings=MtBench,
    meaning="conversations that a judge grades",
    paper="figure S4, table S10",
    always=False,
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
    printed=True,
    items=None,
    metrics=("score",),
    file=None,
    answers=Conversations(),
    check=_check,
)
