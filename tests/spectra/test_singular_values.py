"""Spectra of differences: known ones, numpy's in float64, and those of a tiny Llama from its files to the product."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.spectra.ranks import rank_to_explain, read_spectra
from scripts.spectra.singular_values import main, spectra
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Store

pytestmark = pytest.mark.arithmetic

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.10.mlp.down_proj"
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"kind": "lora", "rank": 3, "alpha": 6.0, "modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def model(directory: Path, matrices: dict[str, np.ndarray]) -> Path:
    """A model directory with these linear matrices, and what every model has beside them."""
    directory.mkdir(parents=True)
    weights = {f"{name}.weight": matrix for name, matrix in matrices.items()}
    others = {"model.embed_tokens.weight": np.ones((4, 2)), "model.layers.0.input_layernorm.weight": np.ones(2)}
    save_file(weights | others, directory / "model.safetensors")
    return directory


def adapter(directory: Path, factors: dict[str, tuple[np.ndarray, np.ndarray]], **changes: Any) -> Path:
    """A peft adapter directory: name of a matrix to its A and B; rank 2, alpha 4."""
    directory.mkdir(parents=True)
    save_file(
        {
            f"base_model.model.{n}.lora_{p}.weight": m
            for n, ab in factors.items()
            for p, m in zip("AB", ab, strict=True)
        },
        directory / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["down_proj"], "use_dora": False}
    (directory / "adapter_config.json").write_text(json.dumps(config | changes))
    return directory


def values_of(base: Path, finetuned: Path, *whole: str) -> dict[str, np.ndarray]:
    found, *_ = spectra(base, finetuned, whole, lambda *_: None)
    return {name: tensor.numpy() for name, tensor in found.items()}


def with_spectrum(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    u, v = (np.linalg.qr(draw.standard_normal((side, len(values))))[0] for side in (rows, columns))
    return (u * values) @ v.T


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40)])
def test_known_spectrum(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Down to 1e-12 of the largest value, where a Gram matrix would have lost all below 1e-8."""
    known = np.logspace(0, -12, 24)
    base = model(tmp_path / "base", {Q: np.zeros(shape)})
    found = values_of(base, model(tmp_path / "run", {Q: with_spectrum(known, *shape)}))
    assert list(found) == [f"delta.{Q}"]
    assert found[f"delta.{Q}"].dtype == np.float64
    np.testing.assert_allclose(found[f"delta.{Q}"], known, rtol=1e-9, atol=1e-14)


