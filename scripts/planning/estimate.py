"""How long products are expected to take, from the study's `resources`.

Progress lines depend on it, and the minutes and GPU-hours of jobs on a cluster. No result does.
"""

from scripts.models.pretrain import SHIPPED
from scripts.plan.grid import Grid, Product
from scripts.study.schema import GeneratedDataset, HubDataset, InstructionFinetuning, PretrainedModel


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
    if product.kind in ("spectra", "decomposed", "throughput"):
        return resources.startup_seconds * (1.0 + (len(product.members) or 1))
    model = grid.study.model
    if product.kind == "model" and isinstance(model, PretrainedModel):
        shipped = (SHIPPED / f"{product.key}.json").exists()
        return resources.startup_seconds + (0 if shipped else model.pretraining.tokens / resources.tokens_per_second)
    return 1.0


def _training_tokens(grid: Grid, product: Product) -> float:
    """Tokens that a leg or run trains on, after the leg that it starts from."""
    spec = product.spec
    unit = "batches" if "batches" in spec else "epochs"
    start = next((grid.products[key].spec[unit] for key in product.inputs if key.startswith("legs/")), 0)
    amount = float(spec[unit] - start)
    if unit == "batches":
        rows = _rows(grid, product).spec
        return amount * float(rows["batch_rows"] * rows["sequence_length"])
    setting = grid.study.settings[product.key.split("/")[1]]
    dataset = grid.study.datasets[setting.dataset]
    assert isinstance(setting, InstructionFinetuning)
    # how many records a file of one's own has is known only once it is read; its progress has no estimate
    examples = (dataset.records or 0) if isinstance(dataset, GeneratedDataset | HubDataset) else 0
    return amount * examples / (setting.packing_ratio or 1.0) * setting.sequence_length


def _rows(grid: Grid, product: Product) -> Product:
    return next(grid.products[key] for key in product.inputs if key.startswith("data/rows/"))
