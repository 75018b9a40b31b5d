"""The data of each setting: tokens of one pass, and what every duration takes of it (the paper's table 1).

Counts are those of the rows that the data stage prepared; where it has not and the study is of the paper's scale, those
that the paper prints; else there is none.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.artifacts import printed, style
from scripts.artifacts.points import amount, artifact_fingerprint, setting_order
from scripts.artifacts.provenance import collected
from scripts.artifacts.tables import MISSING, Entry, Row, Table, read_cells
from scripts.common.quantities import format_tokens
from scripts.launch.launch import Launch
from scripts.plan.product import Key
from scripts.plan.registry import Artifact
from scripts.study.schema import ContinuedPretraining

COLUMNS = (
    "study", "study_title", "model", "scale", "setting", "setting_label", "regime", "dataset", "pass_tokens",
    "duration", "duration_tokens", "source", "rows", "records", "duplicates", "compared", "overlapping",
)  # fmt: skip
PREPARED, PRINTED, NOT_PREPARED = "prepared", "printed", "not prepared"
PASSES = {
    "code-cpt": 20_000_000_000,
    "math-cpt": 14_700_000_000,
    **{name: setting.epoch_tokens for name, setting in printed.SETTINGS.items() if setting.epoch_tokens},
}
"""Setting to the tokens of one pass that the paper prints (its table 1)."""
MARK = "\N{DOUBLE DAGGER}"
UNITS = {"B": 10**9, "M": 10**6, "K": 10**3}


def rows(launch: Launch) -> list[dict[str, Any]]:
    """The rows of the CSV, with `COLUMNS`: one for each setting of the study and each of its durations.

    pass_tokens      that one pass trains on: of `cpt` without the tail that fills no row, of `ift` the first epoch's,
                     without what the packing drops; as printed, what the paper says
    duration         as the study says it: tokens (`0.25B`) or epochs (`4`)
    duration_tokens  that it trains on: of `cpt` whole batches, of `ift` the epochs' own counts, or as many times
                     what the paper says
    source           `prepared`, `printed`, or `not prepared`, where pass_tokens is empty
    rows             fingerprint of the prepared rows, else empty
    records          how many records the dataset has, and
    duplicates       how many of them are the same as one before; both empty where the records are not made
    compared         how many of them were compared with what the study asks and holds out, and
    overlapping      how many of these share words with it, by the rule of `scripts.data.overlaps`; both empty where
                     nothing was compared
    """
    study = launch.grid.study
    made = []
    in_order = sorted(study.settings.items(), key=lambda item: setting_order(item[1].domain, item[1].regime, item[0]))
    for name, setting in in_order:
        key, results = _prepared(launch, name)
        counts = _counts(launch, setting.dataset, results)
        is_cpt = isinstance(setting, ContinuedPretraining)
        one_pass = _pass_tokens(results, is_cpt)
        source = PREPARED if results else NOT_PREPARED
        if not results and study.scale == "paper" and name in PASSES:
            one_pass, source = PASSES[name], PRINTED
        for length in setting.durations:
            tokens: int | None
            if isinstance(setting, ContinuedPretraining):
                tokens = setting.batches(length) * setting.batch_tokens
            elif results:
                tokens = sum(epoch["trained_tokens"] for epoch in results["per_epoch"][:length])
            else:
                tokens = None if one_pass is None else length * one_pass
            made.append({
                "study": launch.name,
                "study_title": study.title,
                "model": study.model.label,
                "scale": study.scale,
                "setting": name,
                "setting_label": setting.label,
                "regime": setting.regime,
                "dataset": setting.dataset,
                "pass_tokens": "" if one_pass is None else one_pass,
                "duration": format_tokens(length) if is_cpt else str(length),
                "duration_tokens": "" if tokens is None else tokens,
                "source": source,
                "rows": key.fingerprint,
                **counts,
            })  # fmt: skip
    return made


def _prepared(launch: Launch, setting: str) -> tuple[Key, dict[str, Any]]:
    """Key and counts of the setting's rows, of the first seed that has them; both empty where none has."""
    for seed in launch.grid.study.seeds:
        key = launch.grid.rows(setting, seed).key
        if manifest := launch.store.read(key):
            return key, manifest["results"]
    return Key(), {}


def _counts(launch: Launch, dataset: str, rows: dict[str, Any]) -> dict[str, Any]:
    """What is known of a dataset's records; `rows` are the results of its rows."""
    counts: dict[str, Any] = dict.fromkeys(("records", "duplicates", "compared", "overlapping"), "")
    if manifest := launch.store.read(launch.grid.records(dataset).key):
        counts |= {name: manifest["results"].get(name, "") for name in ("records", "duplicates")}
    if "overlapping" in rows:  # whose job has acted on them
        return counts | {"compared": counts["records"], "overlapping": rows["overlapping"]}
    comparison = launch.grid.overlaps(dataset)
    if comparison and (manifest := launch.store.read(comparison.key)):
        counts |= manifest["results"]
    return counts