def test_the_difference_is_taken_of_what_is_stored(tmp_path: Path) -> None:
    """Of bfloat16 and float32 weights, without rounding in between."""
    draw = torch.Generator().manual_seed(0)
    before = torch.randn(12, 8, generator=draw).bfloat16()
    after = before.float() + 1e-4 * torch.randn(12, 8, generator=draw)
    for name, tensor in (("base", before), ("run", after)):
        (tmp_path / name).mkdir()
        save_tensors({f"{Q}.weight": tensor}, tmp_path / name / "model.safetensors")
    found = values_of(tmp_path / "base", tmp_path / "run", Q)
    b, a = before.double().numpy(), after.double().numpy()
    for name, matrix in (("delta", a - b), ("base", b), ("tuned", a)):
        np.testing.assert_allclose(found[f"{name}.{Q}"], np.linalg.svd(matrix, compute_uv=False), rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
@pytest.mark.parametrize("stabilised", [False, True])
def test_adapter_against_the_dense_difference(tmp_path: Path, rank: int, stabilised: bool) -> None:
    """Also with more directions than the matrix has; rank-stabilised LoRA divides by the root of the rank."""
    draw = np.random.default_rng(rank)
    a, b = draw.standard_normal((rank, 8)), draw.standard_normal((12, rank))
    weight = draw.standard_normal((12, 8))
    base = model(tmp_path / "base", {DOWN: weight, Q: np.ones((6, 5))})
    run = adapter(tmp_path / "run", {DOWN: (a, b)}, r=rank, lora_alpha=5, use_rslora=stabilised)
    found = values_of(base, run, DOWN, Q)
    dense = 5 / (rank**0.5 if stabilised else rank) * b @ a
    for name, matrix in (("delta", dense), ("base", weight), ("tuned", weight + dense)):
        np.testing.assert_allclose(
            found[f"{name}.{DOWN}"], np.linalg.svd(matrix, compute_uv=False), rtol=1e-10, atol=1e-12
        )
    assert np.count_nonzero(found[f"delta.{DOWN}"]) == min(rank, 8)
    assert not found[f"delta.{Q}"].any()
    assert len(found[f"delta.{Q}"]) == 5
    assert np.array_equal(found[f"tuned.{Q}"], found[f"base.{Q}"])


def test_an_adapter_of_all_linear_modules_names_them_in_full(tmp_path: Path) -> None:
    """As peft writes `target_modules="all-linear"`."""
    draw = np.random.default_rng(5)
    shapes = {Q: (6, 5), DOWN: (4, 7)}
    factors = {name: (draw.normal(size=(2, c)), draw.normal(size=(r, 2))) for name, (r, c) in shapes.items()}
    base = model(tmp_path / "base", {name: draw.normal(size=shape) for name, shape in shapes.items()})
    for targets, named in (([Q, DOWN], factors), ([Q], {Q: factors[Q]}), (["self_attn.q_proj"], {Q: factors[Q]})):
        found = values_of(base, adapter(tmp_path / "-".join(targets), named, target_modules=targets))
        for name, (a, b) in factors.items():
            expected = np.linalg.svd(2 * b @ a, compute_uv=False) * (name in named)
            np.testing.assert_allclose(found[f"delta.{name}"], expected, atol=1e-12)


@pytest.mark.parametrize(("change", "drowned"), [(5e-5, True), (1e-3, False)])
def test_what_lies_in_bf16_says_how_much_of_it_is_rounding(tmp_path: Path, change: float, drowned: bool) -> None:
    """A change of rank 8 beside weights of 0.02: the smaller one reads as a rank above 100."""
    draw = np.random.default_rng(6)
    before = draw.normal(0, 0.02, (512, 512)).astype(np.float32)
    low = draw.normal(size=(512, 8)) @ draw.normal(size=(8, 512))
    after = torch.tensor(before + change * low / low.std())
    base, run = model(tmp_path / "base", {Q: before}), model(tmp_path / "run", {Q: before})
    save_tensors({f"{Q}.weight": after.bfloat16().contiguous()}, run / "model.safetensors")
    values, _, noise = spectra(base, run, (), lambda *_: None)
    rounding = float((after.bfloat16().double() - after.double()).square().sum())
    changed = float(values[f"delta.{Q}"].square().sum())
    assert noise == {Q: pytest.approx(rounding / changed, rel=0.05)}
    assert (rank_to_explain(values[f"delta.{Q}"].numpy()) > 100) == drowned == (noise[Q] > 0.1)
    save_tensors({f"{Q}.weight": after}, run / "model.safetensors")
    assert spectra(base, run, (), lambda *_: None)[2] == {}


def test_matrices_come_in_the_order_of_layers(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.{module}_proj" for layer in (0, 2, 10) for module in ("down", "up")]
    shapes = {name: (3 + place, 4) for place, name in enumerate(names)}
    base = model(tmp_path / "base", {name: np.ones(shapes[name]) for name in reversed(names)})
    told: list[tuple[int, int, float]] = []
    values, found, _ = spectra(base, base, [], lambda *what: told.append(what))
    assert list(found) == names
    assert found == shapes
    assert not any(value.any() for value in values.values())
    assert [(number, total) for number, total, _ in told] == [(place, 6) for place in range(1, 7)]
    assert sorted(share for _, _, share in told) == [share for _, _, share in told]
    assert told[-1][2] == 1


SQUARE = np.eye(4)
FACTORS = (np.ones((2, 4)), np.ones((4, 2)))
MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda at: model(at, {Q: SQUARE}), rf"run has no linear matrix {DOWN}, which the other model has"),
    "extra": (
        lambda at: model(at, {Q: SQUARE, DOWN: SQUARE, "model.layers.11.mlp.down_proj": SQUARE}),
        r"base has no linear matrix model\.layers\.11\.mlp\.down_proj, which the other model has",
    ),
    "shape": (lambda at: model(at, {Q: SQUARE, DOWN: np.ones((4, 5))}), r"shape \[4, 5\]; .* asks for \[4, 4\]"),
    "not finite": (lambda at: model(at, {Q: SQUARE, DOWN: np.full((4, 4), np.nan)}), rf"{DOWN}.* not finite"),
    "no weights": (lambda at: at, r"run has no weights: neither model\.safetensors nor"),
    "DoRA without lengths": (lambda at: adapter(at, {DOWN: FACTORS}, use_dora=True), r"no .*lora_magnitude_vector"),
    "patterns": (
        lambda at: adapter(at, {DOWN: FACTORS}, rank_pattern={"q": 1}),
        r"not of a plain LoRA adapter \(rank_pattern\)",
    ),
    "regex": (lambda at: adapter(at, {DOWN: FACTORS}, target_modules=".*"), "a list of target_modules"),
    "no factor": (lambda at: adapter(at, {}), rf"run has no base_model\.model\.{DOWN}\.lora_A\.weight, although"),
    "other module": (lambda at: adapter(at, {DOWN: FACTORS, Q: FACTORS}), f"{Q}.* belongs to no linear matrix"),
    "other rank": (lambda at: adapter(at, {DOWN: FACTORS}, r=3), r"lora_A.* shape \[2, 4\]; .* asks for \[3, 4\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_does_not_belong_together(tmp_path: Path, mistake: str) -> None:
    base = model(tmp_path / "base", {Q: SQUARE, DOWN: SQUARE})
    make, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=sentence):
        spectra(base, make(tmp_path / "run"), [], lambda *_: None)


def test_a_base_model_without_what_is_asked(tmp_path: Path) -> None:
    base = model(tmp_path / "base", {Q: SQUARE})
    with pytest.raises(UserError, match=rf"no linear matrix '{DOWN}'; it has {Q}"):
        spectra(base, base, [DOWN], lambda *_: None)
    empty = model(tmp_path / "empty", {})
    with pytest.raises(UserError, match="no linear matrix of a name such as"):
        spectra(empty, empty, [], lambda *_: None)


# -- from files to the product --------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a tiny base model in several files, and a full and a LoRA run of it with random changes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from scripts.components.methods import METHODS
    from scripts.training.model import trainable_model

    store = Store(tmp_path_factory.mktemp("store"))
    torch.manual_seed(0)

    def save_base(out: Path) -> dict[str, Any]:
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(out, max_shard_size="6KB")
        assert len(list(out.glob("*.safetensors"))) > 1
        return {}

    def save_run(method: dict[str, Any]) -> Callable[[Path], dict[str, Any]]:
        def build(out: Path) -> dict[str, Any]:
            trained = trainable_model(store.bytes_of(KEYS["model"]), method, 0, None)
            with torch.no_grad():
                for parameter in trained.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * torch.randn(parameter.shape))
            METHODS[method["kind"]].save(trained, out)
            return {}

        return build

    store.make(PRODUCTS["model"], save_base, {})
    store.make(PRODUCTS["full"], save_run({"kind": "full"}), {})
    store.make(PRODUCTS["lora"], save_run(LORA), {})
    return store


