"""The paper's numbers are all there, as they are printed; a file with a mistake is refused in one sentence."""

import csv
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.artifacts import published
from scripts.artifacts.published import COLUMNS, PublishedValue, load_published, values_of
from scripts.common.errors import UserError
from tests.plan.paper_tables import BASE, CELLS, METRICS, SETTINGS

VALUES = load_published()
HEADER = ",".join(COLUMNS)
GOOD = dict.fromkeys(COLUMNS, "") | {
    "artifact": "tableS1", "model": "Llama-2-7B", "setting": "code-cpt", "method": "lora-r16", "alpha": "32",
    "modules": "all", "learning_rate": "1e-5", "duration": "0.25B", "metric": "humaneval", "value": "0.510",
    "read_from": "table",
}  # fmt: skip
BASE_ROW = {
    "setting": "", "method": "base", "alpha": "", "modules": "", "learning_rate": "", "duration": "",
}  # fmt: skip
MEMORY = BASE_ROW | {"method": "full", "model": "70B", "optimizer": "adam", "gpus": "8", "metric": "memory_gb"}


def write(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def printed_in(artifact: str) -> list[PublishedValue]:
    return [value for value in VALUES if value.artifact == artifact]


# --- what is there


@pytest.mark.parametrize("name", CELLS)
def test_a_table_of_scores_is_the_papers(name: str) -> None:
    found = printed_in(name)
    assert {(v.method, v.duration): str(v.value) for v in found} == CELLS[name]
    assert len(found) == len(CELLS[name])
    assert {(v.setting, v.metric, v.read_from) for v in found} == {(SETTINGS[name], METRICS[name], "table")}


def test_the_base_models_scores() -> None:
    base = {(v.edition, v.metric): str(v.value) for v in VALUES if v.kind == "base"}
    assert base == {("v1", "gsm8k"): "0.145"} | {("v2", metric): value for metric, value in BASE.items()}


@pytest.mark.parametrize(("name", "billions"), [("tableS14", 7), ("tableS15", 70), ("tableS16", 405)])
def test_the_memory_tables_follow_their_formula_but_for_one_misprint(name: str, billions: int) -> None:
    # bytes a parameter: weights, gradients and Adam's two moments or Lion's one, in fp32; LoRA adds 1 % of parameters
    # with all of these to frozen weights in bf16
    each = {"adam": 16, "lion": 12}
    found = printed_in(name)
    gpus = [1, 8, 16, 32, 64] + ([128, 256] if name == "tableS16" else [])
    assert len(found) == 4 * len(gpus)
    assert {(v.method, v.optimizer, v.gpus) for v in found} == {
        (method, optimizer, n) for method in ("full", "lora") for optimizer in each for n in gpus
    }
    off = []
    for v in found:
        assert v.optimizer
        assert v.gpus
        bytes_each = Fraction(each[v.optimizer]) if v.method == "full" else 2 + Fraction(each[v.optimizer], 100)
        last_place = Fraction(10) ** int(v.value.as_tuple().exponent)
        if abs(Fraction(v.value) - bytes_each * billions / v.gpus) > last_place / 2:
            off.append(v)
    assert [(v.method, v.optimizer, v.gpus, str(v.value)) for v in off] == (
        [("lora", "adam", 16, "54.65")] if name == "tableS16" else []
    )
    assert all("54.675" in v.note for v in off)


def test_the_first_editions_numbers() -> None:
    learning = {
        ("code-cpt", "lora-r256", "16B", "0.175"),
        ("code-cpt", "full", "1B", "0.172"),
        ("code-cpt", "full", "20B", "0.263"),
        ("code-ift", "lora-r256", "4", "0.407"),
        ("code-ift", "full", "2", "0.464"),
        ("code-ift", "full", "8", "0.497"),
        ("math-cpt", "lora-r256", "8.6B", "0.187"),
        ("math-cpt", "full", "4.3B", "0.191"),
        ("math-cpt", "full", "8.6B", "0.230"),
        ("math-ift", "lora-r256", "4", "0.622"),
        ("math-ift", "full", "2", "0.640"),
        ("math-ift", "full", "4", "0.642"),
        (None, "base", None, "0.145"),
    }
    forgetting = {
        ("code-cpt", "full", "20B", "0.54"),
        ("code-cpt", "lora", "16B", "0.64"),
        ("code-ift", "full", "8", "0.45"),
        ("code-ift", "lora", "4", "0.63"),
        ("math-ift", "lora", "4", "0.63"),
        ("math-ift", "full", "4", "0.57"),
    }
    for name, expected in (("v1/fig2", learning), ("v1/fig3", forgetting)):
        assert {(v.setting, v.method, v.duration, str(v.value)) for v in printed_in(name)} == expected
        assert {v.edition for v in printed_in(name)} == {"v1"}


def test_nothing_else_is_there_and_nothing_is_lost() -> None:
    assert len(VALUES) == 347
    known = {*CELLS, "tableS14", "tableS15", "tableS16", "v1/fig2", "v1/fig3"}
    assert {v.artifact for v in VALUES if v.artifact not in known} == {"fig1", "fig2", "figS4"}


def test_how_the_second_editions_models_were_trained() -> None:
    rates = {  # full finetuning; LoRA of rank 16, 64, 256
        "code-cpt": (1e-5, 1e-5, 1e-5, 1e-5),
        "math-cpt": (1e-5, 4e-5, 4e-5, 4e-5),
        "code-ift": (5e-5, 2e-4, 2e-4, 1e-4),
        "math-ift": (1e-5, 1e-4, 1e-4, 5e-5),
        "chat-ift": (5e-6, 1e-4, 1e-4, 1e-4),
    }
    trained = [v for v in VALUES if v.edition == "v2" and v.setting]
    assert {(v.setting, v.method, v.learning_rate) for v in trained} == {
        (setting, method, rate)
        for setting, four in rates.items()
        for method, rate in zip(("full", "lora-r16", "lora-r64", "lora-r256"), four, strict=True)
    }
    assert all((v.rank, v.alpha, v.modules) == (None, None, None) for v in trained if v.kind == "full")
    assert {(v.rank, v.alpha, v.modules) for v in trained if v.kind == "lora"} == {
        (16, 32, "all"), (64, 128, "all"), (256, 512, "all"),
    }  # fmt: skip


def test_what_the_text_says_otherwise_stands_beside_the_number() -> None:
    notes = {(v.artifact, v.method, v.duration): v.note for v in VALUES}
    assert "0.509" in notes["tableS6", "lora-r64", "16"]
    assert "0.498" in notes["tableS5", "full", "8"]
    assert "0.618" in notes["tableS4", "full", "16B"]
    assert "0.590" in notes["v1/fig3", "full", "4"]


def test_the_head_of_the_module_explains_every_column() -> None:
    assert re.findall(r"^([a-z_]+) {2,}\S", published.__doc__ or "", re.MULTILINE) == list(COLUMNS)


# --- what an artifact shows


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("fig1", ("tableS1", "tableS3", "tableS5", "tableS7")),
        ("fig2", ("tableS2", "tableS4", "tableS6", "tableS8")),
        ("fig3", tuple(f"tableS{n}" for n in range(1, 9))),
        ("tableS7", ("tableS7",)),
        ("figS4", ("tableS10",)),
        ("figS5", ("tableS11", "tableS12")),
        ("figS6", ("tableS13",)),
        ("tableS9", ("tableS10", "tableS11", "tableS12", "tableS13")),
        ("fig6", ()),
        ("losses", ()),
    ],
)
def test_an_artifact_shows_its_tables_and_the_base_models_scores(name: str, tables: tuple[str, ...]) -> None:
    shown = values_of(name, VALUES)
    assert [v for v in shown if v.kind != "base"] == [v for v in VALUES if v.artifact in tables]
    metrics = {METRICS[table] for table in tables}
    assert {v.metric: str(v.value) for v in shown if v.kind == "base"} == {m: BASE[m] for m in metrics & set(BASE)}
    assert {v.edition for v in shown} <= {"v2"}


