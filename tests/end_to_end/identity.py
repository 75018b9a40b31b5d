"""What may happen to a study whose figure is made, and what one call then has to do at either grain.

The study is the smoke study's CPT setting: two methods with two durations, each with its own leg end; figure 2 asks
one task of the four models and of the base model.
"""

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import House
from tests.end_to_end.truth import FIG2

Jobs = dict[str, int]
Event = Callable[[House], object]

NOTHING: Jobs = {}
DRAWN: Jobs = {"draw": 1}
COLLECTED: Jobs = {"collect": 1, **DRAWN}
CSV = "results/figures/fig2.csv"


@dataclass(frozen=True)
class Row:
    """An event, the jobs that a call then plans at either grain, and how many legs and runs it trains."""

    event: Event
    condition: Jobs
    family: Jobs
    trained: int = 0


def one_setting(study: dict[str, Any]) -> None:
    study["settings"].pop("math-ift")
    study["evaluation"]["forgetting"] = ["hellaswag"]


# -- events -------------------------------------------------------------------------------------------------------


def durations(*tokens: int) -> Event:
    return lambda house: house.edit(lambda study: study["settings"]["code-cpt"].update(durations=list(tokens)))


def rate(value: float) -> Event:
    return lambda house: house.edit(lambda study: study["settings"]["code-cpt"]["learning_rates"].update(full=value))


def change(edit: Callable[[dict[str, Any]], object]) -> Event:
    return lambda house: house.edit(edit)


def after(*events: Event) -> Event:
    """One after the other."""

    def all_of_them(house: House) -> None:
        for event in events:
            event(house)

    return all_of_them


def made(*targets: str) -> Event:
    return lambda house: house.run(*targets)


def and_back(event: Event) -> Event:
    """It happened to the study, the figure was made, and it was taken back."""

    def there_and_back(house: House) -> None:
        before = house.study_file.read_text()
        event(house)
        house.run()
        house.study_file.write_text(before)

    return there_and_back


def lose(pattern: str, *, bytes_too: bool = False) -> Event:
    """The manifests whose names a regular expression finds, or the whole products."""

    def lost(house: House) -> None:
        found = [path for path in house.store.rglob("*-????????????.json") if re.search(pattern, str(path))]
        assert found
        for path in found:
            path.unlink()
            if bytes_too:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    return lost


def lose_bytes(place: str) -> Event:
    return lambda house: [shutil.rmtree(house.store / key) for key in house.manifests(place)]


def delete(*names: str) -> Event:
    return lambda house: [(house.root / name).unlink() for name in names]


def replace(name: str, old: str, new: str, *, ahead: bool = False) -> Event:
    """Text in a file of the checkout; its time is then an hour ahead, if so."""

    def edited(house: House) -> None:
        path = house.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        if ahead:
            os.utime(path, (time.time() + 3600,) * 2)

    return edited


def touch(*names: str, ahead: float = 0) -> Event:
    """Files of the checkout, or all in its directories, in random order."""

    def touched(house: House) -> None:
        roots = [house.root / name for name in names]
        files = [path for root in roots for path in (root, *root.rglob("*")) if path.is_file()]
        random.Random(0).shuffle(files)
        for path in files:
            os.utime(path, (time.time() + ahead,) * 2)

    return touched


def evaluation_of_a_run(house: House, task: str = "hellaswag") -> Path:
    (found,) = house.store.glob(f"evaluations/code-cpt/full/5.12K-*/{task}-*.json")
    return found


def truncated_for_good(house: House) -> None:
    """An evaluation of before manifests had copies, cut off in the middle."""
    path = evaluation_of_a_run(house)
    path.write_text(path.read_text()[:40])
    (path.with_suffix("") / ".manifest.json").unlink()


def cut_off(house: House) -> None:
    path = evaluation_of_a_run(house)
    path.write_text(path.read_text()[:40])


def forged(house: House) -> None:
    """Another score in an evaluation's manifest."""
    path = evaluation_of_a_run(house)
    manifest = json.loads(path.read_text())
    manifest["results"]["value"] = 0.9375
    path.write_text(json.dumps(manifest))


