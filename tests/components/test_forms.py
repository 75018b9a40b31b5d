"""Records that are not what they are used for are named with file and line, before anything is made of them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.components.asking.items import read_items
from scripts.components.forms import Checks, Document, Instruction, Use
from scripts.components.tasks import TASKS
from scripts.data.generators import GENERATORS
from tests.evaluation.conftest import write_records

GENERATOR = {"pass_at_k": "humaneval", "source_loss": "code-documents", "target_loss": "code-instructions"}
Item = dict[str, Any]


def items(task: str, count: int = 3) -> list[Item]:
    return list(GENERATORS[GENERATOR.get(task, task.replace("_", "-"))](count, 0, "test"))


def put(*path: str, value: object) -> Callable[[Item], None]:
    """Changes a field, or one of a field's own."""

    def change(item: Item) -> None:
        for name in path[:-1]:
            item = item[name]
        item[path[-1]] = value

    return change


def drop(name: str) -> Callable[[Item], None]:
    return lambda item: item.pop(name)


BAD: list[tuple[str, Callable[[Item], None], str]] = [
    ("arc_challenge", put("answerKey", value="2"), "answerKey must be one of A, B, C, D, and is '2'"),
    ("arc_challenge", put("answerKey", value=""), "answerKey must be one of A, B, C, D, and is ''"),
    ("arc_challenge", drop("answerKey"), "it has no answerKey"),
    ("arc_challenge", put("choices", "label", value=["A", "B", "C"]), "are 4 with the labels A, B, C"),
    ("arc_challenge", put("choices", "label", value=["A", "B", "C", "A"]), "with the labels A, B, C, A"),
    ("arc_challenge", put("choices", value=["a", "b"]), "choices must be an object, and is a list"),
    ("arc_challenge", put("choices", "text", value=["a", "b", "c", 4]), "choices.text.3 must be text, and is a number"),
    ("arc_challenge", put("question", value=" "), "question: must not be empty"),
    ("hellaswag", put("label", value=""), "label is empty, as where a split's answers are not published"),
    ("hellaswag", put("label", value="4"), "label must be the number of the right one of 4, from 0, and is '4'"),
    ("hellaswag", put("label", value=-1), "label must be the number of the right one of 4, from 0, and is -1"),
    ("hellaswag", put("label", value="B"), "label must be the number of the right one of 4, from 0, and is 'B'"),
    ("hellaswag", put("label", value=None), "label must be a whole number, and is null"),
    ("hellaswag", put("endings", value=["one"]), "endings must be at least two, and are 1"),
    ("hellaswag", drop("ctx_b"), "it has no ctx_b"),
    ("winogrande", put("answer", value=""), "answer must be '1' or '2', and is ''"),
    ("winogrande", put("answer", value=1), "answer must be '1' or '2', and is 1"),
    ("winogrande", put("sentence", value="No gap."), "sentence must have a blank, which is an underscore"),
    ("winograd", put("label", value=2), "label must be the number of the right one of 2, from 0, and is 2"),
    ("winograd", put("pronoun_loc", value=10_000), "pronoun_loc must be a place in the text, from 0, and is 10000"),
    ("lambada", put("text", value="word"), "text must have a word behind its last space"),
    ("lambada", put("text", value="ends in a space "), "text must have a word behind its last space"),
    ("humaneval", drop("test"), "it has no test"),
    ("humaneval", put("test", value=""), "test: must not be empty"),
    ("humaneval", put("test", value="def check(candidate:"), "test must be a program in Python"),
    ("humaneval", put("test", value="assert f(1) == 2"), "test must define the function check(candidate)"),
    ("humaneval", put("entry_point", value="a b"), "entry_point must be the name of a function, and is 'a b'"),
    ("pass_at_k", put("prompt", value=None), "prompt must be text, and is null"),
    ("gsm8k", put("answer", value="It is 4."), "answer must end in #### and a number, and is 'It is 4.'"),
    ("gsm8k", put("answer", value=4), "answer must be text, and is a number"),
    ("mmlu", put("answer", value=4), "answer must be the number of the right one of 4, from 0, and is 4"),
    ("mmlu", put("answer", value=True), "answer must be a whole number, and is true or false"),
    ("mt_bench", put("turns", value=["one?"]), "turns must be 2, and are 1"),
    ("source_loss", put("text", value=None), "text must be text, and is null"),
    ("target_loss", drop("response"), "it has no response"),
]


