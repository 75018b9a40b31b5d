"""Conditions, names and specs: which change moves which product, and what never moves one."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scripts.common.errors import UserError
from scripts.common.quantities import format_tokens, parse_tokens
from scripts.plan import artifacts
from scripts.plan.grid import Grid
from scripts.store.fingerprint import canonical, fingerprint
from scripts.study.schema import ContinuedPretraining, Study

SMOKE = yaml.safe_load(Path("config/studies/smoke.yaml").read_text())
VERSIONS = {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1}


def grid(change: Callable[[dict[str, Any]], Any] = lambda study: None, versions: dict[str, int] = VERSIONS) -> Grid:
    study = copy.deepcopy(SMOKE)
    change(study)
    return Grid(Study.model_validate(study), "smoke", versions, {})


def new_kinds(changed: Grid) -> dict[str, int]:
    """How many products of each kind the smoke study does not have."""
    have = {product.key for product in grid()}
    kinds: dict[str, int] = {}
    for product in changed:
        if product.key not in have:
            kinds[product.kind] = kinds.get(product.kind, 0) + 1
    return kinds


def test_keys_end_in_the_fingerprint_of_their_spec() -> None:
    for product in grid():
        assert product.key.endswith(f"-{fingerprint(product.spec)}")


def test_inputs_are_products_of_the_same_grid() -> None:
    made = grid()
    for product in made:
        assert set(product.inputs) | set(product.members) <= set(made.products)


def test_counts() -> None:
    kinds = [product.kind for product in grid()]
    # grid: 2 settings x 2 methods x 2 durations; 2 legs a CPT method. Sweep: 2 rates in each of the 4, of which one is
    # the grid's, at one duration; 1 leg in CPT
    assert (kinds.count("run"), kinds.count("leg")) == (8 + 4, 4 + 2)
    # a model of the grid has 4 tasks and 2 losses, the base 5 and 3; in the sweep a model has 4, and validation items
    assert kinds.count("evaluation") == 8 * 6 + 8 + 4 * 4 + 8
    assert (kinds.count("trained"), kinds.count("evaluated")) == (4 + 4, 2 * 5 + 2 * 4)


def test_order_of_keys_changes_nothing() -> None:
    def shuffled(value: Any, dice: random.Random) -> Any:
        if not isinstance(value, dict):
            return value
        keys = list(value)
        dice.shuffle(keys)
        return {key: shuffled(value[key], dice) for key in keys}

    for seed in range(5):
        study = Study.model_validate(shuffled(SMOKE, random.Random(seed)))
        assert set(Grid(study, "smoke", VERSIONS, {}).products) == set(grid().products)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s["resources"].update(devices={"kind": "h100-80gb", "gpus": 8}, checkpoint_seconds=5), {}),
        (lambda s: s.update(grain="condition"), {}),
        (lambda s: s.update(title="Another title"), {}),
        (lambda s: s["settings"]["code-cpt"].update(domain="programs", label="Programs"), {}),
        (
            lambda s: s["settings"]["math-ift"]["learning_rates"].update(full=1e-3),
            {"run": 2, "samples": 2, "evaluation": 12, "trained": 1, "evaluated": 2},
        ),
        (
            lambda s: s["settings"]["code-cpt"]["learning_rates"].update({"lora-r2": 1e-3}),
            {"leg": 2, "run": 2, "samples": 2, "evaluation": 12, "trained": 1, "evaluated": 2},
        ),
        (
            lambda s: s["evaluation"]["tasks"]["humaneval"].update(samples=3),
            {"samples": 11, "evaluation": 11, "evaluated": 7},
        ),
        # how programs are judged moves nothing that a model writes
        (
            lambda s: s["evaluation"]["tasks"]["humaneval"].update(timeout_seconds=9.0),
            {"evaluation": 11, "evaluated": 7},
        ),
        (lambda s: s["evaluation"]["tasks"]["humaneval"].update(memory_mb=999), {"evaluation": 11, "evaluated": 7}),
        # the tokenizer learns from these records, and everything is made of its tokens
        (lambda s: s["datasets"]["code-documents"].update(records=151), {"records": 1, "tokenizer": 1, "rows": 3}),
    ],
)
def test_what_a_change_moves(change: Callable[[dict[str, Any]], Any], expected: dict[str, int]) -> None:
    moved = new_kinds(grid(change))
    assert {kind: moved.get(kind, 0) for kind in expected} == expected
    if not expected:
        assert not moved


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [
        ("scaling", "alpha_over_rank", "rank_stabilized"),
        ("decomposed", False, True),
        ("initialization", "random", "pissa"),
        ("learning_rate_ratio_b", 1.0, 16.0),
        ("quantization", None, "nf4"),
    ],
)
def test_a_variant_of_lora_is_in_the_spec_where_it_is_one(key: str, default: Any, other: Any) -> None:
    assert not new_kinds(grid(lambda s: s["methods"]["lora-r2"].update({key: default})))
    changed = grid(lambda s: s["methods"]["lora-r2"].update({key: other}))
    assert new_kinds(changed) == {"leg": 3, "run": 6, "samples": 10, "evaluation": 36, "trained": 4, "evaluated": 8}
    methods = [
        {name: value for name, value in product.spec.get("trunk", product.spec)["method"].items() if name == key}
        for product in changed
        if product.kind == "run" and "/lora-r2/" in product.key
    ]
    assert methods == [{key: other}] * 6


@pytest.mark.parametrize(
    ("version", "kinds"),
    [
        ("evaluation", {"samples", "evaluation", "evaluated"}),
        ("trainer", {"leg", "run", "samples", "evaluation", "trained", "evaluated"}),
        ("pretrainer", {"model", "leg", "run", "samples", "evaluation", "trained", "evaluated"}),
        (
            "data",
            {"records", "tokenizer", "rows", "model", "leg", "run", "samples", "evaluation", "trained", "evaluated"},
        ),
    ],
)
def test_a_raised_code_version_moves_what_depends_on_it(version: str, kinds: set[str]) -> None:
    assert set(new_kinds(grid(versions=VERSIONS | {version: 2}))) == kinds


def test_what_a_study_calls_its_datasets_moves_nothing() -> None:
    def rename(value: Any) -> Any:
        """Every key `dataset` or `datasets`, and what is declared under `datasets`."""
        if not isinstance(value, dict):
            return value
        value = {key: rename(inner) for key, inner in value.items()}
        for key in ("dataset", "held_out"):
            if isinstance(value.get(key), str):
                value[key] = f"my-{value[key]}"
        if "validation" in value:
            value["validation"] = {task: f"my-{name}" for task, name in value["validation"].items()}
        if isinstance(value.get("datasets"), list):
            value["datasets"] = [f"my-{name}" for name in value["datasets"]]
        elif "datasets" in value:
            value["datasets"] = {f"my-{name}": dataset for name, dataset in value["datasets"].items()}
        return value

    renamed = Grid(Study.model_validate(rename(SMOKE)), "smoke", VERSIONS, {})
    assert set(renamed.study.datasets) == {f"my-{name}" for name in SMOKE["datasets"]}
    assert {key: product.inputs for key, product in renamed.products.items()} == {
        product.key: product.inputs for product in grid()
    }


def test_method_name_is_no_identity_but_part_of_the_place() -> None:
    def rename(study: dict[str, Any]) -> None:
        study["methods"]["mine"] = study["methods"].pop("lora-r2")
        for setting in study["settings"].values():
            for rates in (setting["learning_rates"], setting["sweep"]["learning_rates"]):
                rates["mine"] = rates.pop("lora-r2")

    fingerprints = {product.fingerprint for product in grid() if product.kind in ("leg", "run", "evaluation")}
    renamed = {product.fingerprint for product in grid(rename) if product.kind in ("leg", "run", "evaluation")}
    assert fingerprints == renamed


@given(
    durations=st.lists(st.integers(2, 400), min_size=1, max_size=6, unique=True),
    first=st.integers(1, 50),
    cooldown=st.sampled_from([0.1, 0.2, 0.5]),
)
def test_legs_lie_on_the_doubling_grid(durations: list[int], first: int, cooldown: float) -> None:
    """Leg ends are first_leg x 2^k; a branch starts at the last one before its cooldown."""
    tokens = 4 * 64

    def change(study: dict[str, Any]) -> None:
        study["settings"]["code-cpt"] |= {
            "durations": [batches * tokens for batches in durations],
            "first_leg": first * tokens,
            "cooldown": cooldown,
        }

    made = grid(change)
    for condition in made.blocks["grid"]:
        if condition.setting != "code-cpt":
            continue
        run = made.products[condition.product]
        batches = condition.amount // tokens
        assert run.spec["batches"] == batches
        constant = batches - round(cooldown * batches)
        ends = [first * 2**k for k in range(12) if first * 2**k <= constant]
        legs = [key for key in run.inputs if key.startswith("legs/")]
        assert [made.products[key].spec["batches"] for key in legs] == ends[-1:]
        while legs:  # the chain of legs goes back to the base model, one doubling at a time
            leg = made.products[legs[0]]
            assert leg.spec["batches"] == ends.pop()
            legs = [key for key in leg.inputs if key.startswith("legs/")]
        assert not ends


def test_a_leg_does_not_depend_on_the_durations() -> None:
    def change(study: dict[str, Any]) -> None:
        study["settings"]["code-cpt"]["durations"] = ["1M", 5120]

    def legs(made: Grid) -> dict[str, tuple[str, ...]]:
        return {product.key: product.inputs for product in made if product.kind == "leg"}

    before, after = legs(grid()), legs(grid(change))
    assert before.items() <= after.items()


def test_seeds_multiply_conditions_and_move_nothing() -> None:
    more = grid(lambda study: study.update(seeds=[0, 1]))
    assert {product.key for product in grid()} <= set(more.products)
    assert len(more.conditions("grid")) == 2 * 8 + 1


def test_a_rate_in_grid_and_sweep_is_one_condition() -> None:
    made = grid()
    cells = {block: {c.product: c.learning_rate for c in made.blocks[block]} for block in ("grid", "sweep")}
    shared = cells["grid"].keys() & cells["sweep"].keys()
    # in each of 2 settings, for each of 2 methods, one rate of the sweep is the grid.s, at one of its durations
    assert len(shared) == 4
    assert {made.products[key].kind for key in shared} == {"run"}
    for key in shared:
        assert cells["grid"][key] == cells["sweep"][key]


def test_accepting_a_rate_moves_no_product_of_the_sweep() -> None:
    def change(study: dict[str, Any]) -> None:
        study["settings"]["code-cpt"]["learning_rates"]["full"] = 0.0002

    def sweep(made: Grid) -> list[Any]:
        return [(c, made.products[c.product].inputs) for c in made.blocks["sweep"]]

    assert sweep(grid()) == sweep(grid(change))
    assert {c.product for c in grid().blocks["grid"]} != {c.product for c in grid(change).blocks["grid"]}


def test_a_name_without_fingerprint_is_the_grids_or_has_to_be_made_whole() -> None:
    made = grid()
    run = made.find("code-cpt/full/2.56K-seed0")
    assert run.spec["trunk"]["optimizer"]["learning_rate"] == SMOKE["settings"]["code-cpt"]["learning_rates"]["full"]
    other = next(c.product for c in made.blocks["sweep"] if c.learning_rate == 0.0002)
    assert made.find(other).key == other
    with pytest.raises(UserError, match="several products"):
        made.find(f"{made.blocks['base'][0].evaluations['target_loss@code-cpt'][:-13]}")


def test_rates_are_chosen_on_items_that_no_test_asks() -> None:
    made = grid()
    validation = {made.products[c.evaluations["validation"]].spec["records"] for c in made.blocks["sweep"]}
    tested = {
        made.products[key].spec["records"]
        for c in made.conditions("sweep")
        for task, key in c.evaluations.items()
        if task != "validation"
    }
    assert validation
    assert not validation & tested
    splits = {made.products[f"data/records/{kind}-{fp}"].spec["split"] for fp in validation
              for kind in ("humaneval", "gsm8k") if f"data/records/{kind}-{fp}" in made.products}  # fmt: skip
    assert splits == {"validation"}
    # and the job that answers them needs none of the test items
    for key in made.makers("sweep", artifacts.validations(made)):
        read = [made.products[needed] for needed in made.products[key].inputs]
        assert [p.spec["split"] for p in read if p.kind == "records"] == ["validation"]


def by_losses(study: dict[str, Any]) -> None:
    study["sweep"] = {"rule": "lowest_held_out_loss", "seeds": [0, 1]}


@pytest.mark.parametrize("grain", ["condition", "family"])
def test_by_held_out_losses_a_sweep_asks_these_and_nothing_else(grain: str) -> None:
    made = grid(lambda study: (by_losses(study), study.update(grain=grain)))
    decide = artifacts.validations(made)
    # 2 settings, 2 methods, 2 rates, 2 seeds
    assert len(set(decide)) == 16
    for key, condition in zip(decide, made.blocks["sweep"], strict=True):
        held_out = SMOKE["settings"][condition.setting]["held_out"]
        assert made.products[key].spec["task"] == "target_loss"
        assert made.products[key].spec["records"] == made.records(held_out).fingerprint
    jobs = made.makers("sweep", decide)
    assert jobs == (sorted(decide) if grain == "condition" else sorted(set(jobs)))
    assert len(jobs) == (16 if grain == "condition" else 8)
    asked = {member for job in jobs for member in (made.products[job].members or [job])}
    assert asked == set(decide)
    # what the grid has of the same models is the same product
    models = {c.product: c for c in made.blocks["grid"]}
    shared = [c for c in made.blocks["sweep"] if c.product in models]
    assert len(shared) == 4
    assert all(models[c.product].evaluations["target_loss"] == c.evaluations["validation"] for c in shared)
    assert artifacts.lack(made, ["target_loss"], "sweep") is None
    # the figure of the sweep has the base model's losses besides
    shown = artifacts.measurements(made, ["target_loss"], "sweep")
    assert {made.products[key].spec["task"] for key in shown} == {"target_loss"}
    assert len(set(shown) - set(decide)) == 2


def test_a_sweep_by_scores_shows_no_losses() -> None:
    assert artifacts.lack(grid(), ["target_loss"], "sweep") == (
        "the sweep of study 'smoke' does not choose by held-out loss (sweep.rule)"
    )
    assert "target_loss" not in {label for c in grid().blocks["sweep"] for label in c.evaluations}


def test_what_artifacts_read_of_the_base_model() -> None:
    made = grid()
    (base,) = made.blocks["base"]
    assert artifacts.tasks(made, base, ["learning"]) == ["gsm8k", "humaneval"]
    assert artifacts.tasks(made, base, ["learning"], setting="code-cpt") == ["humaneval"]
    assert artifacts.tasks(made, base, ["source_loss", "target_loss"]) == [
        "source_loss",
        "target_loss@code-cpt",
        "target_loss@math-ift",
    ]
    for need in artifacts.tasks(made, base, ["learning", "forgetting", "source_loss", "target_loss"]):
        assert made.products[base.evaluations[need]].spec["task"] == need.partition("@")[0]


def test_what_a_study_does_not_have() -> None:
    def strip(study: dict[str, Any]) -> None:
        del study["evaluation"]["held_out"]
        del study["sweep"]
        for setting in study["settings"].values():
            del setting["sweep"]

    made = grid(strip)
    assert artifacts.lack(made, ["learning"], "grid") is None
    assert "no sweep" in str(artifacts.lack(made, ["learning"], "sweep"))
    assert "evaluation.held_out" in str(artifacts.lack(made, ["source_loss"], "grid"))
    assert "'math-cpt'" in str(artifacts.lack(made, ["learning"], "grid", "math-cpt"))
    assert artifacts.lack(made, ["target_loss"], "grid") is None


@given(st.integers(1, 10**13))
def test_tokens_round_trip(tokens: int) -> None:
    assert parse_tokens(format_tokens(tokens)) == tokens


@pytest.mark.parametrize(
    ("tokens", "text"), [(64_000, "64K"), (250_000_000, "0.25B"), (20 * 10**9, "20B"), (2_500_000, "2.5M"), (7, "7")]
)
def test_tokens_as_the_paper_writes_them(tokens: int, text: str) -> None:
    assert format_tokens(tokens) == text


def test_canonical_json_is_one_text() -> None:
    assert canonical({"b": [1.0, "é"], "a": None}) == '{"a":null,"b":[1.0,"é"]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_the_papers_durations_become_whole_batches() -> None:
    """facts of the paper, section 2A: 192 rows of 4096 tokens; 20 B tokens are 25,431 batches, cooldown 5,086."""
    setting = ContinuedPretraining.model_validate(
        {
            "label": "Code CPT",
            "domain": "code",
            "regime": "cpt",
            "dataset": "starcoder",
            "sequence_length": 4096,
            "batch_rows": 192,
            "group_rows": 6,
            "learning": "humaneval",
            "learning_rates": {"full": 1e-5},
            "durations": ["0.25B", "20B"],
            "first_leg": "0.2B",
            "warmup_batches": 1000,
            "cooldown": 0.2,
        }
    )
    assert [setting.batches(tokens) for tokens in setting.durations] == [318, 25431]
    assert round(0.2 * 25431) == 5086


def test_rows_of_ones_own_records_say_that_long_examples_are_cut() -> None:
    """They were dropped once, so rows under the old name have other examples; none that is made here was ever long."""

    def own(study: dict[str, Any]) -> None:
        study["datasets"]["math-instructions"] = {"source": "path", "path": "mine.jsonl"}

    assert [one.rows("math-ift", 0).spec.get("overlong") for one in (grid(), grid(own))] == [None, "cut"]


def measured_by_losses(study: dict[str, Any]) -> None:
    """Code is learned by its own held-out loss, the source loss is all that is forgotten, one benchmark is left."""
    study["settings"]["code-cpt"]["learning"] = "target_loss"
    study["evaluation"] |= {
        "tasks": {"gsm8k": study["evaluation"]["tasks"]["gsm8k"]},
        "forgetting": ["source_loss"],
    }
    del study["settings"]["code-cpt"]["sweep"]
    study["sweep"]["validation"] = {"gsm8k": study["sweep"]["validation"]["gsm8k"]}


def test_learning_and_forgetting_measured_by_losses() -> None:
    made = grid(measured_by_losses)
    needs = ("learning", "forgetting")
    asked = {c.setting or "base": artifacts.tasks(made, c, needs) for c in made.conditions("grid")}
    assert asked == {
        "base": ["gsm8k", "target_loss@code-cpt", "source_loss"],
        "code-cpt": ["target_loss", "source_loss"],
        "math-ift": ["gsm8k", "source_loss"],
    }
    # they are those that the smoke study measures too, by the same names
    assert set(artifacts.measurements(made, needs, "grid")) <= grid().products.keys()
    assert artifacts.lack(made, needs, "grid") is None


def test_the_papers_claims_are_about_accuracies() -> None:
    assert artifacts.lack_of_claims(grid()) is None
    why = artifacts.lack_of_claims(grid(measured_by_losses))
    assert why
    assert "measures target_loss (settings.code-cpt.learning)" in why


def test_a_study_may_have_no_benchmark_at_all() -> None:
    def alone(study: dict[str, Any]) -> None:
        measured_by_losses(study)
        del study["settings"]["math-ift"], study["sweep"], study["evaluation"]["tasks"]

    made = grid(alone)
    assert {product.spec["task"] for product in made if product.kind == "evaluation"} == {"target_loss", "source_loss"}
    assert not [product for product in made if product.kind == "samples"]


def test_a_model_that_is_converted_says_by_what() -> None:
    def from_package(study: dict[str, Any]) -> None:
        found = {"source": "package", "package": "some-model", "version": "1.0", "member": "some/model.gguf"}
        study["model"] = {**found, "label": "some"}

    before, after = (grid(from_package, {**VERSIONS, "converter": number}) for number in (1, 2))
    assert before.model.key != after.model.key
    moved = {product.kind for product in before if product.key not in after.products}
    assert {"model", "tokenizer", "rows", "leg", "run", "samples", "evaluation"} <= moved
    assert "records" not in moved
