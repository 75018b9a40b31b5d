"""The memory that training takes on each GPU, by the paper's formulae (its appendix H, tables S14 to S16).

Weights, gradients and optimizer state, no activations, spread evenly over n GPUs (FSDP). With P parameters, in bytes:

    full finetuning   4 P weights and 4 P gradients in float32; Adam keeps 8 P more, Lion 4 P: (16 or 12) P / n
    LoRA              the base model in bfloat16, 2 P, and adapters of 1 % of P that are trained like the above:
                      (2 + 0.01 x (16 or 12)) P / n

A gigabyte is 10^9 bytes. No model is trained for these tables: they are the same in every study.
"""

from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from scripts.artifacts.provenance import collected
from scripts.artifacts.published import PublishedValue, load_published
from scripts.artifacts.tables import Entry, Row, Table, read_cells
from scripts.common.errors import UserError
from scripts.launch.launch import Launch
from scripts.plan.registry import Artifact

COLUMNS = ("table", "parameters", "method", "gpus", "gigabytes", "printed", "note")
TABLES = {
    "tableS14": (7, (1, 8, 16, 32, 64)),
    "tableS15": (70, (1, 8, 16, 32, 64)),
    "tableS16": (405, (1, 8, 16, 32, 64, 128, 256)),
    "v1/tableS1": (7, (1, 8, 16, 32, 64)),
    "v1/tableS2": (70, (1, 8, 16, 32, 64)),
}
"""Table to the model's parameters in 10^9, and the numbers of GPUs."""
METHODS = {
    "Adam": ("adam", "full"),
    "Adam + LoRA": ("adam", "lora"),
    "Lion": ("lion", "full"),
    "Lion + LoRA": ("lion", "lora"),
}
"""Row of a table to the optimizer and the kind of method, as in the published values."""
WEIGHTS, GRADIENTS, FROZEN = 4, 4, 2
STATE = {"adam": 8, "lion": 4}
ADAPTERS = Decimal("0.01")
MARK = "\N{DAGGER}"


def trained_bytes(optimizer: str) -> int:
    """Bytes for each trained parameter: 16 with Adam, 12 with Lion."""
    return WEIGHTS + GRADIENTS + STATE[optimizer]


def gigabytes(parameters: int, optimizer: str, kind: str, gpus: int) -> Decimal:
    """Memory on each of `gpus`, in 10^9 bytes, exactly (paper, appendix H).

    Args:
        parameters: of the base model, in 10^9.
        optimizer: `adam` or `lion`.
        kind: `full` or `lora`.
    """
    trained = Decimal(trained_bytes(optimizer))
    return parameters * (trained if kind == "full" else FROZEN + ADAPTERS * trained) / gpus


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a table's CSV, with `COLUMNS`: `gigabytes` exact, `printed` what the paper prints.

    `printed` is empty where the paper has no such number. `note` says where it is not what the formula gives.

    Raises:
        UserError: there is no such table, or the published values are malformed.
    """
    if name not in TABLES:
        raise UserError(f"{name}: is no table of memory; {', '.join(TABLES)} are")
    parameters, counts = TABLES[name]
    published: dict[tuple[str | None, str, int | None], PublishedValue] = {
        (value.optimizer, value.kind, value.gpus): value for value in load_published() if value.artifact == name
    }
    made = []
    for method, (optimizer, kind) in METHODS.items():
        for gpus in counts:
            exact, value = gigabytes(parameters, optimizer, kind, gpus), published.get((optimizer, kind, gpus))
            made.append({
                "table": name,
                "parameters": f"{parameters}B",
                "method": method,
                "gpus": gpus,
                "gigabytes": f"{exact.normalize():f}",
                "printed": value.value if value else "",
                "note": value.note if value else "",
            })  # fmt: skip
    return made


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of the artifact's CSV; every study has the same."""
    return rows(artifact.name)


def table(artifact: Artifact, csv: Path, commit: str) -> Table:
    """The table, with the decimals that the paper prints; a cell that it misprints has a mark and all its decimals.

    Raises UserError where the CSV is not of the right form.
    """
    cells = read_cells(csv, COLUMNS)
    found = {(cell["method"], cell["gpus"]): cell for cell in cells}
    counts = list(dict.fromkeys(cell["gpus"] for cell in cells))
    parameters, (adam, lion) = cells[0]["parameters"], map(trained_bytes, STATE)
    misprints = [
        f"{MARK}: the paper prints {cell['printed']} ({cell['method']}, {cell['gpus']} GPUs), {cell['note']}."
        for cell in cells
        if not _as_printed(cell) or (_is_printed(cell) and cell["note"])
    ]
    origin = "printed in the paper" if _is_printed(cells[0]) else "computed from formulae, the same in every study"
    return Table(
        number=artifact.name.replace("table", "").replace("/", "-"),
        heading=artifact.heading,
        title=artifact.title,
        warning="",
        caption=f"{parameters} parameters, gigabytes (10^9 bytes) on each GPU. {artifact.caption}",
        corner="GPUs",
        columns=tuple(counts),
        base=None,
        has_base=False,
        rows=tuple(
            Row(method, tuple(_entry(found.get((method, count))) for count in counts))
            for method in dict.fromkeys(cell["method"] for cell in cells)
        ),
        notes=(
            f"P parameters, n GPUs. Adam: {adam} P / n bytes. Lion: {lion} P / n. "
            f"With LoRA: ({FROZEN} + {ADAPTERS} x {adam}) P / n and ({FROZEN} + {ADAPTERS} x {lion}) P / n.",
            "Weights, gradients and optimizer state alone: activations come on top.",
            *misprints,
            f"{artifact.name} ({artifact.edition}) · {origin} · {collected(csv).words} · drawn at commit {commit}",
        ),
    )


def _is_printed(cell: dict[str, str]) -> bool:
    """Whether the CSV holds the paper's numbers and not the formulae's."""
    return cell.get("source") == "printed"


def _as_printed(cell: dict[str, str]) -> bool:
    """Whether the number, rounded like the paper's, is the paper's."""
    return not cell["printed"] or _rounded(cell) == Decimal(cell["printed"])


def _rounded(cell: dict[str, str]) -> Decimal:
    return Decimal(cell["gigabytes"]).quantize(Decimal(cell["printed"] or cell["gigabytes"]), ROUND_HALF_UP)


def _entry(cell: dict[str, str] | None) -> Entry | None:
    if cell is None:
        return None
    if _is_printed(cell):
        return Entry(cell["printed"], MARK if cell["note"] else "")
    return Entry(f"{_rounded(cell):f}") if _as_printed(cell) else Entry(cell["gigabytes"], MARK)