def _pass_tokens(results: dict[str, Any], is_cpt: bool) -> int | None:
    if not results:
        return None
    if is_cpt:
        return int(results["tokens"] - results["dropped_tail_tokens"])
    return int(results["per_epoch"][0]["trained_tokens"])


def collect(launch: Launch, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of the artifact's CSV."""
    return rows(launch)


def table(artifact: Artifact, csv: Path, commit: str) -> Table:
    """The table: a line for each setting, with its shortest and longest duration.

    Raises UserError where the CSV is not of the right form.
    """
    cells = read_cells(csv, COLUMNS)
    first = cells[0]
    settings = {cell["setting"]: [other for other in cells if other["setting"] == cell["setting"]] for cell in cells}
    lines = tuple(_line(own) for own in settings.values())
    sources = {cell["source"] for cell in cells}
    prepared = [cell["rows"] for cell in cells if cell["rows"]]
    what = f"{artifact.name} ({artifact.edition}) · study: {first['study']} · model: {first['model']}"
    notes = [
        "One pass: tokens that are trained on, without what fills no row or no batch. Training: the shortest and the "
        "longest duration, and how many passes that is. K, M, B: 10^3, 10^6, 10^9.",
        "Repeated: records that are the same as one before. Overlapping: records that share 13 words in a row, "
        "or all of 8 to 12, with an item that the study asks or holds out; what is made here is not compared with "
        "what is made here.",
    ]
    if NOT_PREPARED in sources:
        notes.append(f"{MISSING}: the data are not prepared yet.")
    if PRINTED in sources:
        notes.append(f"{MARK}: {style.SOURCES['printed']}; the data are not prepared yet.")
    return Table(
        number=artifact.name.replace("table", "").replace("/", "-"),
        heading=artifact.heading,
        title=artifact.title,
        warning=style.demo_warning(first["scale"]),
        caption=f"{first['study_title']}. {artifact.caption}",
        corner="Setting",
        columns=(
            "Regime",
            "Dataset",
            "Records",
            "Repeated",
            "Overlapping",
            "One pass",
            "Durations",
            "Training",
            "Passes",
        ),
        base=None,
        has_base=False,
        rows=lines,
        notes=(
            *notes,
            " · ".join([*style.scale_note(first["scale"]), what]),
            f"Fingerprint {artifact_fingerprint(prepared) if prepared else 'none'} · {collected(csv).words} · "
            f"drawn at commit {commit}",
        ),
    )


def _line(cells: list[dict[str, str]]) -> Row:
    """A setting; `cells` are its durations."""
    first = cells[0]
    mark = MARK if first["source"] == PRINTED else ""
    one_pass = int(first["pass_tokens"]) if first["pass_tokens"] else None
    is_cpt = first["regime"] == "cpt"
    by_amount = sorted(cells, key=lambda cell: float(cell["duration_tokens"] or cell["duration"]))
    ends = [by_amount[0], by_amount[-1]]
    durations, unit = _range(cell["duration"] for cell in ends), "tokens" if is_cpt else "epochs"
    trained = [int(cell["duration_tokens"]) for cell in ends if cell["duration_tokens"]]
    passes = [tokens / one_pass for tokens in trained] if one_pass else []
    return Row(
        first["setting_label"],
        (
            Entry(first["regime"].upper()),
            Entry(first["dataset"]),
            *(Entry(f"{int(first[name]):,}") if first[name] else None for name in ("records", "duplicates")),
            _overlapping(first),
            Entry(_tokens(one_pass), mark) if one_pass else None,
            Entry(amount(durations, unit)),
            Entry(_range(map(_tokens, trained)), "" if is_cpt else mark) if trained else None,
            Entry(_range(f"{number:.3g}" for number in passes), mark) if passes else None,
        ),
    )


def _overlapping(cell: dict[str, str]) -> Entry | None:
    """How many records overlap; of how many, where not all were compared."""
    if not cell["overlapping"]:
        return None
    whole = cell["compared"] == cell["records"]
    return Entry(f"{int(cell['overlapping']):,}" + ("" if whole else f" of {int(cell['compared']):,}"))


def _range(texts: Iterable[str]) -> str:
    """`1 to 16`; one text where all are the same."""
    return " to ".join(dict.fromkeys(texts))


def _tokens(count: int) -> str:
    """Four digits: 72.97M, 0.25B is 250M."""
    for unit, size in UNITS.items():
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)
