"""HumanEval with the prompts, stop sequences and lengths of the bigcode harness and of lm-eval."""

from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from lm_eval.utils import apply_template
from pydantic import ValidationError
from tokenizers import Tokenizer

from scripts.common.errors import UserError
from scripts.components.tasks import TASKS
from scripts.components.tasks.humaneval import HumanEval
from scripts.evaluation.harness import Harness
from scripts.study.load import load_study
from tests.evaluation.conftest import CannedLM, LengthRunner, random_llama, write_records
from tests.vocabularies import llama_2

pytestmark = pytest.mark.arithmetic

SAID: dict[str, Any] = {"dataset": "problems", "samples": 2, "temperature": 0.2, "top_p": 0.95}
PROBLEMS = [
    {
        "prompt": f'\n\ndef f{number}(x):\n    """ Add {number} """\n',
        "test": f"def check(f):\n    assert f(1) == {number + 1}\n",
        "entry_point": f"f{number}",
    }
    for number in range(3)
]
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.95}
BIGCODE = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"]
"""Its `stop_words` of HumanEval."""


def real_task() -> dict[str, Any]:
    text = (Path(lm_eval.tasks.__file__).parent / "humaneval/humaneval.yaml").read_text().replace("!function", "")
    task: dict[str, Any] = yaml.safe_load(text)
    return task


@pytest.mark.parametrize("task", ["humaneval", "pass_at_k"])
@pytest.mark.parametrize(
    ("preset", "limit", "told"),
    [
        ("bigcode", {"max_length": 60}, {"max_length": 60}),
        ("bigcode", {"max_new_tokens": 9}, {"max_gen_toks": 9}),
        ("lm-eval", {"max_length": 60}, {"max_length": 60}),
        ("lm-eval", {"max_new_tokens": 9}, {"max_gen_toks": 9}),
    ],
)
def test_what_is_asked_and_what_is_run(
    task: str, preset: str, limit: dict[str, int], told: dict[str, int], base: Path, tmp_path: Path
) -> None:
    asked = {"task": task, **HumanEval(**SAID, **limit, preset=preset).asked()}  # type: ignore[arg-type]
    runner = LengthRunner()
    harness = Harness({task: asked}, write_records(tmp_path, {task: PROBLEMS}), base, runner=runner)
    lm = CannedLM([f"    return x + {number}" for number in range(6)])
    harness.score_lm(lm, [task])
    theirs = real_task()
    prompts = {
        "bigcode": [str(item["prompt"]).strip() for item in PROBLEMS],
        "lm-eval": [apply_template(theirs["doc_to_text"], item) for item in PROBLEMS],
    }[preset]
    stops = BIGCODE if preset == "bigcode" else theirs["generation_kwargs"]["until"]
    assert lm.asked == [(prompt, {"until": stops, **SAMPLING, **told}) for prompt in prompts for _ in range(2)]
    assert [program for program, _ in runner.asked] == [
        f"{prompts[number // 2]}    return x + {number}\n" for number in range(6)
    ]
    check = "{}\ncheck({})"
    assert [text for _, text in runner.asked[::2]] == [
        check.format(item["test"], item["entry_point"]) for item in PROBLEMS
    ]


def test_a_program_ends_by_one_measure() -> None:
    with pytest.raises(ValidationError, match="exactly one of max_new_tokens and max_length"):
        HumanEval(**SAID)
    with pytest.raises(ValidationError, match="exactly one of max_new_tokens and max_length"):
        HumanEval(**SAID, max_new_tokens=256, max_length=512)


def test_keys_that_joined_later_stand_in_a_spec_only_where_they_differ() -> None:
    limits = {"timeout_seconds": 3.0, "memory_mb": 2048}
    assert HumanEval(**SAID, max_new_tokens=9).asked() == SAID | limits | {"max_new_tokens": 9}
    assert HumanEval(**SAID, max_length=9).asked() == SAID | limits | {"max_length": 9}
    assert HumanEval(**SAID, max_length=9, preset="lm-eval").asked()["preset"] == "lm-eval"


def test_a_model_must_hold_a_program() -> None:
    assert HumanEval(**SAID, max_length=512).excess(512) is None
    assert HumanEval(**SAID, max_length=513).excess(512) == "max_length: must not exceed the model's context (512)"
    assert HumanEval(**SAID, max_new_tokens=511).excess(512) is None
    assert "max_new_tokens: must be less than" in str(HumanEval(**SAID, max_new_tokens=512).excess(512))


def test_the_study_of_the_paper_asks_as_the_bigcode_harness() -> None:
    tasks = load_study("paper").evaluation.tasks
    for name in ("humaneval", "pass_at_k"):
        asked = tasks.of(name).asked()
        assert TASKS[name].file_of(asked, Path()) == "humaneval"
        assert asked["max_length"] == 512
        assert "max_new_tokens" not in asked


@pytest.mark.parametrize("preset", ["bigcode", "lm-eval"])
def test_a_prompt_that_leaves_no_room_is_named(preset: str, tmp_path: Path) -> None:
    """With the token that a tokenizer puts before a prompt; line breaks around it count where they are asked."""
    random_llama(1, vocab_size=1024, max_position_embeddings=256).save_pretrained(tmp_path)
    llama_2(tmp_path)
    text = PROBLEMS[0]["prompt"] if preset == "lm-eval" else PROBLEMS[0]["prompt"].strip()
    short, long = f"{text}x", f"{text}x" + " # more" * 3
    problems = [{**PROBLEMS[0], "prompt": one} for one in (short, long)]
    tokens = len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(long).ids)
    paths = write_records(tmp_path, {"humaneval": problems})

    def harness(most: int) -> Harness:
        said = HumanEval(**SAID, max_length=most, preset=preset).asked()  # type: ignore[arg-type]
        return Harness(
            {"humaneval": {"task": "humaneval", "bos": "tokenizer", **said}}, paths, tmp_path, runner=LengthRunner()
        )

    harness(tokens + 1)
    message = (
        f"line 2: the prompt has {tokens} tokens and leaves no room .*humaneval.max_length is {tokens}, prompt incl"
    )
    with pytest.raises(UserError, match=message):
        harness(tokens)
    with pytest.raises(
        UserError, match=r"max_length: must be at most the 256 tokens that the model can hold; it is 257"
    ):
        harness(257)
