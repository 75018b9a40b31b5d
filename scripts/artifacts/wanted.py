"""What each file of a launch waits for: nothing, where it is what the study wants of it.

Snakemake is told of no input that is there and right, so nothing that it remembers or forgets, and no timestamp, has
anything made again; see `scripts.launch.missing` for the products of the store, and `scripts.artifacts.provenance` for
files with plain names. A file that is there and not right gets a note as an input, which makes it run
(`scripts.launch.stale`).
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scripts.artifacts import recipes
from scripts.artifacts.provenance import is_made
from scripts.common.commands import snakemake_command
from scripts.common.errors import UserError
from scripts.launch.launch import RESULTS, Launch
from scripts.launch.missing import Missing
from scripts.launch.stale import note
from scripts.plan import artifacts as plan
from scripts.plan.conditions import GRID, SWEEP
from scripts.plan.product import Key
from scripts.plan.registry import Artifact

PUBLISHED = "published"
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class Request:
    """What a person asked Snakemake for.

    Attributes:
        targets: files and rules.
        forced: files and rules that are to run again.
        all_forced: whether everything is.
    """

    targets: Collection[str]
    forced: Collection[str]
    all_forced: bool


class Wanted:
    """The inputs of every rule, by what the study wants and what is there when they are asked for first.

    Args:
        launch: the study, the store, and the directory of results.
        registry: all figures and tables by name.
        groups: targets that stand for many: a rule's name to the files that it asks for.
        product_rules: names of the rules that make products of the store.
        request: tells what was asked for, as soon as anybody asks for an input; not known before.
        is_head: whether this is the launch's own process, which alone makes files run.

    Every method raises UserError where the study cannot have the file, or it cannot be made anew.
    """

    def __init__(
        self,
        launch: Launch,
        registry: Mapping[str, Artifact],
        groups: Mapping[str, Collection[str]],
        product_rules: Collection[str],
        request: Callable[[], Request],
        *,
        is_head: bool,
    ) -> None:
        self._launch = launch
        self._registry = registry
        self._groups = groups
        self._product_rules = product_rules
        self._ask = request
        self._is_head = is_head
        self._missing = Missing(launch.grid, launch.store)
        self._right: dict[tuple[str, ...], bool] = {}
        self._notes: dict[str, list[str]] = {}

    @property
    def renamed(self) -> Mapping[Key, str]:
        """Products that are there under another name; see `Missing.renamed`."""
        return self._missing.renamed

    # -- paths ------------------------------------------------------------------------------------------------------

    def manifests(self, keys: Iterable[Key]) -> list[str]:
        """The files of products."""
        return [f"{self._launch.seen_store}/{key}.json" for key in keys]

    def csv_path(self, artifact: Artifact, *, printed: bool = False) -> str:
        """The CSV of an artifact."""
        return artifact.csv(self._directory(printed))

    def drawing_paths(self, artifact: Artifact, *, printed: bool = False) -> list[str]:
        """The files of an artifact that are made from its CSV."""
        return artifact.files(self._directory(printed))

    def _directory(self, printed: bool) -> str:
        return f"{self._launch.results}/{PUBLISHED}" if printed else self._launch.results

    def _page(self, name: str) -> str:
        return f"{self._launch.results}/{name}"

    # -- inputs -----------------------------------------------------------------------------------------------------

    def product(self, name: str) -> list[str]:
        """What the job of a product waits for."""
        key = self._launch.grid.find(name).key
        self._check_forced()
        if self._missing.is_made(key):
            return []
        return [*self._note(*self.manifests([key])), *self.manifests(self._missing.before(key))]

    def csv(self, artifact: Artifact) -> list[str]:
        """What collecting the CSV of an artifact waits for."""
        if self._csv_is_right(artifact):
            return []
        keys = artifact.measurements(self._launch.grid, self._is_there)
        return [*self._note(self.csv_path(artifact)), *self._jobs(artifact.block, keys)]

    def printed(self, artifact: Artifact) -> list[str]:
        """What the CSV of the paper's printed numbers waits for."""
        return [] if self._printed_is_right(artifact) else self._note(self.csv_path(artifact, printed=True))

    def drawing(self, artifact: Artifact, *, printed: bool) -> list[str]:
        """What drawing a figure, or writing a table, waits for."""
        csv = self.csv_path(artifact, printed=printed)
        if self._drawing_is_right(artifact, printed=printed):
            return []
        files = self.drawing_paths(artifact, printed=printed)
        return [*self._note(*files), *([] if self._data_is_right(artifact, printed) else [csv])]

    def rates(self) -> list[str]:
        """What choosing learning rates waits for."""
        if self._rates_are_right():
            return []
        keys = plan.validations(self._launch.grid)
        return [*self._note(self._page("learning_rates.yaml")), *self._jobs(SWEEP, keys)]

    def condition(self, block: str, evaluations: Iterable[Key]) -> list[str]:
        """What a condition of a block waits for that is to be there as a whole."""
        self._check_forced()
        return self._jobs(block, evaluations)

    def claims(self) -> list[str]:
        """What judging the claims waits for."""
        if self._claims_are_right():
            return []
        keys = plan.measurements(self._launch.grid, recipes.CLAIMED, GRID)
        return [*self._note(self._page("claims.csv"), self._page("claims.md")), *self._jobs(GRID, keys)]

    def comparison(self) -> list[str]:
        """What the comparison waits for: it shows whatever is evaluated, so all that the same launch evaluates."""
        files = [self._page(f"comparison.{form}") for form in ("csv", "md", "pdf")]
        if self._is_right("comparison", lambda: recipes.of_comparison(self._launch, self._is_there), *files):
            return []
        shown = self._launch.evaluated(self._is_there)
        return [*self._note(*files), *self.manifests(sorted({self._coming[k] for k in shown if k in self._coming}))]

    def costs(self) -> list[str]:
        """What the page of costs waits for: nothing, but for being right."""
        files = [self._page(f"plan.{form}") for form in ("csv", "md", "html")]
        return [] if self._is_right("plan", lambda: recipes.of_plan(self._launch), *files) else self._note(*files)

    def contact_sheet(self, shown: Iterable[Artifact]) -> list[str]:
        """What the sheet of these figures waits for."""
        pictures = {artifact.name: self.drawing_paths(artifact)[1] for artifact in shown}
        drawn = [path for name, path in pictures.items() if not self._drawing_is_right(self._registry[name])]
        path = self._page("contact_sheet.png")

        def recipe() -> str:
            return recipes.of_contact_sheet([Path(picture) for picture in pictures.values()])

        return [] if not drawn and self._is_right("contact_sheet", recipe, path) else [*self._note(path), *drawn]

    def unknown(self, target: str) -> list[str]:
        """Raises UserError: nothing makes this target; the sentence has the names that are most like it."""
        own = self._launch.results
        if target.startswith(f"{RESULTS}/") and own != RESULTS and not target.startswith(f"{own}/"):
            raise UserError(
                f"{target}: stands for whichever study is asked for, and {own}/ for one; ask for them in two commands"
            )
        files = [
            path
            for artifact in self._registry.values()
            for path in (*self.drawing_paths(artifact), self.csv_path(artifact))
        ]
        near = difflib.get_close_matches(target.casefold(), [path.casefold() for path in files], len(files), 0.0)
        stem = Path(target).stem.casefold()
        # what has the very name comes first, wherever it was looked for
        near.sort(key=lambda path: Path(path).stem != stem)
        by_folded = {path.casefold(): path for path in files}
        names = ", ".join(by_folded[path] for path in near[:_SHOWN_NAMES])
        raise UserError(
            f"{target}: no figure or table is made there; the nearest are {names}; "
            f"`{snakemake_command('list_artifacts')}` lists them"
        )

    # -- what is right ----------------------------------------------------------------------------------------------

    def _is_right(self, rule: str, recipe: Callable[[], str], *files: str) -> bool:
        """Whether files are what a recipe makes, and nobody asks for them to be made again all the same.

        It is asked several times of one file, and its recipe computed once.
        """
        if files not in self._right:
            self._check_forced()
            request = self._request
            forced = request.all_forced or not {rule, *files}.isdisjoint(request.forced)
            self._right[files] = not forced and is_made(recipe(), *map(Path, files))
        return self._right[files]

    def _csv_is_right(self, artifact: Artifact) -> bool:
        return self._is_right(
            "collect", lambda: recipes.of_csv(self._launch, artifact, self._is_there), self.csv_path(artifact)
        )

    def _printed_is_right(self, artifact: Artifact) -> bool:
        return self._is_right("printed", lambda: recipes.of_printed(artifact), self.csv_path(artifact, printed=True))

    def _data_is_right(self, artifact: Artifact, printed: bool) -> bool:
        return self._printed_is_right(artifact) if printed else self._csv_is_right(artifact)

    def _drawing_is_right(self, artifact: Artifact, *, printed: bool = False) -> bool:
        rule = "tabulate" if artifact.is_table else "draw"
        csv, files = self.csv_path(artifact, printed=printed), self.drawing_paths(artifact, printed=printed)
        return self._data_is_right(artifact, printed) and self._is_right(
            rule, lambda: recipes.of_drawing(artifact, Path(csv)), *files
        )

    def _rates_are_right(self) -> bool:
        path = self._page("learning_rates.yaml")
        return self._is_right("learning_rates", lambda: recipes.of_rates(self._launch), path)

    def _claims_are_right(self) -> bool:
        files = (self._page("claims.csv"), self._page("claims.md"))
        return self._is_right("claims", lambda: recipes.of_claims(self._launch), *files)

    # -- what this launch makes -------------------------------------------------------------------------------------

    def _is_there(self, key: Key) -> bool:
        """Whether a product will be complete when this launch has made what it was asked for."""
        return self._missing.is_made(key) or key in self._coming

    @cached_property
    def _coming(self) -> dict[Key, Key]:
        """The products that this launch makes for what was asked for, each to the product whose job makes it."""
        coming: dict[Key, Key] = {}
        for job in self._missing.behind(self._asked_jobs(self._missing)):
            coming.setdefault(job, job)
            if self._launch.grid.products[job].members:
                coming |= dict.fromkeys(self._missing.members(job), job)
        return coming

    def whole(self) -> list[Key]:
        """The products whose jobs what was asked for would wait for if neither the store nor results had anything."""
        nothing = Missing(self._launch.grid, ())
        return nothing.behind(self._asked_jobs(nothing, from_nothing=True))

    def _asked_jobs(self, missing: Missing, *, from_nothing: bool = False) -> Iterable[Key]:
        """The jobs that what was asked for waits for. Files that show whatever there is have nothing made.

        Args:
            missing: of which products are there.
            from_nothing: whether files that are there and right count as if they were not.
        """
        grid = self._launch.grid
        files = {file for target in self._request.targets for file in self._groups.get(target, [target])}
        for artifact in self._registry.values():
            shown = {*self.drawing_paths(artifact), self.csv_path(artifact)}
            if artifact.needs and shown & files and (from_nothing or not self._csv_is_right(artifact)):
                yield from missing.jobs(artifact.block, artifact.measurements(grid, missing.is_made))
        if {self._page("claims.csv"), self._page("claims.md")} & files and (
            from_nothing or not self._claims_are_right()
        ):
            yield from missing.jobs(GRID, plan.measurements(grid, recipes.CLAIMED, GRID))
        if self._page("learning_rates.yaml") in files and (from_nothing or not self._rates_are_right()):
            yield from missing.jobs(SWEEP, plan.validations(grid))
        store = f"{self._launch.seen_store}/"
        for key in (Key(file.removeprefix(store).removesuffix(".json")) for file in files if file.startswith(store)):
            if key in grid.products and not missing.is_made(key):
                yield key

    def _jobs(self, block: str, keys: Iterable[Key]) -> list[str]:
        return self.manifests(self._missing.jobs(block, keys))

    def _note(self, *files: str) -> list[str]:
        for file in files:
            if file not in self._notes:  # a file that this launch has made by then is not stale
                self._notes[file] = note(file, f"{self._launch.results}/.stale", write=self._is_head)
        return [one for file in files for one in self._notes[file]]

    @cached_property
    def _request(self) -> Request:
        return self._ask()

    def _check_forced(self) -> None:
        """Raises UserError where a product is to be made again that is there."""
        for name in self._request.forced:
            if name in self._product_rules or name.startswith(f"{self._launch.seen_store}/"):
                raise UserError(
                    f"{name}: cannot be forced to run, as what the store has is only made where it is missing; "
                    f"to have one made anew, delete its manifest and its directory in {self._launch.store_root}"
                )
