"""The paper's studies are what the paper did: its counts, recipes and shapes as numbers typed from it."""

from collections import Counter
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest

from scripts.components.methods.lora import Lora
from scripts.launch.launch import launch_by_hand
from scripts.plan.conditions import Condition
from scripts.plan.grid import Grid
from scripts.store.fingerprint import canonical
from scripts.study import datalock
from scripts.study.load import ACCEPTED, STUDIES, load_study
from scripts.study.schema import ContinuedPretraining, InstructionFinetuning, Study

VERSIONS = {"data": 1, "pretrainer": 1, "trainer": 1, "evaluation": 1, "spectra": 1}
COMMITTED = sorted(path.stem for path in STUDIES.glob("*.yaml") if not path.name.endswith(ACCEPTED))
MAIN_METHODS = ["full", "lora-r16", "lora-r64", "lora-r256"]
CPT_DURATIONS = ["0.25B", "0.5B", "1B", "2B", "4B", "8B", "16B", "20B"]
IFT_DURATIONS = ["1", "2", "4", "8", "16"]

# appendix A; the rate of full finetuning on code instructions stands in the authors' repository alone
RECIPES: dict[str, dict[str, Any]] = {
    "code-cpt": {
        "rates": {"full": 1e-5, "lora-r16": 1e-5, "lora-r64": 1e-5, "lora-r256": 1e-5},
        "weight_decay": 1e-6,
        "sequence_length": 4096,
        "batch_rows": 192,
        "group_rows": 6,
    },
    "math-cpt": {
        "rates": {"full": 1e-5, "lora-r16": 4e-5, "lora-r64": 4e-5, "lora-r256": 4e-5},
        "weight_decay": 0.0,
        "sequence_length": 4096,
        "batch_rows": 192,
        "group_rows": 6,
    },
    "code-ift": {
        "rates": {"full": 5e-5, "lora-r16": 2e-4, "lora-r64": 2e-4, "lora-r256": 1e-4},
        "weight_decay": 0.0,
        "sequence_length": 4096,
        "batch_rows": 192,
        "group_rows": 6,
    },
    "math-ift": {
        "rates": {"full": 1e-5, "lora-r16": 1e-4, "lora-r64": 1e-4, "lora-r256": 5e-5},
        "weight_decay": 0.0,
        "sequence_length": 1024,
        "batch_rows": 768,
        "group_rows": 24,
    },
    "chat-ift": {
        "rates": {"full": 5e-6, "lora-r16": 1e-4, "lora-r64": 1e-4, "lora-r256": 1e-4},
        "weight_decay": 0.0,
        "sequence_length": 4096,
        "batch_rows": 192,
        "group_rows": 6,
    },
}
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
ALL = [*ATTENTION, *MLP]
NO_GATE = [*ATTENTION, "up_proj", "down_proj"]

# trainable parameters of LoRA on Llama-2-7B
PARAMETERS = {
    "lora-r8": 19_988_480,
    "lora-r16": 39_976_960,
    "lora-r32": 79_953_920,
    "lora-r64": 159_907_840,
    "lora-r128": 319_815_680,
    "lora-r256": 639_631_360,
    "lora-r512": 1_279_262_720,
    "lora-r16-attention": 16_777_216,
    "lora-r64-attention": 67_108_864,
    "lora-r256-attention": 268_435_456,
    "lora-r16-mlp": 23_199_744,
    "lora-r64-mlp": 92_798_976,
    "lora-r256-mlp": 371_195_904,
    "lora-r64-alpha32-nogate": 128_974_848,
    "lora-r256-alpha256": 639_631_360,
    "lora-r256-alpha32": 639_631_360,
}


@cache
def grid(name: str) -> Grid:
    return Grid(load_study(name), name, VERSIONS, {})


def block(name: str, of: str = "paper") -> list[Condition]:
    return grid(of).blocks[name]


def keys(conditions: list[Condition]) -> set[str]:
    return {condition.product for condition in conditions}


