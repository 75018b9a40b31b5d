"""What is written about a study's keys, for people and for editors, against the schema and against the loader."""

import argparse
import copy
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from pydantic import Field

from scripts.common.errors import UserError
from scripts.components.foreign import LmEval
from scripts.components.part import Part
from scripts.study.describe import README, SCHEMA, main
from scripts.study.load import ACCEPTED, STUDIES, load_study
from scripts.study.schema import Study, Tasks
from tests.conftest import ROOT, copy_checkout

Content = dict[str, Any]
FILES = sorted(path for path in STUDIES.glob("*.yaml") if not path.name.endswith(ACCEPTED))
SMOKE: Content = yaml.safe_load((STUDIES / "smoke.yaml").read_text())


def parts_of(annotation: Any) -> set[type[Part]]:
    """The parts that a value of this type may be or hold, and theirs."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        fields = annotation.model_fields.values()
        own = {LmEval} if issubclass(annotation, Tasks) else set()  # under keys of one's own
        return {annotation}.union(own, *(parts_of(info.annotation) for info in fields))
    return set().union(*map(parts_of, get_args(annotation)))


# what a study consists of
PARTS = sorted(parts_of(Study), key=lambda part: part.__name__)


# -- drift ------------------------------------------------------------------------------------------


def test_what_is_committed_is_what_the_schema_says() -> None:
    """Fails when the schema changed and nobody wrote its description anew; the message names the command."""
    main(argparse.Namespace(check=True))


def test_check_names_what_differs_and_writing_puts_it_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = {path: path.read_bytes() for path in (README, SCHEMA)}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^config/README.md and config/schema.json are not .*scripts.study.describe"):
        main(argparse.Namespace(check=True))
    assert not list(tmp_path.iterdir())
    main(argparse.Namespace(check=False))
    assert {path: path.read_bytes() for path in sorted(Path("config").iterdir())} == committed
    README.write_text("edited by hand")
    with pytest.raises(UserError, match=r"^config/README.md is not "):
        main(argparse.Namespace(check=True))
    assert README.read_text() == "edited by hand"


def test_a_check_that_fails_is_one_line_and_an_exit_status(tmp_path: Path) -> None:
    checkout = copy_checkout(ROOT, tmp_path / "checkout")
    for path in (README, SCHEMA):
        (checkout / path).unlink()
    command = [sys.executable, "-m", "scripts.study.describe", "--check"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: config/README.md and")
    assert done.stderr.count("\n") == 1


def test_a_key_without_a_description_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Part):
        """A part."""

        said: int = Field(description="how much")
        unsaid: int

    monkeypatch.setattr("scripts.study.describe.Study", Silent)
    with pytest.raises(UserError, match=r"unsaid has no description"):
        main(argparse.Namespace(check=True))


# -- for people -------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_says_what_it_changes(part: type[Part]) -> None:
    assert part.__doc__, f"{part.__name__} has no docstring"
    for key, info in part.model_fields.items():
        said = (info.description or "").lower()
        assert set(re.findall(r"\w+", said)) - set(key.split("_")), f"{part.__name__}.{key} has no description"
        assert not said.endswith("."), f"{part.__name__}.{key}"
        assert set(info.json_schema_extra or {}) <= {"unit", "paper"}, f"{part.__name__}.{key}"


def page() -> tuple[list[str], list[list[dict[str, str]]], list[str]]:
    """The headings of config/README.md, its tables (rows of column to text), and the targets of its links."""
    headings: list[str] = []
    tables: list[list[dict[str, str]]] = []
    links: list[str] = []
    columns: list[str] = []
    row: list[str] = []
    tokens = MarkdownIt().enable("table").parse(README.read_text())
    for before, token in itertools.pairwise(tokens):
        if token.type == "thead_open":
            tables.append([])
            columns = []
        if token.type == "tr_open":
            row = []
        if token.type == "tr_close" and columns and row:
            tables[-1].append(dict(zip(columns, row, strict=True)))
        if token.type != "inline":
            continue
        plain = "".join(child.content for child in token.children or [])
        links += [str(child.attrs["href"]) for child in token.children or [] if child.type == "link_open"]
        if before.type == "heading_open":
            headings.append(plain)
        if before.type == "th_open":
            columns.append(plain)
        if before.type == "td_open":
            row.append(plain)
    return headings, tables, links


def test_the_page_has_every_key_with_its_default_unit_and_place_in_the_paper() -> None:
    _, tables, _ = page()
    described = [{row["key"]: row for row in table} for table in tables if "key" in table[0]]
    assert len(described) == len(PARTS)
    for part in PARTS:
        fields = part.model_fields
        more = {Study: {"extends"}, Tasks: {"NAME"}}
        expected = {*more.get(part, ()), *fields}
        texts = {key: (info.description or "").replace("`", "") for key, info in fields.items()}
        found = [
            table
            for table in described
            if set(table) == expected and all(table[key]["meaning"] == text for key, text in texts.items())
        ]
        assert found, f"no table has the keys of {part.__name__}"
        for key, info in fields.items():
            extra = info.json_schema_extra
            assert isinstance(extra, dict)
            assert any(
                (table[key]["default"] == "required") == info.is_required()
                and table[key].get("unit", "") == extra.get("unit", "")
                and table[key].get("paper", "") == extra.get("paper", "")
                for table in found
            ), f"{part.__name__}.{key}"


def test_the_page_says_a_default_as_a_study_would_have_it() -> None:
    _, tables, _ = page()
    rows = {row["key"]: row for table in tables for row in table if "key" in row}
    assert rows["edition"]["default"] == "v2"
    assert rows["max_epochs"]["default"] == "16"
    assert rows["hot"]["default"] == "false"
    assert yaml.safe_load(rows["measures"]["default"]) == ["learning", "forgetting"]
    assert rows["sweep"]["default"] == "absent"
    assert rows["seeds"]["value"] == "list of whole numbers ≥ 0, < 2^31"


def test_links_lead_to_headings_and_tables_are_whole() -> None:
    headings, _, links = page()
    anchors = [re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(set(anchors)) == len(anchors)
    assert links
    assert {link for link in links if not link.startswith("http")} <= {f"#{anchor}" for anchor in anchors}
    blocks = re.split(r"\n\n", README.read_text())
    for block in (block for block in blocks if block.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}) == 1, block


# -- for editors ------------------------------------------------------------------------------------

VALIDATOR = Draft202012Validator(json.loads(SCHEMA.read_text()))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_study_fits_and_names_the_schema(path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=../schema.json"
    assert (path.parent / "../schema.json").resolve() == SCHEMA.resolve()
    assert not [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


def loads(content: Content, directory: Path) -> bool:
    (directory / "smoke.yaml").write_text(yaml.safe_dump(SMOKE))
    (directory / "mine.yaml").write_text(yaml.safe_dump(content))
    try:
        load_study("mine", directory)
    except UserError:
        return False
    return True


def whole(change: Callable[[Content], object]) -> Content:
    content = copy.deepcopy(SMOKE)
    change(content)
    return content


def extending(**keys: Any) -> Content:
    return {"extends": "smoke", **keys}


def cell(**keys: Any) -> Content:
    return {"blocks": {"more": {"cells": [{"setting": "code-cpt", **keys}]}}}


GOOD = {
    "as it is": SMOKE,
    "tokens as text": whole(lambda s: s["model"]["pretraining"].update(tokens="8.192K")),
    "durations as text": whole(lambda s: s["settings"]["code-cpt"].update(durations=["0.0000256B", 5120])),
    "a cell's tokens as text": whole(lambda s: s.update(cell(durations=["4K"]))),
    "nothing, where something may be absent": whole(lambda s: s["evaluation"].update(held_out=None)),
    "a whole number for a number": whole(lambda s: s["methods"]["lora-r2"].update(alpha=4)),
    "one key of a part": extending(settings={"code-cpt": {"batch_rows": 8}}),
    "one key of a dataset, whose source is said elsewhere": extending(datasets={"humaneval": {"records": 5}}),
    "a key that is taken away": extending(sweep=None, settings={name: {"sweep": None} for name in SMOKE["settings"]}),
    "a part that is taken away": extending(
        methods={"lora-r2": None},
        settings={
            name: {"learning_rates": {"lora-r2": None}, "sweep": {"learning_rates": {"lora-r2": None}}}
            for name in SMOKE["settings"]
        },
    ),
    "a block of one's own": extending(**cell(methods=["full"], durations=["4K"], weight_decay=0.01)),
}
BAD = {
    "an unknown key": whole(lambda s: s.update(epochs=3)),
    "an unknown key deep down": whole(lambda s: s["settings"]["code-cpt"].update(batch_size=3)),
    "a key is missing": whole(lambda s: s.pop("title")),
    "a key of a part is missing": whole(lambda s: s["settings"]["code-cpt"].pop("first_leg")),
    "a number as text": whole(lambda s: s["settings"]["code-cpt"].update(batch_rows="4")),
    "text where no tokens are": whole(lambda s: s["model"]["pretraining"].update(batch_rows="8K")),
    "a number out of bounds": whole(lambda s: s["settings"]["code-cpt"].update(cooldown=1.0)),
    "an unknown form": whole(lambda s: s["methods"]["full"].update(kind="half")),
    "a key of another form": whole(lambda s: s["methods"]["full"].update(rank=2)),
    "a name with a capital": whole(lambda s: s["methods"].update({"Full": {"kind": "lora", "rank": 1, "alpha": 1.0}})),
    "nothing, where something must be": whole(lambda s: s.update(seeds=None)),
    "nothing for a method, with no study to take it from": whole(lambda s: s["methods"].update({"lora-r2": None})),
    "an unknown key of an extending study": extending(epochs=3),
    "an unknown key deep down, extending": extending(settings={"code-cpt": {"batch_size": 3}}),
    "a wrong value, extending": extending(settings={"code-cpt": {"learning": "MMLU"}}),
    "a cell without its setting, extending": extending(blocks={"more": {"cells": [{"methods": ["full"]}]}}),
    "nothing in a list, extending": extending(seeds=[None]),
    "extending no name": {**SMOKE, "extends": 3},
    "no keys at all": ["smoke"],
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_what_the_loader_takes_fits(content: Content, tmp_path: Path) -> None:
    assert loads(content, tmp_path)
    assert not [error.message for error in VALIDATOR.iter_errors(content)]


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_the_loader_refuses_does_not_fit(content: Content, tmp_path: Path) -> None:
    assert not loads(content, tmp_path)
    assert not VALIDATOR.is_valid(content)


@pytest.mark.parametrize(
    ("tokens", "taken"),
    [
        *((good, True) for good in (8192, "8192", "64K", "2.5M", "0.25B", "12.8K")),
        *((bad, False) for bad in (0, -8192, 8192.5, True, "", "K", "64k", "-64K", "1e4", "64 K", ".5M", "64KB", [])),
    ],
)
def test_tokens_are_read_as_the_loader_reads_them(tokens: object, taken: bool, tmp_path: Path) -> None:
    content = whole(lambda study: study["model"]["pretraining"].update(tokens=tokens))
    assert loads(content, tmp_path) is taken
    assert VALIDATOR.is_valid(content) is taken
