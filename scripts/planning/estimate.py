"""How long products are expected to take, from the study's `resources`.

Progress lines depend on it, and the minutes and GPU-hours of jobs on a cluster. No result does.
"""

from scripts.plan.grid import Grid
from scripts.plan.product import Product
from scripts.plan.specs import Trained
from scripts.study.schema import InstructionFinetuning


def seconds(grid: Grid, product: Product, made: set[str]) -> float:
    """CPU seconds of the job that makes `product`, when the products in `made` exist already."""
    resources = grid.study.resources
    if product.kind in ("leg", "run", "trained"):
        members = [grid.products[key] for key in product.members] or [product]
        tokens = sum(_training_tokens(grid, member) for member in members if member.key not in made)
        return resources.startup_seconds + tokens / resources.tokens_per_second
    if product.kind in ("samples", "evaluation", "evaluated"):
        parts = [grid.products[key] for key in product.members if key not in made] or [product]
        count = sum(not part.is_judged for part in parts)  # models take the time, not who judges them
        share = resources.evaluation_seconds / (1 + len(grid.study.evaluation.forgetting))
        return resources.startup_seconds + count * share
    if product.kind in ("spectra", "decomposed", "throughput"):
        return resources.startup_seconds * (1.0 + (len(product.members) or 1))
    if product.kind == "model" and (tokens_left := grid.study.model.tokens_to_train(product.key)) is not None:
        return resources.startup_seconds + tokens_left / resources.tokens_per_second
    return 1.0


def _training_tokens(grid: Grid, product: Product) -> float:
    """Tokens that a leg or run trains on, after the leg that it starts from."""
    spec = Trained.read(product.spec)
    start = next((Trained.read(grid.products[key].spec).amount for key in product.inputs_of("leg")), 0)
    amount = float(spec.amount - start)
    if spec.unit == "batches":
        rows = _rows(grid, product).spec
        return amount * float(rows["batch_rows"] * rows["sequence_length"])
    setting = grid.study.settings[product.key.within.split("/")[0]]
    dataset = grid.study.datasets[setting.dataset]
    assert isinstance(setting, InstructionFinetuning)
    return amount * dataset.expected_records / (setting.packing_ratio or 1.0) * setting.sequence_length


def _rows(grid: Grid, product: Product) -> Product:
    return grid.products[product.inputs_of("rows")[0]]