def spec(condition: Condition, of: str = "paper") -> dict[str, Any]:
    return grid(of).products[condition.product].spec


def trunk(condition: Condition, of: str = "paper") -> dict[str, Any]:
    """What decides the training of a run, but for its length."""
    return spec(condition, of).get("trunk", spec(condition, of))


def legs_of(condition: Condition, of: str = "paper") -> list[int]:
    """Where the legs end that lead to a run, in batches or epochs."""
    ends: list[int] = []
    key: str | None = condition.product
    while key := next((k for k in grid(of).products[key].inputs if k.startswith("legs/")), None):
        leg = grid(of).products[key].spec
        ends.append(leg["epochs"] if "epochs" in leg else leg["batches"])
    return ends[::-1]


def parameters(study: Study, method: Lora) -> int:
    """Trainable parameters: a module of `a` inputs and `b` outputs has two matrices, rank x a and b x rank."""
    shape = study.model.architecture
    inner, outer = shape.hidden_size, shape.intermediate_size
    ends = dict.fromkeys(ATTENTION, inner + inner) | dict.fromkeys(MLP, inner + outer)
    return shape.layers * method.rank * sum(ends[module] for module in method.modules)


# -- the main grid ----------------------------------------------------------------------------


def test_the_main_grid() -> None:
    conditions = block("grid")
    # 2 datasets x 4 methods x 8 durations, 2 x 4 x 5
    regimes = Counter(condition.setting.split("-")[1] for condition in conditions)
    assert regimes == {"cpt": 64, "ift": 40}
    assert len(keys(conditions)) == 104
    cells = [(condition.setting, condition.method, condition.duration) for condition in conditions]
    settings = {
        "code-cpt": CPT_DURATIONS,
        "math-cpt": CPT_DURATIONS,
        "code-ift": IFT_DURATIONS,
        "math-ift": IFT_DURATIONS,
    }
    assert sorted(cells) == sorted(
        (s, m, d) for s, durations in settings.items() for m in MAIN_METHODS for d in durations
    )
    assert len({canonical(trunk(c)) for c in conditions if c.setting.endswith("cpt")}) == 8
    # every epoch count of instruction finetuning is a run of its own, from the base model
    for condition in conditions:
        if condition.setting.endswith("ift"):
            assert spec(condition)["epochs"] == condition.amount
            assert legs_of(condition) == []
    learning = {"code-cpt": "humaneval", "code-ift": "humaneval", "math-cpt": "gsm8k", "math-ift": "gsm8k"}
    for condition in conditions:
        assert set(condition.evaluations) == {learning[condition.setting], "hellaswag", "arc_challenge", "winogrande"}


@pytest.mark.parametrize("setting", RECIPES)
def test_recipes(setting: str) -> None:
    recipe = RECIPES[setting]
    conditions = [c for c in block("chat" if setting == "chat-ift" else "grid") if c.setting == setting]
    assert {c.method for c in conditions} == set(MAIN_METHODS)
    for condition in conditions:
        trained = trunk(condition)
        assert trained["optimizer"] == {
            "name": "decoupled_lionw",
            "betas": [0.9, 0.95],
            "clip_norm": 1.0,
            "learning_rate": recipe["rates"][condition.method],
            "weight_decay": recipe["weight_decay"],
        }
        assert trained["precision"] == "bf16"
        rows = grid("paper").products[next(k for k in grid("paper").products[condition.product].inputs if "rows/" in k)]
        for name in ("sequence_length", "batch_rows", "group_rows"):
            assert rows.spec[name] == recipe[name]
        assert rows.spec["batch_rows"] == 32 * rows.spec["group_rows"]  # a microbatch for each of 32 GPUs
        if setting.endswith("cpt"):
            assert trained["warmup_batches"] == 1000
        else:
            assert (trained["warmup_fraction"], trained["final_fraction"]) == (0.1, 0.01)
        method = trained["method"]
        if condition.method == "full":
            assert method == {"kind": "full"}
        else:
            rank = int(condition.method.removeprefix("lora-r"))
            expected = {"kind": "lora", "rank": rank, "alpha": 2.0 * rank, "dropout": 0.05, "modules": sorted(ALL)}
            assert method == expected