@pytest.mark.parametrize("name", ["v1/fig2", "v1/fig3", "tableS14", "tableS16"])
def test_the_first_editions_numbers_and_memory_stand_alone(name: str) -> None:
    assert values_of(name, VALUES) == printed_in(name)


# --- reading


def test_decimals_are_kept(tmp_path: Path) -> None:
    (value,) = load_published(write(tmp_path / "values.csv", GOOD))
    assert str(value.value) == "0.510"
    assert value.value == Decimal("0.51")
    assert (value.kind, value.rank, value.alpha, value.amount) == ("lora", 16, 32, 250_000_000)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"artifact": "Table S1"}, "artifact: must be a figure or table, such as fig1, tableS1 or v1/fig2 (it says"),
        ({"artifact": ""}, "artifact: is empty, and must be given in every row"),
        (
            {"model": "Llama-2-13B"},
            "model: input should be 'Llama-2-7B', '7B', '70B' or '405B' (it says",
        ),
        ({"setting": "code"}, "setting: input should be 'code-cpt', 'math-cpt'"),
        (
            {"method": "lora-16"},
            "method: must be base, full, lora-r with a rank (lora-r16), or lora (it says",
        ),
        ({"alpha": "2r"}, "alpha: input should be a valid integer"),
        ({"modules": "q,v"}, "modules: input should be 'all' or 'all-but-gate' (it says 'q,v')"),
        ({"learning_rate": "0"}, "learning_rate: input should be greater than 0 (it says '0')"),
        ({"learning_rate": "nan"}, "learning_rate: input should be"),
        ({"duration": "0.25"}, "duration: must be tokens such as 0.25B in code-cpt (it says"),
        ({"duration": "250M"}, "duration: must be tokens such as 0.25B in code-cpt (it says"),
        ({"setting": "code-ift", "duration": "1B"}, "duration: must be a number of epochs in code-ift (it says '1B')"),
        ({"duration": ""}, "duration: is empty, and must be given for a score of lora-r16"),
        ({"gpus": "8"}, "gpus: must be empty for a score of lora-r16"),
        ({"method": "full"}, "alpha: must be empty for a score of full"),
        ({"method": "base"}, "setting: must be empty for the base model"),
        ({**MEMORY, "gpus": ""}, "gpus: is empty, and must be given for an estimate of memory"),
        ({**MEMORY, "duration": "1"}, "duration: must be empty for an estimate of memory"),
        ({"metric": "pass@1"}, "metric: input should be 'gsm8k', 'humaneval', 'forgetting'"),
        ({"value": "51.0"}, "value: must be from 0 to 1 for humaneval (it says 51.0)"),
        ({**BASE_ROW, "metric": "mt_bench", "value": "0.274"}, "value: must be from 1 to 10 for mt_bench"),
        ({"value": ".510"}, "value: must be a number in plain digits, such as 0.510 (it says '.510')"),
        ({"value": "NaN"}, "value: must be a number in plain digits"),
        ({"value": "1e-1"}, "value: must be a number in plain digits"),
        ({"value": ""}, "value: is empty, and must be given in every row"),
        ({"read_from": "memory"}, "read_from: input should be 'table', 'text' or 'figure' (it says 'memory')"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_line_and_column(
    tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    path = write(tmp_path / "values.csv", {**GOOD, "duration": "1B"}, GOOD | changes)
    with pytest.raises(UserError) as caught:
        load_published(path)
    assert str(caught.value).startswith(f"{path}, line 3: {sentence}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [{}, {"value": "0.511"}, {"note": "again"}, {"alpha": "16"}, {"learning_rate": "2e-5"}]
)
def test_a_number_stands_once(tmp_path: Path, changes: dict[str, str]) -> None:
    path = write(tmp_path / "values.csv", GOOD, GOOD | {"duration": "1B"}, GOOD | changes)
    with pytest.raises(UserError, match="line 4: is the same number as line 2; one row is allowed"):
        load_published(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "line 1: must name the columns artifact,model,"),
        (HEADER.replace("metric", "measure").encode(), "line 1: must name the columns artifact,model,"),
        (f"{HEADER}\ntableS1,Llama-2-7B\n".encode(), "line 2: has 2 cells and must have 14, one for each column"),
        (f'{HEADER}\n"tableS1" 1\n'.encode(), "line 2: is no line of a CSV"),
        (b"\xff\xfe", "values.csv: is not UTF-8 text"),
    ],
)
def test_a_file_of_another_form(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "values.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_published(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        load_published(tmp_path / "none.csv")


@given(
    row=st.sampled_from([GOOD, GOOD | BASE_ROW, GOOD | MEMORY]),
    column=st.sampled_from(COLUMNS),
    text=st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8)
    | st.from_regex(r"[0-9.BKMe-]{1,6}", fullmatch=True),
)
def test_any_text_in_any_cell_is_read_as_it_stands_or_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, str], column: str, text: str
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "any.csv", row | {column: text})
    try:
        (value,) = load_published(path)
    except UserError as error:
        sentence = str(error)
    else:
        read = getattr(value, column)
        assert text == ("" if read is None else str(read)) or read == float(text)
        return
    assert sentence.startswith(f"{path}, line 2: ")
