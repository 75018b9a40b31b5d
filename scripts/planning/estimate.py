"""How long products are expected to take, from the study's `resources`. Only progress lines depend on it."""

from scripts.models.pretrain import SHIPPED
from scripts.study.grid import Grid, Product
from scripts.study.schema import GeneratedDataset, InstructionFinetuning


def seconds(grid: Grid, product: Product, made: set[str]) -> float:
    """CPU seconds of the job that makes `product`, when the products in `made` exist already."""
    resources = grid.study.resources
    if product.kind in ("leg", "run", "trained"):
        members = [grid.products[key] for key in product.members] or [product]
        tokens = sum(_training_tokens(grid, member) for member in members if member.key not in made)
        return resources.startup_seconds + tokens / resources.tokens_per_second
    if product.kind in ("evaluation", "evaluated"):
        count = sum(key not in made for key in product.members) or 1
        share = resources.evaluation_seconds / (1 + len(grid.study.evaluation.forgetting))
        return resources.startup_seconds + count * share
    if product.kind == "model" and not (SHIPPED / f"{product.key}.json").exists():
        pretraining = grid.study.model.pretraining
        return resources.startup_seconds + pretraining.tokens / resources.tokens_per_second
    return 1.0


def _training_tokens(grid: Grid, product: Product) -> float:
    """Tokens that a leg or run trains on, after the leg that it starts from."""
    spec = product.spec
    if "trunk" in spec:
        start = next((grid.products[key].spec["batches"] for key in product.inputs if key.startswith("legs/")), 0)
        rows = _rows(grid, product).spec
        return float((spec["batches"] - start) * rows["batch_rows"] * rows["sequence_length"])
    setting = grid.study.settings[product.key.split("/")[1]]
    dataset = grid.study.datasets[setting.dataset]
    assert isinstance(setting, InstructionFinetuning)
    # how many records an outside file has is known only once it is read; its progress has no estimate
    examples = dataset.records if isinstance(dataset, GeneratedDataset) else 0
    return examples / setting.packing_ratio * setting.sequence_length * float(spec["epochs"])


def _rows(grid: Grid, product: Product) -> Product:
    return next(grid.products[key] for key in product.inputs if key.startswith("data/rows/"))