@pytest.mark.parametrize("setting", ["code-cpt", "math-cpt"])
def test_branches_of_a_trunk(setting: str) -> None:
    # batches of 192 x 4096 tokens; 8B are 10172.53 of them
    batches = [318, 636, 1272, 2543, 5086, 10173, 20345, 25431]
    cooldowns = [64, 127, 254, 509, 1017, 2035, 4069, 5086]
    starts = [254, 508, 1016, 2032, 4064, 8128, 16256, 16256]
    for method in MAIN_METHODS:
        runs = [c for c in block("grid") if (c.setting, c.method) == (setting, method)]
        assert [c.duration for c in runs] == CPT_DURATIONS
        assert [spec(c)["batches"] for c in runs] == batches
        assert [spec(c)["cooldown_batches"] for c in runs] == cooldowns
        assert [legs_of(c)[-1] for c in runs] == starts
        assert legs_of(runs[-1]) == [254, 508, 1016, 2032, 4064, 8128, 16256]
        # 20 + 0.2 x (0.25 + 0.5 + 1 + 2 + 4 + 8 + 16); branches start a little before their cooldown
        trained = starts[-1] + sum(spec(c)["batches"] - legs_of(c)[-1] for c in runs)
        assert trained * 192 * 4096 == pytest.approx(26.35e9, rel=2e-3)


def test_data_and_models() -> None:
    study = grid("paper").study
    chat = "meta-llama/Llama-2-7b-chat-hf"
    assert {name: (study.datasets[s.dataset].repository, s.tokenizer) for name, s in study.settings.items()} == {  # type: ignore[union-attr]
        "code-cpt": ("bigcode/starcoderdata", None),
        "math-cpt": ("open-web-math/open-web-math", None),
        "code-ift": ("ise-uiuc/Magicoder-Evol-Instruct-110K", chat),
        "math-ift": ("meta-math/MetaMathQA", chat),
        "chat-ift": ("allenai/tulu-v2-sft-mixture", chat),
    }
    models = {name: grid(name).study.model.repository for name in ("paper", "paper-v1", "paper-v1-13b", "released")}  # type: ignore[union-attr]
    assert models == {
        "paper": "meta-llama/Llama-2-7b-hf",
        "paper-v1": "meta-llama/Llama-2-7b-hf",
        "paper-v1-13b": "meta-llama/Llama-2-13b-hf",
        "released": "meta-llama/Llama-2-7b-hf",
    }
    for name, count in (("paper", 6_738_415_616), ("paper-v1-13b", 13_015_864_320)):
        shape = grid(name).study.model.architecture
        block_size = 4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size + 2 * shape.hidden_size
        embeddings = 2 * shape.vocabulary * shape.hidden_size  # type: ignore[union-attr]
        assert shape.layers * block_size + embeddings + shape.hidden_size == count


