"""The way back from a number: what it was computed from, by which code, where, when, and what makes it again.

python -m scripts.planning.explain results/figures/fig2.csv --row 17     one number: row 17 below the CSV's heading
python -m scripts.planning.explain results/figures/fig2.pdf              a figure or table, all of its numbers
python -m scripts.planning.explain runs/code-cpt/lora-r16/64K-seed0      a product by name, key, or its manifest's path

A tree as text: each product stands below what was made from it, with its code versions and their hashes, date, seconds,
device, threads and spec, once; what was computed on, and with which packages, stands at the end. Of a product that is
not made, the nearest one that the store has is compared with it, key by key of their specs. It changes nothing.

All of it is read from manifests, and of a file in `results` from the record beside it. Files name the products that
they were made from in their own columns; this module has no need of what draws them.
"""

import argparse
import csv
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError, run
from scripts.launch.command import current_launch, find, launch_options
from scripts.launch.launch import Launch
from scripts.launch.missing import Missing
from scripts.plan.product import NOT_LOCKED, PLACES, Product
from scripts.plan.registry import REGISTRY, Artifact, load_registry
from scripts.planning.disk import spoken
from scripts.planning.reports import spoken as duration
from scripts.planning.verify import is_pruned
from scripts.store.codelock import combined
from scripts.store.fingerprint import FINGERPRINT, file_sha256
from scripts.store.store import maker

_MADE_FROM = ("evaluations", "evaluation", "spectra")
"""Columns of a CSV that hold the fingerprints of what a row was made from, joined by `;`."""
_OF_MODELS = ("condition", "conditions")
"""Columns that hold those of the models that a row is of."""
_NO_CELLS = ("study_title", "shown", *_MADE_FROM, *_OF_MODELS)
"""Columns that say nothing of a row beside what the tree below it does."""
_FORMS = (".csv", ".pdf", ".png", ".md", ".tex")
_WIDTH = 120
_FINGERPRINTS = re.compile(rf"-{FINGERPRINT}(?=/|$)|\.{NOT_LOCKED}(?=-|$)")


