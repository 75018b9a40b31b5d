"""From records to rows: which text is learned, and what of it is left out."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from scripts.components.asking import losses
from scripts.components.making import BuildContext
from scripts.components.templates import prompt_text, record_prompt
from scripts.data import rows
from scripts.data.batches import Batches
from scripts.data.tokenizer import train_tokenizer

SUMS = [{"instruction": "Add the numbers", "input": f"{i} and {i + 1}", "response": str(2 * i + 1)} for i in range(40)]
SPEC = {"regime": "ift", "sequence_length": 96, "batch_rows": 4, "group_rows": 4, "seed": 0, "max_epochs": 1}
# tatsu-lab/stanford_alpaca, train.py, PROMPT_DICT["prompt_input"]; there the response begins in the line behind it
ALPACA = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
that appropriately completes the request.

### Instruction:
Add the numbers

### Input:
3 and 4

### Response:
"""


def built(
    tmp_path: Path, records: list[dict[str, Any]], **changes: Any
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Prompt and response of each example of the rows, in the order of the records, and the counts of the epoch."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records/records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    train_tokenizer([record_prompt(record, "alpaca") + record["response"] for record in records], 400, tmp_path / "bpe")
    out = tmp_path / "rows"
    out.mkdir()
    context = BuildContext("a", "b", tmp_path, {}, lambda: [tmp_path / "records", tmp_path / "bpe"])
    (counts,) = rows.build({**SPEC, "packing_ratio": 1.0, **changes}, context, out)["per_epoch"]
    tokenizer = Tokenizer.from_file(str(tmp_path / "bpe/tokenizer.json"))
    tokens, offsets, prompts = (np.load(out / f"{name}.npy") for name in ("tokens", "offsets", "prompt_lengths"))
    examples = [tokens[begin:end].tolist() for begin, end in itertools.pairwise(offsets)]
    texts = [
        (tokenizer.decode(ids[:size]), tokenizer.decode(ids[size:-1]))
        for ids, size in zip(examples, prompts, strict=True)
    ]
    assert Batches(out).steps_per_epoch
    return texts, counts


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("alpaca", ALPACA),
        ("plain", "Question: Add the numbers\n3 and 4\nAnswer:"),
        ("llama2-chat", "[INST] Add the numbers\n3 and 4 [/INST]"),
    ],
)
def test_an_input_is_part_of_the_prompt(tmp_path: Path, template: str, prompt: str) -> None:
    """Forty sums are forty prompts, in rows as where their loss is measured."""
    texts, _ = built(tmp_path, SUMS, template=template)
    assert len({asked for asked, _ in texts}) == 40
    assert texts[3][0] == prompt
    assert texts[3][1].strip() == "7"
    records = tmp_path / "held-out.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in SUMS))
    assert losses.response_context(losses.read_responses(str(records), template)["test"][3]) == prompt


@pytest.mark.parametrize("given", [None, "", " \n"])
def test_no_input_is_none(given: str | None) -> None:
    record = {"instruction": "Add {1} and 2", "input": given, "response": "3"}
    for template in ("plain", "alpaca", "llama2-chat"):
        assert record_prompt(record, template) == prompt_text("Add {1} and 2", template)


@pytest.mark.parametrize(("packing", "trained"), [("foundry", 8), ("none", 12)])
def test_a_record_without_a_response_is_left_out_by_foundry(tmp_path: Path, packing: str, trained: int) -> None:
    """As llm-foundry does; the space that its template puts before a response makes none of it."""
    records = [{"instruction": f"Say {i}", "response": "" if i % 3 == 0 else str(i)} for i in range(12)]
    ratio = {"packing_ratio": 1.0} if packing == "foundry" else {"packing": packing}
    _, counts = built(tmp_path, records, **ratio)
    assert counts["trained_examples"] == trained
    assert counts.get("dropped_without_loss_examples", 0) == 12 - trained


def test_an_example_longer_than_a_row_is_trained_on_to_the_end_of_it(tmp_path: Path) -> None:
    """The fourth counts to two hundred: its row is full to the last token, and every other one is there too."""
    long = {"instruction": "Count.", "response": " ".join(map(str, range(200)))}
    records = [{"instruction": f"Say {i}", "response": str(i)} for i in range(3)] + [long]
    _, counts = built(tmp_path, records)
    assert counts["trained_examples"] == 4
    assert counts["dropped_too_long_examples"] == 0
    input_ids, labels = Batches(tmp_path / "rows").batch(0)
    (full,) = [row for row in range(4) if (labels[row] != -100).sum() > 50]
    assert (labels[full][-50:] == input_ids[full][-50:]).all()