def test_an_epoch_of_magicoder_is_193_batches() -> None:
    setting = grid("paper").study.settings["code-ift"]
    assert isinstance(setting, InstructionFinetuning)
    assert setting.packing_ratio
    examples = int(setting.group_rows * setting.packing_ratio) * (setting.batch_rows // setting.group_rows)
    assert 111_183 // examples == 193


def test_trainable_parameters() -> None:
    study = grid("paper").study
    found = {name: parameters(study, method) for name, method in study.methods.items() if isinstance(method, Lora)}
    assert found == PARAMETERS
    released = grid("released").study
    assert parameters(released, released.methods["lora-r2048"]) == 5_117_050_880  # type: ignore[arg-type]


def test_what_is_asked() -> None:
    tasks = grid("paper").study.evaluation.tasks
    assert (tasks.humaneval.samples, tasks.humaneval.temperature, tasks.humaneval.top_p) == (50, 0.2, 0.95)
    assert tasks.pass_at_k
    assert (tasks.pass_at_k.samples, tasks.pass_at_k.temperature) == (256, 0.8)
    assert tasks.gsm8k.shots == 5
    assert grid("paper").study.evaluation.forgetting == ["hellaswag", "arc_challenge", "winogrande"]


# -- the other figures ------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["paper", "paper-v1"])
def test_regularizers(study: str) -> None:
    conditions = block("regularizers", study)
    have = keys(block("grid" if study == "paper" else "configurations", study))
    new = [c for c in conditions if c.product not in have]
    assert (len(conditions), len(keys(conditions)), len(new)) == (35, 35, 20)
    assert {(c.setting, c.method, c.learning_rate) for c in new} == {("code-ift", "full", 5e-5)}
    assert [c.duration for c in new] == IFT_DURATIONS * 4
    differs = Counter(
        (trunk(c, study)["optimizer"]["weight_decay"], trunk(c, study).get("attention_dropout", {}).get("rate"))
        for c in new
    )
    assert differs == {(5e-5, None): 5, (1e-4, None): 5, (0.0, 0.05): 5, (0.0, 0.1): 5}
    others = {trunk(c, study)["method"].get("rank") for c in conditions if c.product in have}
    assert others == {None, 16, 256}


def test_modules() -> None:
    conditions = block("modules")
    assert len(keys(conditions)) == len(conditions) == 27
    shared = [c for c in conditions if c.product in keys(block("grid"))]
    assert len(shared) == 9
    assert all(trunk(c)["method"]["modules"] == sorted(ALL) for c in shared)
    cells = {(c.duration, trunk(c)["method"]["rank"], tuple(trunk(c)["method"]["modules"])) for c in conditions}
    kinds = [tuple(sorted(modules)) for modules in (ATTENTION, MLP, ALL)]
    assert cells == {(d, rank, modules) for d in ("1", "2", "4") for rank in (16, 64, 256) for modules in kinds}
    for condition in conditions:
        method = trunk(condition)["method"]
        assert (condition.setting, method["alpha"]) == ("code-ift", 2.0 * method["rank"])


@pytest.mark.parametrize("study", ["paper", "paper-v1"])
def test_learning_rates_and_optimizers(study: str) -> None:
    rates = [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3]
    swept = block("learning-rates", study)
    assert len(keys(swept)) == len(swept) == 2 * 2 * 10
    assert {c.duration for c in swept} == {"2"}
    tried: dict[tuple[str, str], list[float | None]] = {}
    for condition in swept:
        tried.setdefault((condition.setting, condition.method), []).append(condition.learning_rate)
    lora = "lora-r64-alpha32-nogate"
    assert tried == {(s, m): rates for s in ("code-ift", "math-ift") for m in ("full", lora)}
    # runs of the first version's kind: rank 64, alpha 32, without the gate
    method = next(trunk(c, study)["method"] for c in swept if c.method == lora)
    assert method == {"kind": "lora", "rank": 64, "alpha": 32.0, "dropout": 0.05, "modules": sorted(NO_GATE)}

    compared = block("optimizers", study)
    assert len(keys(compared)) == len(compared) == 2 * 2 * 10
    names = {c.product: trunk(c, study)["optimizer"]["name"] for c in compared}
    assert Counter(names.values()) == {"decoupled_lionw": 20, "decoupled_adamw": 20}
    lionw = {key for key, name in names.items() if name == "decoupled_lionw"}
    assert lionw == {c.product for c in swept if c.setting == "code-ift"}
    assert not (keys(compared) - lionw) & keys(swept)
    for condition in compared:
        assert set(condition.evaluations) == {"humaneval", "lambada", "hellaswag", "winograd", "winogrande"}


def test_alpha() -> None:
    of_rates = block("alpha-rates")
    tried = Counter(trunk(c)["method"]["alpha"] for c in of_rates)
    assert set(tried) == {32.0, 256.0, 512.0}
    assert len(set(tried.values())) == 1
    assert len(keys(of_rates)) == len(of_rates)
    assert {(c.setting, c.duration, trunk(c)["method"]["rank"]) for c in of_rates} == {("code-ift", "4", 256)}
    # of tokens: one trunk is that of the main grid with all its branches, one more is trained
    of_tokens = block("alpha-tokens")
    main = {c.product for c in block("grid") if (c.setting, c.method) == ("math-cpt", "lora-r256")}
    assert (len(main), len(keys(of_tokens) & main), len(keys(of_tokens) - main)) == (8, 8, 8)
    new = [c for c in of_tokens if c.product not in main]
    assert {c.setting for c in new} == {"math-cpt"}
    assert len({canonical(trunk(c)) for c in new}) == 1
    assert {(trunk(c)["method"]["rank"], trunk(c)["method"]["alpha"]) for c in new} == {(256, 256.0)}


def test_chat() -> None:
    conditions = block("chat")
    assert len(keys(conditions)) == len(conditions) == 12
    assert len({canonical(trunk(c)) for c in conditions}) == 4
    assert {trunk(c)["schedule_epochs"] for c in conditions} == {6}
    assert Counter(c.duration for c in conditions) == {"2": 4, "4": 4, "6": 4}
    # hot: what is evaluated after 2 and 4 epochs is the one run on its way
    ends = {"2": [2], "4": [2, 4], "6": [2, 4]}
    for condition in conditions:
        assert legs_of(condition) == ends[condition.duration]
        tasks = {"mt_bench", "mmlu", "gsm8k", "hellaswag", "arc_challenge", "winogrande"}
        assert set(condition.evaluations) == tasks


def test_pass_at_k_diversity_and_spectra() -> None:
    epoch_4 = {c.product for c in block("grid") if (c.setting, c.duration) == ("code-ift", "4")}
    assert len(epoch_4) == 4
    assert keys(block("pass-at-k")) == keys(block("diversity")) == epoch_4
    base = block("base")[0].evaluations
    assert {"pass_at_k", "humaneval"} <= set(base)
    assert "spectra" not in base
    decomposed = block("spectra")
    assert [(c.setting, c.method, c.duration) for c in decomposed] == [("code-cpt", "full", d) for d in CPT_DURATIONS]
    assert keys(decomposed) <= keys(block("grid"))
    assert grid("paper").study.spectra.whole == ["model.layers.26.self_attn.q_proj"]  # type: ignore[union-attr]


def test_throughput() -> None:
    made = [product for product in grid("paper") if product.kind == "throughput"]
    assert [product.spec["method"].get("rank") for product in made] == [None, 8, 32, 128, 512]
    for product in made:
        assert product.spec["batch_rows"] == [8, 16, 32, 64, 128, 256]
        assert product.spec["method"].get("modules", sorted(ALL)) == sorted(ALL)


# -- the first version, and what the authors published ----------------------------------------


def test_the_first_versions_configurations() -> None:
    first = grid("paper-v1")
    ranks = {"code-cpt": {16: 32.0, 256: 32.0}, "code-ift": {16: 32.0, 256: 32.0}}
    ranks |= {"math-cpt": {16: 32.0, 256: 512.0}, "math-ift": {16: 32.0, 256: 512.0}}
    kinds = {tuple(sorted(modules)) for modules in (ATTENTION, ["up_proj", "down_proj"], NO_GATE)}
    assert not first.blocks["grid"]
    conditions = first.blocks["configurations"]
    for setting, alphas in ranks.items():
        found = {
            (method["rank"], method["alpha"], tuple(method["modules"]))
            for condition in conditions
            for method in [trunk(condition, "paper-v1")["method"]]
            if condition.setting == setting and method["kind"] == "lora"
        }
        assert found == {(rank, alpha, modules) for rank, alpha in alphas.items() for modules in kinds}
        assert len(found) == 6
    for product in first:
        method = product.spec.get("trunk", product.spec).get("method", {})
        assert "gate_proj" not in method.get("modules", [])
    counts = Counter(c.setting for c in conditions)
    assert counts == {"code-cpt": 7 * 8, "code-ift": 7 * 5, "math-cpt": 7 * 6, "math-ift": 7 * 5}
    math = first.study.settings["math-cpt"]
    assert isinstance(math, ContinuedPretraining)
    # the text gives scores at 4.3B and 8.6B (elsewhere it calls that 8.59B), and no later ones
    assert sorted(math.durations)[-2:] == [4_300_000_000, 8_600_000_000]


def test_full_finetuning_on_code_is_the_same_in_both_versions() -> None:
    def full(conditions: list[Condition]) -> set[str]:
        return {c.product for c in conditions if c.method == "full" and c.setting in ("code-cpt", "code-ift")}

    assert len(full(block("grid"))) == 13
    assert full(block("configurations", "paper-v1")) == full(block("grid"))


def test_the_first_versions_modules() -> None:
    conditions = block("modules", "paper-v1")
    assert len(keys(conditions)) == len(conditions) == 3 * 2 * 3
    assert keys(conditions) <= keys(block("configurations", "paper-v1"))


def test_the_larger_model_is_trained_on_code_alone() -> None:
    conditions = [c for cells in grid("paper-v1-13b").blocks.values() for c in cells if c.setting]
    assert {c.setting for c in conditions} == {"code-cpt"}
    assert len(keys(conditions)) == 7 * 8


def test_released() -> None:
    study = grid("released").study
    repositories = {repository for setting in study.settings.values() for repository in setting.published.values()}
    lora = [f"lora-rank-{rank}" for rank in (16, 64, 256)]
    alphas = [f"lora-rank-{rank}-alpha-{2 * rank}" for rank in (16, 64, 256)]
    names = [
        "starcoder-full-finetuning-lr-1e-05-20B-token",
        *(f"starcoder-{name}-20B-tokens" for name in lora),
        "openwebmath-full-finetuning-lr-1e-05-20B-tokens",
        *(f"openwebmath-{name}-20B-tokens" for name in lora),
        "magicoder-full-finetuning-lr-5e-05",
        *(f"magicoder-{name}" for name in alphas),
        "magicoder-lora-rank-2048-alpha-4096",
        "metamath-full-finetuning-lr-1e-05",
        *(f"metamath-{name}" for name in alphas),
    ]
    assert len(names) == 17
    assert repositories == {f"LoRA-TMLR-2024/{name}" for name in names}
    # the same conditions as the paper's, each a download, and nothing is trained

    def cells(name: str) -> set[tuple[str, str, str]]:
        return {(c.setting, c.method, c.duration) for c in grid(name).blocks["grid"]}

    assert cells("released") == cells("paper")
    shown = [c for conditions in grid("released").blocks.values() for c in conditions if c.setting]
    assert {spec(c, "released")["kind"] for c in shown} == {"published"}
    assert len(keys(shown)) == 104 + 5  # rank 2048 beside the main grid
    kinds = Counter(product.kind for product in grid("released"))
    assert not {"leg", "run", "trained", "rows", "throughput"} & set(kinds)
    assert (kinds["published"], kinds["spectra"]) == (109, 8)


# -- launches ---------------------------------------------------------------------------------


def test_a_frozen_launch_fits_into_one_environment_variable() -> None:
    """Linux takes at most 128 KiB in one; what is frozen of any study is to stay below half of that."""
    launch = launch_by_hand("paper", "results/store")
    for name in COMMITTED:
        study = load_study(name)
        frozen = replace(launch, name=name, study=study.model_dump(mode="json"))
        assert len(canonical(asdict(frozen)).encode()) < 64 * 1024, name
        assert Study.model_validate(frozen.study, context=datalock.read()) == study