@pytest.mark.parametrize(("task", "change", "said"), BAD)
def test_what_is_no_item_is_named(tmp_path: Path, task: str, change: Callable[[Item], None], said: str) -> None:
    found = copy.deepcopy(items(task))
    change(found[1])
    path = write_records(tmp_path, {task: found})[task]
    with pytest.raises(UserError) as caught:
        TASKS[task].check_forms([path])
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: is no ")
    assert said in message
    assert f"the task {task} needs one" in message
    assert "\n" not in message


@pytest.mark.parametrize("task", TASKS)
def test_every_generated_item_has_its_tasks_form(tmp_path: Path, task: str) -> None:
    TASKS[task].check_forms([write_records(tmp_path, {task: items(task, 40)})[task]])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    ),
    st.sampled_from(sorted(TASKS)),
    st.data(),
)
def test_whatever_stands_in_a_field_is_taken_or_named(value: object, task: str, data: st.DataObject) -> None:
    """One of a task's own fields holds anything: there is no other error than a sentence."""
    item = copy.deepcopy(items(task, 1)[0])
    names = [name for form in TASKS[task].forms for name in form.model_fields if name in item]
    item[data.draw(st.sampled_from(names))] = value
    checks, said = Checks([Use("here", TASKS[task].forms)]), ""
    try:
        checks.take(item, "a.jsonl, line 1", columns=True)
        checks.finish("a.jsonl")
    except UserError as error:
        said = str(error)
    assert not said or said.startswith("a.jsonl, line 1: ")
    assert "\n" not in said


def test_a_label_may_be_a_number_here_and_a_text_there(tmp_path: Path) -> None:
    """As in files that were put together from two sources."""
    found = items("hellaswag", 2)
    found[0]["label"], found[1]["label"] = 1, "0"
    found[0]["ind"], found[1]["ind"] = 7, "seven"
    path = write_records(tmp_path, {"hellaswag": found})["hellaswag"]
    TASKS["hellaswag"].check_forms([path])
    from scripts.components.tasks.hellaswag import endings, label

    read = read_items(str(path))["test"]
    assert [label(item) for item in read] == [1, 0]
    assert [endings(item) for item in read] == [item["endings"] for item in found]


def take(forms: tuple[type[Any], ...], records: list[Item], *, columns: bool = False) -> list[str]:
    checks = Checks([Use("settings.a.dataset", forms)])
    for number, record in enumerate(records, start=1):
        checks.take(record, f"a.jsonl, line {number}", columns)
    return checks.finish("a.jsonl")


def test_records_of_one_dataset_have_one_form() -> None:
    document, instruction = {"text": "a"}, {"instruction": "a", "response": "b"}
    both = (Document, Instruction)
    assert take(both, [document, document]) == take(both, [instruction, instruction]) == []
    with pytest.raises(UserError, match=r"line 2: is no instruction with its response \(it has no instruction"):
        take(both, [instruction, document])


def test_what_is_empty_is_said_and_what_is_empty_throughout_is_refused() -> None:
    full, empty = {"instruction": "a", "response": "b"}, {"instruction": "a", "response": " \n"}
    assert take((Instruction,), [full, empty, empty]) == [
        "a.jsonl: response is empty in 2 of the records, first in a.jsonl, line 2"
    ]
    with pytest.raises(
        UserError, match=r"line 1: response is empty, as in every record; settings.a.dataset needs text"
    ):
        take((Instruction,), [empty, empty])
    with pytest.raises(UserError, match="line 1: text is empty, as in every record"):
        take((Document, Instruction), [{"text": ""}, {"text": ""}])


def test_an_input_is_not_left_out_in_silence() -> None:
    """Stanford Alpaca's records have one in two of five: without it, all that ask the same thing are the same."""
    records = [
        {"instruction": "Add the numbers", "input": f"{i} and {i + 1}", "response": f"{2 * i + 1}"} for i in range(2)
    ]
    with pytest.raises(
        UserError, match="line 1: has an `input` that would be left out of the prompt; say in the study"
    ):
        take((Instruction,), records)
    assert take((Instruction,), records, columns=True) == []
    assert take((Instruction,), [{**record, "input": ""} for record in records]) == []
    assert take((Document,), [{**record, "text": "a"} for record in records]) == []