class Explanation:
    """Lines about the products of a store, each product once.

    Args:
        launch: the study and the store.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._store, self._grid = launch.store, launch.grid
        self._code = {name: combined(entry["hashes"]) for name, entry in launch.code.items()}
        self._shown: dict[str, dict[str, Any]] = {}
        self._compared: set[tuple[str, str]] = set()

    @cached_property
    def _keys(self) -> dict[str, str]:
        """Fingerprint to key of all products of the study and of the store; as the store has it, where both do."""
        first = dict.fromkeys(place.partition("/")[0] for place in PLACES.values())
        stored = [item for place in first for item in self._store.by_fingerprint(place).items()]
        return {**{product.fingerprint: str(product.key) for product in self._grid}, **dict(stored)}

    # -- what was made ----------------------------------------------------------------------------------------------

    def tree(self, key: str, depth: int = 0) -> Iterator[str]:
        """A product, and below it what it was made from, down to where data come from."""
        if key in self._shown:
            yield from _wrapped(f"{key} (above)", depth)
            return
        manifest = self._store.read(key)
        if manifest is None:
            yield from _wrapped(f"{key}: is not in the store", depth)
            return
        self._shown[key] = manifest
        yield from _wrapped(key, depth)
        for name, text in self._details(manifest):
            yield from _wrapped(f"{name}: {text}", depth + 1)
        for read in manifest["inputs"]:
            yield from self.tree(read, depth + 1)

    def _details(self, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
        provenance = manifest["provenance"]
        if results := _flat(manifest["results"]):
            yield "results", _said({name: value for name, value in results.items() if not isinstance(value, list)})
        yield "made", _made(provenance)
        if code := provenance.get("code"):
            yield "code", ", ".join(self._version(name, entry) for name, entry in code.items())
        yield "spec", _said({key: value for key, value in _flat(manifest["spec"]).items() if "versions." not in key})
        if files := manifest["files"]:
            size = spoken(sum(file["bytes"] for file in files.values()))
            gone = f", pruned; `{maker(manifest)}` makes them again" if is_pruned(self._store, manifest) else ""
            yield "bytes", f"{size} in {len(files)} file{'s' if len(files) > 1 else ''}{gone}"

    def _version(self, name: str, entry: Mapping[str, Any]) -> str:
        now = self._code.get(name)
        other = "" if now == entry["hash"] else f", and {now} in this checkout" if now else ", unknown in this checkout"
        return f"{name} {entry['version']} ({entry['hash']}{other})"

    def surroundings(self) -> Iterator[str]:
        """What the products of the trees so far were computed on and with: once where it is the same of all."""
        for title, of in (("processor", _processor), ("libraries", _libraries), ("packages", _packages)):
            groups: dict[str, list[str]] = {}
            for key, manifest in self._shown.items():
                if text := of(manifest["provenance"]):
                    groups.setdefault(text, []).append(key)
            for text, keys in groups.items():
                yield from _wrapped(f"{title}: {text}", 0)
                if len(groups) > 1:
                    yield from _wrapped(f"of {', '.join(keys)}", 1)

    # -- what is not made -------------------------------------------------------------------------------------------

    def missing(self, product: Product) -> Iterator[str]:
        """Why a product of the study would be made, and in what it differs from the nearest one that is."""
        missing = Missing(self._grid, self._store)
        if missing.is_made(product.key):
            other = missing.renamed[product.key]
            yield f"{product.key} is in the store by another name, and gets its own when it is asked for:"
            yield from self.tree(other, 1)
            return
        before = len(missing.behind([product.key])) - 1
        yield f"{product.key} is not made: {self._store.manifest_path(product.key)} does not exist."
        if before:
            what = "1 product is missing" if before == 1 else f"{before} products are missing"
            yield f"{what} that it is made from."
        named = [key for key in self._store.by_fingerprint(product.key).values() if _plain(key) == _plain(product.key)]
        near = {key: manifest["spec"] for key in named if (manifest := self._store.read(key))}
        if not near:
            yield "The store has no product of this kind and name that it could be compared with."
            return
        nearest = min(near, key=lambda key: (len(_differences(near[key], product.spec)), key))
        yield f"The nearest that is made is {nearest}; there -> here:"
        yield from self._difference(near[nearest], product.spec, 1)

    def foreign(self, key: str, spec: Mapping[str, Any]) -> Iterator[str]:
        """In what a product of the store that the study does not name differs from the one that it does."""
        near = [product for product in self._grid if _plain(product.key) == _plain(key)]
        if not near:
            yield f"Study {self._grid.name} does not name it, and nothing of this kind and name."
            return
        nearest = min(near, key=lambda product: (len(_differences(spec, product.spec)), product.key))
        yield f"Study {self._grid.name} does not name it, but {nearest.key}; there -> here:"
        yield from self._difference(spec, nearest.spec, 1)

    def _difference(self, there: Mapping[str, Any], here: Mapping[str, Any], depth: int) -> Iterator[str]:
        """Key by key; of products that specs name, their own specs too."""
        for name, (old, new) in _differences(there, here).items():
            yield from _wrapped(f"{name}: {old} -> {new}", depth)
            there_read, here_read = self._spec(old), self._spec(new)
            if there_read and here_read and (old, new) not in self._compared:
                self._compared.add((old, new))
                yield from self._difference(there_read, here_read, depth + 1)

    def _spec(self, fingerprint: str) -> dict[str, Any] | None:
        """The spec of a product by its fingerprint; None where it is none, or of nothing that is known."""
        key = self._keys.get(fingerprint)
        if key in self._grid.products:
            return self._grid.products[key].spec
        manifest = self._store.read(key) if key else None
        return manifest["spec"] if manifest else None

    # -- rows -------------------------------------------------------------------------------------------------------

    def behind(self, row: Mapping[str, str], artifact: Artifact | None) -> list[str]:
        """The products that a row of a CSV was made from, by its own cells; none of a number that is printed.

        A row that names no products was made from what is measured of its models, or else from all that its figure
        or table is.

        Raises:
            UserError: the cells name what neither study nor store has, or nothing.
        """
        if row.get("source") == "printed":
            return []
        if named := _cells(row, _MADE_FROM):
            return [self._key(fingerprint) for fingerprint in named]
        models = _cells(row, _OF_MODELS)
        if artifact is None:
            return [self._key(model) for model in models]
        measured = artifact.measurements(self._grid, self._store.is_made)
        if not models:
            return [*measured]
        of_models = [str(key) for key in measured if self._grid.products[key].spec.get("subject") in models]
        return of_models or [self._key(model) for model in models]

    def _key(self, fingerprint: str) -> str:
        if fingerprint not in self._keys:
            raise UserError(
                f"{fingerprint} is the fingerprint of nothing that study {self._grid.name} names or that lies in "
                f"{self._store.root}; --study and --store say others"
            )
        return self._keys[fingerprint]


def _cells(row: Mapping[str, str], columns: Iterable[str]) -> list[str]:
    return [one for column in columns for one in (row.get(column) or "").split(";") if one]


def _plain(key: str) -> str:
    """A key without any fingerprint in it: kind, setting, method, duration, seed, task."""
    return _FINGERPRINTS.sub("", key)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data by dotted names."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, Mapping) else {f"{prefix}{name}": inner}
    return found


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """In what two specs differ, as text."""
    old, new = _flat(there), _flat(json.loads(json.dumps(here)))
    texts = {
        name: tuple(_text(spec[name]) if name in spec else "not said" for spec in (old, new))
        for name in sorted(old.keys() | new.keys())
    }
    return {name: (pair[0], pair[1]) for name, pair in texts.items() if pair[0] != pair[1]}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in values.items())


def _made(provenance: Mapping[str, Any]) -> str:
    """When, how long, on what; of training over all attempts."""
    started = datetime.fromtimestamp(provenance["started"], UTC)
    training, evaluation = provenance.get("training", {}), provenance.get("evaluation", {})
    attempts = training.get("attempts", [])
    seconds = training.get("wall_seconds", provenance["seconds"])
    took = f"{seconds:.3g} s" if seconds < 60 else duration(seconds)
    parts = [f"{started:%Y-%m-%d %H:%M:%S} UTC", f"in {took}"]
    if len(attempts) > 1:
        parts.append(f"in {len(attempts)} attempts")
    devices = dict.fromkeys(
        f"{one.get('devices', 1)} x {one['device']}" for one in attempts or [evaluation] if one.get("device")
    )
    parts += [f"on {' and '.join(devices)}"] if devices else []
    threads = provenance.get("arithmetic", {}).get("threads")
    parts += [f"{threads} thread{'s' if threads > 1 else ''}"] if threads else []
    parts += [f"as {provenance['made_as']}"] if "made_as" in provenance else []
    return ", ".join(parts)


def _processor(provenance: Mapping[str, Any]) -> str:
    arithmetic = provenance.get("arithmetic")
    if arithmetic is None:
        return f"{provenance.get('machine', 'unknown')}; its name was not recorded"
    strict = "strict" if arithmetic["strict"] else "not strict"
    return f"{arithmetic['processor']}, {provenance['machine']}, {arithmetic['capability']}, arithmetic {strict}"


def _libraries(provenance: Mapping[str, Any]) -> str:
    return _said(provenance.get("arithmetic", {}).get("libraries", {}))


def _packages(provenance: Mapping[str, Any]) -> str:
    return f"Python {provenance['python']}, {_said(provenance['packages'])}"


def _wrapped(text: str, depth: int) -> list[str]:
    indent = "  " * depth
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}    ", break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


# -- files of results -----------------------------------------------------------------------------------------------


def record_of(path: Path) -> str:
    """What the record beside a file of `results` says of it: the commit that made it, and whether it is still that."""
    record = path.with_suffix(".collected.json" if path.suffix == ".csv" else ".made.json")
    try:
        said = json.loads(record.read_text(encoding="utf-8"))
        made, commit = said["files"][path.name], said["commit"]
    except FileNotFoundError:
        return f"{path}: {record.name} does not exist, which would say what made it"
    except (ValueError, TypeError, KeyError):
        return f"{path}: {record.name} is no record of it"
    found = file_sha256(path)
    now = f"sha256 {found}" if made == found else f"but was changed since: sha256 {found} instead of {made}"
    return f"{path}: made at commit {commit}, {now}"


def artifact_at(path: Path) -> Artifact | None:
    """The figure or table whose files lie at such a path; None where it is none."""
    here = str(path.resolve().with_suffix(".csv"))
    # `v1/figures/fig2` ends as `figures/fig2` does
    found = [one for one in load_registry(REGISTRY).values() if here.endswith(one.csv(""))]
    return max(found, key=lambda one: len(one.csv("")), default=None)


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, as text.

    Raises:
        UserError: it is none.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no CSV ({error})") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path}: is no CSV: its rows are not of one length")
    return rows


def of_file(launch: Launch, path: Path, number: int | None) -> Iterator[str]:
    """Lines about a file of `results`, or about one row of its CSV, and the command that makes it again.

    Args:
        launch: the study and the store.
        path: of a CSV, or of what was drawn from the CSV beside it.
        number: of the row, from 1; None for all.

    Raises:
        UserError: there is no CSV, or no such row, or it names what neither study nor store has.
    """
    table = path.with_suffix(".csv")
    for file in (path, table):
        if not file.exists():
            raise UserError(f"{file}: does not exist; `{snakemake_command(str(file))}` makes it")
    rows = read_rows(table)
    if number is not None and not 0 < number <= len(rows):
        raise UserError(f"{table}: has no row {number}; it has {len(rows)}")
    for file in dict.fromkeys((path, table)):
        yield from _wrapped(record_of(file), 0)
    explanation, artifact = Explanation(launch), artifact_at(path)
    chosen = rows if number is None else [rows[number - 1]]
    if number is not None:
        cells = {name: cell for name, cell in chosen[0].items() if cell and name not in _NO_CELLS}
        yield from _wrapped(f"row {number}: {_said(cells)}", 0)
    printed = sum(row.get("source") == "printed" for row in chosen)
    if printed:
        yield from _wrapped(f"{printed} of {len(chosen)} rows: printed in the paper; nothing was made for them here", 0)
    keys = list(dict.fromkeys(key for row in chosen for key in explanation.behind(row, artifact)))
    if not keys and printed < len(chosen):
        if artifact:
            yield "No product of the store is behind it: it is computed from what the study says alone."
        else:
            yield "Its rows name no products. Claims are judged on those of figures 1 to 3, which can be explained."
    for key in keys:
        yield from explanation.tree(key, 1)
    yield from explanation.surroundings()
    targets = [str(path)] if number is None or not keys else [str(launch.store.manifest_path(key)) for key in keys]
    yield f"What is missing of it is made by `{snakemake_command(*targets)}`"


def of_product(launch: Launch, name: str) -> Iterator[str]:
    """Lines about a product, and the command that makes it.

    Args:
        launch: the study and the store.
        name: its key, with or without the fingerprint, or the path of its manifest.

    Raises:
        UserError: neither study nor store has it.
    """
    if name.endswith(".json"):
        path, root = Path(name).resolve(), launch.store.root.resolve()
        if not path.is_relative_to(root):
            raise UserError(f"{name}: lies in no store, or in another than {launch.store.root}; --store says which")
        name = str(path.relative_to(root)).removesuffix(".json")
    product = find(launch, name)
    explanation = Explanation(launch)
    named = product.key in launch.grid.products
    command = snakemake_command(str(launch.store.manifest_path(product.key)))
    if not launch.store.is_made(product.key):
        yield from explanation.missing(product)
        yield f"It is made by `{command}`"
        return
    yield from explanation.tree(product.key)
    yield from explanation.surroundings()
    if named:
        yield "It is there, so nothing makes it again. Where both its manifest and its directory are gone,"
        yield f"    `{command}` does"
    else:
        yield from explanation.foreign(product.key, product.spec)


def main(arguments: argparse.Namespace) -> None:
    """Prints an explanation.

    Raises:
        UserError: see `of_file` and `of_product`.
    """
    path = Path(arguments.product)
    is_file = path.suffix in _FORMS
    if arguments.row is not None and not is_file:
        raise UserError("--row: is one of a CSV in results, such as results/figures/fig2.csv")
    if is_file and arguments.study is None:
        arguments.study = _study_of(path)
    launch = current_launch(arguments)
    lines = of_file(launch, path, arguments.row) if is_file else of_product(launch, arguments.product)
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has; at its end Python would write what is left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _study_of(path: Path) -> str | None:
    """The study that a file's CSV says it is of; None where it does not say."""
    table = path.with_suffix(".csv")
    rows = read_rows(table) if table.exists() else []
    return rows[0].get("study") if rows else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("product", help="a product's key or name, a manifest, or a figure, table or CSV of results")
    parser.add_argument("--row", type=int, metavar="N", help="one row of the CSV, counted from 1 below its heading")
    launch_options(parser)
    run(main, parser)