def product(name: str, spec: dict[str, Any], *inputs: str) -> Product:
    return Product.of(f"{name}-{fingerprint(spec)}", spec, inputs)


WHOLE = "model.layers.1.self_attn.q_proj"
PRODUCTS = {
    "model": product("models/llama", {"kind": "model"}),
    "full": product("runs/code-cpt/full/20B-seed0", {"kind": "run", "method": {"kind": "full"}}),
    "lora": product("runs/code-cpt/lora/20B-seed0", {"kind": "run", "method": LORA}),
}
KEYS = {name: made.key for name, made in PRODUCTS.items()}
WANTED = {
    name: product(
        f"spectra/code-cpt/{name}/20B-seed0",
        {"kind": "spectra", "subject": PRODUCTS[name].fingerprint, "whole": [WHOLE], "versions": {"spectra": 1}},
        KEYS[name],
        KEYS["model"],
    )
    for name in ("full", "lora")
}


def launch(store: Store, *products: Product) -> Any:
    """As much of a launch as this stage reads."""
    known = {product.key: product for product in products}
    grid = SimpleNamespace(products=known, find=known.__getitem__)
    return SimpleNamespace(store=store, grid=grid, code_of=lambda product: {})


def weights(directory: Path) -> dict[str, np.ndarray]:
    tensors = {n: t for file in directory.glob("*.safetensors") for n, t in load_file(file).items()}
    return {n.removesuffix(".weight"): t.astype(np.float64) for n, t in tensors.items() if n.endswith("_proj.weight")}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_from_files_to_product(llama: Store, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.loading.models import load_model

    wanted = WANTED[method]
    main(launch(llama, wanted), wanted.key)
    said = capsys.readouterr()
    assert said.out == f"{wanted.key}: complete\n"
    assert f"{wanted.name}: matrix 14 of 14, " in said.err
    assert said.err.endswith(" a minute, 0 s left\n")

    base_directory, run_directory = llama.bytes_of(KEYS["model"]), llama.bytes_of(KEYS[method])
    before = weights(base_directory)
    merged = load_model(base_directory, run_directory, method).state_dict()
    after = {name: merged[f"{name}.weight"].double().numpy() for name in before}
    found = read_spectra(llama.directory(wanted.key))
    names = {
        f"model.layers.{layer}.{'self_attn' if module[0] in 'qkvo' else 'mlp'}.{module}"
        for layer in range(2)
        for module in MODULES
    }
    assert found["delta"].keys() == names
    for name in names:
        expected = np.linalg.svd(after[name] - before[name], compute_uv=False)
        # the merged adapter is rounded to float32, the spectrum is not
        np.testing.assert_allclose(found["delta"][name], expected, rtol=1e-10, atol=1e-12 if method == "full" else 1e-6)
        if method == "lora":
            adapted = name.endswith(("q_proj", "down_proj"))
            assert np.count_nonzero(found["delta"][name]) == (3 if adapted else 0)
            assert rank_to_explain(found["delta"][name], 0.9999) == (3 if adapted else 0)
    for whose, matrix in (("base", before[WHOLE]), ("tuned", after[WHOLE])):
        assert found[whose].keys() == {WHOLE}
        np.testing.assert_allclose(found[whose][WHOLE], np.linalg.svd(matrix, compute_uv=False), atol=1e-6)

    manifest = llama.require(wanted.key)
    assert manifest["results"] == {"matrices": 14, "shapes": {name: list(before[name].shape) for name in names}}
    assert list(manifest["files"]) == ["spectra.safetensors"]
    # made again, the bytes are the same: `Store.make` compares them with the manifest
    file = llama.directory(wanted.key) / "spectra.safetensors"
    file.unlink()
    main(launch(llama, wanted), wanted.key)
    assert file.is_file()


def test_product_of_another_kind(llama: Store) -> None:
    with pytest.raises(UserError, match="is of the kind 'run', not 'spectra'"):
        main(launch(llama, PRODUCTS["full"]), KEYS["full"])


def test_a_mistake_names_the_product(llama: Store) -> None:
    spec = WANTED["full"].spec | {"whole": ["model.layers.26.self_attn.q_proj"]}
    wanted = product("spectra/code-cpt/full/1B-seed0", spec, KEYS["model"], KEYS["full"])
    with pytest.raises(UserError, match=rf"^{wanted.key}: .*no linear matrix 'model\.layers\.26\.self_attn\.q_proj'"):
        main(launch(llama, wanted), wanted.key)
    assert llama.read(wanted.key) is None