def keys_reordered(house: House) -> None:
    def reverse(value: Any) -> Any:
        return {key: reverse(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    house.edit(lambda study: (reversed_ := reverse(dict(study)), study.clear(), study.update(reversed_)))
    house.study_file.write_text("# a comment\n" + house.study_file.read_text())


def another_study(house: House) -> None:
    """The same study under another name and title: it has the same products, and figures of its own."""
    other = house.root / "config/studies/other.yaml"
    shutil.copyfile(house.study_file, other)
    house.study = "other"
    house.edit(lambda study: study.update(title="Another study"))


def grain_switched(house: House) -> None:
    house.edit(lambda study: study.update(grain="family" if study["grain"] == "condition" else "condition"))


def another_trainer(house: House) -> None:
    """As `python -m scripts.store.codelock --raise trainer` leaves it."""
    path = house.root / "config/code.lock"
    text = path.read_text()
    raised = re.sub(r"(?m)^(trainer:\n +version: )1$", r"\g<1>2", text)
    assert raised != text
    path.write_text(raised)


def fresh_clone(house: House) -> None:
    """No results and nothing that Snakemake remembers, only the store."""
    store = house.store.rename(house.root / "kept")
    shutil.rmtree(house.root / "results")
    shutil.rmtree(house.root / ".snakemake", ignore_errors=True)
    house.store.parent.mkdir()
    store.rename(house.store)


# -- what Snakemake remembers, and what time it is ------------------------------------------------------------------


def without_snakemake(house: House) -> None:
    shutil.rmtree(house.root / ".snakemake", ignore_errors=True)


def copied_without_times(house: House) -> None:
    """As `cp -r` does it."""
    for part in ("results", "scripts", "config"):
        copy = house.root / f"{part}.copy"
        shutil.copytree(house.root / part, copy, copy_function=shutil.copyfile, symlinks=True)
        shutil.rmtree(house.root / part)
        copy.rename(house.root / part)


STATES: dict[str, Event] = {
    "as-it-was": lambda house: None,
    "no-snakemake": without_snakemake,
    "copied": copied_without_times,
    "store-ahead": touch("results/store", ahead=3600),
}

# -- the table --------------------------------------------------------------------------------------------------------

BETWEEN = durations(2560, 3840, 5120)
_BETWEEN = {"condition": {"train_run": 2, "evaluate": 2, **COLLECTED}, "trained": 2}
_BETWEEN["family"] = {"train_family": 2, "evaluate_family": 2, **COLLECTED}
_ONE_METHOD = {"condition": {"train_leg": 2, "train_run": 2, "evaluate": 2, **COLLECTED}, "trained": 4}
_ONE_METHOD["family"] = {"train_family": 1, "evaluate_family": 1, **COLLECTED}


def same(jobs: Jobs) -> dict[str, Jobs]:
    """At either grain."""
    return {"condition": jobs, "family": jobs}


_ONE_EVALUATION = {"condition": {"evaluate": 1, **COLLECTED}, "family": {"evaluate_family": 1, **COLLECTED}}

TABLE: dict[str, Row] = {
    # the study
    "duration added between": Row(BETWEEN, **_BETWEEN),
    "longest duration added": Row(
        durations(2560, 5120, 10240),
        condition={"train_leg": 2, "train_run": 2, "evaluate": 2, **COLLECTED},
        family={"train_family": 2, "evaluate_family": 2, **COLLECTED},
        trained=4,
    ),
    "duration added and removed": Row(and_back(BETWEEN), **same(COLLECTED)),
    "rate changed": Row(rate(5e-4), **_ONE_METHOD),
    "rate changed and back": Row(and_back(rate(5e-4)), **same(COLLECTED)),
    "rank and alpha swapped": Row(change(lambda s: s["methods"]["lora-r2"].update(rank=4, alpha=2.0)), **_ONE_METHOD),
    "every evaluation renamed": Row(
        change(lambda study: study["evaluation"].update(seed=1)),
        condition={"evaluate": 5, **COLLECTED},
        family={"evaluate_family": 3, **COLLECTED},
    ),
    "trainer changed": Row(
        another_trainer,
        condition={"train_leg": 4, "train_run": 4, "evaluate": 4, **COLLECTED},
        family={"train_family": 2, "evaluate_family": 2, **COLLECTED},
        trained=8,
    ),
    "title changed": Row(change(lambda study: study.update(title="Another title")), **same(COLLECTED)),
    "keys reordered and a comment": Row(keys_reordered, **same(NOTHING)),
    "resources changed": Row(change(lambda s: s["resources"].update(checkpoint_seconds=31)), **same(NOTHING)),
    "another study": Row(another_study, **same(COLLECTED)),
    "grain switched": Row(grain_switched, **same(NOTHING)),
    "grain switched and duration added": Row(
        after(grain_switched, BETWEEN),
        condition=_BETWEEN["family"],
        family=_BETWEEN["condition"],
        trained=2,
    ),
    # the store
    "data manifests lost": Row(lose("/data/"), **same(NOTHING)),
    "data manifests lost and duration added": Row(after(lose("/data/"), BETWEEN), **_BETWEEN),
    "data bytes deleted and duration added": Row(after(lose_bytes("data/rows"), BETWEEN), **_BETWEEN),
    "base model's manifest lost and duration added": Row(after(lose("/models/"), BETWEEN), **_BETWEEN),
    "base model lost and duration added": Row(
        after(lose("/models/", bytes_too=True), BETWEEN),
        condition={"pretrain": 1, **_BETWEEN["condition"]},
        family={"pretrain": 1, **_BETWEEN["family"]},
        trained=2,
    ),
    "legs lost": Row(lose("/legs/", bytes_too=True), **same(NOTHING)),
    "a method's legs lost and its rate changed": Row(
        after(lose("/legs/code-cpt/full/", bytes_too=True), rate(5e-4)), **_ONE_METHOD
    ),
    "the other method's legs lost and a rate changed": Row(
        after(lose("/legs/code-cpt/lora-r2/", bytes_too=True), rate(5e-4)), **_ONE_METHOD
    ),
    "runs' manifests lost": Row(lose("/runs/"), **same(NOTHING)),
    "an evaluation and the CSV lost": Row(
        after(lose("evaluations/code-cpt/full/5.12K-.*/hellaswag", bytes_too=True), delete(CSV)), **_ONE_EVALUATION
    ),
    "an evaluation cut off for good and the CSV lost": Row(after(truncated_for_good, delete(CSV)), **_ONE_EVALUATION),
    "an evaluation's manifest cut off and the CSV lost": Row(after(cut_off, delete(CSV)), **same(COLLECTED)),
    "a score forged": Row(forged, **same(NOTHING)),
    "a score forged and the CSV lost": Row(after(forged, delete(CSV)), **same(COLLECTED)),
    "fresh clone": Row(fresh_clone, **same(COLLECTED)),
    # files with plain names, code, time
    "everything touched": Row(touch("results", "scripts", "config", "rules"), **same(NOTHING)),
    "figures ahead and rate changed": Row(after(touch("results/figures", ahead=3600), rate(5e-4)), **_ONE_METHOD),
    "stale figure beside a right CSV": Row(after(rate(5e-4), made(CSV), touch(FIG2)), **same(DRAWN)),
    "restyled, code ahead": Row(
        replace("scripts/artifacts/style.py", '"slateblue"', '"seagreen"', ahead=True), **same(DRAWN)
    ),
    "another caption": Row(replace("config/artifacts.yaml", "Forgetting", "Forgotten"), **same(DRAWN)),
    "CSV lost": Row(delete(CSV), **same(COLLECTED)),
    "CSV edited by hand": Row(replace(CSV, "0.", "1."), **same(COLLECTED)),
    "CSV's record lost": Row(delete("results/figures/fig2.collected.json"), **same(COLLECTED)),
    "picture lost": Row(delete("results/figures/fig2.png"), **same(DRAWN)),
    "figure cut off": Row(lambda house: os.truncate(house.root / FIG2, 100), **same(DRAWN)),
    "figure's record is garbage": Row(replace("results/figures/fig2.made.json", "{", "["), **same(DRAWN)),
}
