"""Whatever is edited, lost and touched: one call makes a true figure, training nothing that is there; a second nothing.

`IDENTITY_EXAMPLES=500 make test-all ARGS="-m slow tests/end_to_end/test_identity_at_random.py"` tries that many; every
commit tries fifteen, always the same.
"""

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.conftest import House
from tests.end_to_end import identity
from tests.end_to_end.check_identity import finished_house
from tests.end_to_end.truth import check_truth

QUICK, EXAMPLES = 15, int(os.environ.get("IDENTITY_EXAMPLES", "100"))

Study = dict[str, Any]


def renamed(mapping: Study, old: str, new: str) -> None:
    """The same content in the same order under another name."""
    entries = [(new if name == old else name, value) for name, value in mapping.items()]
    mapping.clear()
    mapping.update(entries)


def rename_method(study: Study) -> None:
    renamed(study["methods"], "lora-r2", "adapter")
    for setting in study["settings"].values():
        renamed(setting["learning_rates"], "lora-r2", "adapter")
        renamed(setting["sweep"]["learning_rates"], "lora-r2", "adapter")


def cpt(study: Study) -> Study:
    setting: Study = next(iter(study["settings"].values()))
    return setting


EDITS: dict[str, Callable[[Study], object]] = {
    "title": lambda s: s.update(title="Another title"),
    "label": lambda s: cpt(s).update(label="Python CPT"),
    "setting renamed": lambda s: renamed(s["settings"], "code-cpt", "python-cpt"),
    "method renamed": rename_method,
    "duration added": lambda s: cpt(s).update(durations=[2560, 3840, 5120]),
    "longer": lambda s: cpt(s).update(durations=[2560, 5120, 10240]),
    "one duration less": lambda s: cpt(s).update(durations=[5120]),
    "rate of full": lambda s: cpt(s)["learning_rates"].update(full=5e-4),
    "rates of all": lambda s: cpt(s).update(learning_rates=dict.fromkeys(cpt(s)["learning_rates"], 0.0003)),
    "alpha": lambda s: [method.update(alpha=8.0) for method in s["methods"].values() if method["kind"] == "lora"],
    "rank": lambda s: [method.update(rank=1) for method in s["methods"].values() if method["kind"] == "lora"],
    "seed": lambda s: s.update(seeds=[1]),
    "warmup": lambda s: cpt(s).update(warmup_batches=1),
    "cooldown": lambda s: cpt(s).update(cooldown=0.4),
    "group": lambda s: cpt(s).update(group_rows=4),
    "clipping": lambda s: s["optimizer"].update(clip_norm=0.5),
    "betas": lambda s: s["optimizer"].update(betas=[0.9, 0.99]),
    "evaluation's seed": lambda s: s["evaluation"].update(seed=1),
    "items": lambda s: s["datasets"]["hellaswag"].update(records=7),
    "resources": lambda s: s["resources"].update(startup_seconds=3),
    "grain": lambda s: s.update(grain="family" if s["grain"] == "condition" else "condition"),
}


def some(paths: list[Path], dice: random.Random) -> list[Path]:
    return dice.sample(sorted(paths), k=min(len(paths), dice.randint(1, 6)))


def manifests_of(house: House) -> list[Path]:
    return list(house.store.rglob("*-????????????.json"))


def lose_manifests(house: House, dice: random.Random) -> None:
    for path in some(manifests_of(house), dice):
        path.unlink()


def cut_manifests_off(house: House, dice: random.Random) -> None:
    for path in some(manifests_of(house), dice):
        os.truncate(path, dice.randrange(path.stat().st_size))


def lose_products(house: House, dice: random.Random) -> None:
    for path in some(manifests_of(house), dice):
        path.unlink()
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def lose_bytes_of_data(house: House, dice: random.Random) -> None:
    for path in some(list((house.store / "data").rglob("*-????????????.json")), dice):
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def lose_what_snakemake_knows(house: House, dice: random.Random) -> None:
    shutil.rmtree(house.root / ".snakemake" / dice.choice(["metadata", "incomplete", ""]), ignore_errors=True)


def lose_results(house: House, dice: random.Random) -> None:
    for path in some(list((house.root / "results/figures").iterdir()), dice):
        path.unlink()


def spoil_results(house: House, dice: random.Random) -> None:
    for path in some(list((house.root / "results/figures").iterdir()), dice):
        path.write_bytes(path.read_bytes() + b"\n")


def touch(house: House, dice: random.Random) -> None:
    """Some files, or all, to any time within two hours."""
    files = [path for path in house.root.rglob("*") if path.is_file()]
    for path in files if dice.random() < 0.5 else some(files, dice):
        os.utime(path, (time.time() + dice.uniform(-7200, 7200),) * 2)


def copy(house: House, dice: random.Random) -> None:
    identity.copied_without_times(house)


LOSSES = [
    lose_manifests,
    cut_manifests_off,
    lose_products,
    lose_bytes_of_data,
    lose_what_snakemake_knows,
    lose_results,
    spoil_results,
    touch,
    copy,
]


@pytest.fixture(scope="session")
def made(prepared: House, tmp_path_factory: pytest.TempPathFactory) -> House:
    return finished_house(prepared, tmp_path_factory, "condition")


def trained_before(house: House) -> set[str]:
    """The names of the legs and runs that the store has: by their manifests, or by the copies of these."""
    found = set()
    for place in ("legs", "runs"):
        found |= {path.parent.name for path in (house.store / place).rglob(".manifest.json")}
    return found


def try_one(made: House, prepared: House, edits: list[str], losses: list[int], seed: int) -> None:
    dice = random.Random(seed)
    note(f"{edits}, {[LOSSES[index].__name__ for index in losses]}, dice {seed}")
    with tempfile.TemporaryDirectory() as where:
        house = made.copy(Path(where))
        steps: list[Callable[[], object]] = [lambda name=name: house.edit(EDITS[name]) for name in edits]  # type: ignore[misc]
        steps += [lambda index=index: LOSSES[index](house, dice) for index in losses]  # type: ignore[misc]
        dice.shuffle(steps)
        for step in steps:
            step()
        there = trained_before(house)
        done = house.run()
        trained = {name.removeprefix("trained ") for name in done if name.startswith("trained ")}
        assert not trained & there
        assert set(done.values()) <= {1}
        check_truth(house, prepared, Path(where))


cases = given(
    edits=st.lists(st.sampled_from(sorted(EDITS)), max_size=3, unique=True),
    losses=st.lists(st.integers(0, len(LOSSES) - 1), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
# an example takes seconds: a smaller one of the same kind would take minutes to find
unhurried: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}


@pytest.mark.thorough
@settings(max_examples=QUICK, derandomize=True, **unhurried)
@cases
def test_one_call_is_enough(made: House, prepared: House, edits: list[str], losses: list[int], seed: int) -> None:
    try_one(made, prepared, edits, losses, seed)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, **unhurried)
@cases
def test_one_call_is_enough_of_many(
    made: House, prepared: House, edits: list[str], losses: list[int], seed: int
) -> None:
    try_one(made, prepared, edits, losses, seed)
