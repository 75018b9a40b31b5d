"""Records, tokenizers, rows and the base model of a study."""

from collections.abc import Container, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Literal

from scripts.common.errors import UserError
from scripts.components.making import DATA_LOCK
from scripts.components.models import Model
from scripts.components.models.hub import ModelEntry, repository_tokenizer
from scripts.components.part import slug, unusual
from scripts.components.templates import CHAT
from scripts.plan import specs
from scripts.plan.product import Catalogue, Product
from scripts.study.schema import InstructionFinetuning, Study


def records_spec(study: Study, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the records of a dataset, by the lock's entry of it.

    Where a chat template is to write its conversations, records keep their turns, which others have as one text alone.
    """
    dataset = study.datasets[name]
    spec: dict[str, Any] = dataset.spec(entry, study.data_seed)
    chats = (s for s in study.settings.values() if isinstance(s, InstructionFinetuning) and s.template == CHAT)
    if getattr(dataset, "conversation", None) and any(name in (chat.dataset, chat.held_out) for chat in chats):
        spec["turns"] = "kept"
    return spec


class Data:
    """What is made of a study's datasets and base model; each product is computed once."""

    def __init__(self, study: Study, catalogue: Catalogue) -> None:
        self._study = study
        self._catalogue = catalogue
        # hundreds of others ask for the same few
        self._named: dict[str, Product] = {}
        self.tokenizer = cache(self._tokenizer)
        self.rows = cache(self._rows)

    def reading(self, *keys: Literal["bos", "join"]) -> dict[str, Any]:
        """How text becomes tokens, as specs have it: said always where the tokenizer comes from outside.

        A tokenizer that is made here puts nothing before a text, so `bos` decides nothing.
        """
        if self._study.model.made_from:
            return unusual(self._study, *(key for key in keys if key != "bos"))
        return {key: getattr(self._study, key) for key in keys}

    def refuse_copies(self) -> None:
        """Raises UserError where the lock has one file under two names, and a model is asked what it is trained on."""
        study = self._study
        entries = {name: self._catalogue.entry(dataset.identity) for name, dataset in study.datasets.items()}
        for key, asked in study.asked.items():
            for trained_key, trained in study.trained_on.items():
                sha256 = entries[asked].get("sha256")
                own, other = study.datasets[asked].identity, study.datasets[trained].identity
                if sha256 and own != other and entries[trained].get("sha256") == sha256:
                    raise UserError(
                        f"{key}: dataset {asked!r} is a copy of {trained!r}, which is trained on ({trained_key}): "
                        f"{DATA_LOCK} has the same SHA-256 of {own} and of {other}"
                    )

    def records(self, name: str) -> Product:
        """The records of a dataset."""
        if name not in self._named:
            self._named[name] = self._add_records(name)
        return self._named[name]

    def _add_records(self, name: str) -> Product:
        dataset = self._study.datasets[name]
        entry = self._catalogue.entry(dataset.identity)
        spec = {
            "kind": "records",
            **records_spec(self._study, name, entry),
            "versions": self._versions("records"),
        }
        return self._add(f"data/records/{dataset.place}", spec, dataset.identity)

    def _tokenizer(self, repository: str | None = None) -> Product:
        """The base model's tokenizer, or that of another repository."""
        model = self._study.model
        if made := model.made_from:
            records = [self.records(name) for name in made[0].datasets]
            spec = {
                "kind": "tokenizer",
                "records": [product.fingerprint for product in records],
                "vocabulary": made[0].vocabulary,
                "versions": self._versions("tokenizer"),
            }
            return self._catalogue.add("data/tokenizers/bpe", spec, *records)
        identity = ModelEntry.key(repository) if repository else model.identity
        entry = self._catalogue.entry(identity)
        if repository:
            place, source = f"hub/{slug(repository)}", repository_tokenizer(repository, entry)
        else:
            place, source = model.place, model.tokenizer_spec(entry)
        converted = {} if repository else self._converted()
        spec = {"kind": "tokenizer", **source, "versions": {**self._versions("tokenizer"), **converted}}
        return self._add(f"data/tokenizers/{place}", spec, identity)

    def _rows(self, setting_name: str, seed: int) -> Product:
        """The tokenized rows of a setting, and the composition of every batch."""
        setting = self._study.settings[setting_name]
        more: dict[str, Any] = {}
        if isinstance(setting, InstructionFinetuning):
            more = {"max_epochs": setting.max_epochs, "packing_ratio": setting.packing_ratio}
            more |= unusual(setting, "template", "packing")
            if self._study.model.made_from and self._study.datasets[setting.dataset].identity:
                more |= {"overlong": "cut"} if setting.packing == "foundry" else {}
        more |= self.reading(*(("bos",) if setting.regime == "cpt" else ("bos", "join")))
        return self._add_rows(
            f"{setting_name}-seed{seed}",
            setting.dataset,
            self.tokenizer(setting.tokenizer),
            regime=setting.regime,
            sequence_length=setting.sequence_length,
            batch_rows=setting.batch_rows,
            group_rows=setting.group_rows,
            seed=seed,
            **more,
        )

    def _add_rows(self, name: str, dataset: str, tokenizer: Product, **spec: Any) -> Product:
        records, action = self.records(dataset), self._study.contamination
        asked = [] if action == "warn" else self._compared_with(dataset)
        if asked:
            named = sorted(product.fingerprint for product in asked)
            spec["contamination"] = {"action": action, "asked": named}
        rows = specs.Rows(
            records=records.fingerprint, tokenizer=tokenizer.fingerprint, versions=self._versions("rows"), **spec
        )
        return self._catalogue.add(f"data/rows/{name}", rows.spec(), records, tokenizer, *asked)

    def overlaps(self, trained: Container[str], evaluated: Container[str]) -> dict[str, Product]:
        """What records that are trained on share with what is asked, by the name of their dataset.

        Of none that has nothing to be compared with, and of none where the rows' own job compares, to act on what it
        finds.

        Args:
            trained: the records that rows are made of.
            evaluated: those that evaluations read. A study names more than it asks.
        """
        study = self._study
        if study.contamination != "warn":
            return {}
        named = self._named
        made = {}
        for name in study.trained_on.values():
            others = {named[other].key: named[other] for other in study.compared_with(name) if other in named}
            asked = [others[key] for key in sorted(others) if key in evaluated]
            if name in named and named[name].key in trained and asked:
                made[name] = self._add_overlaps(study.datasets[name].place, named[name], asked)
        return made

    def _add_overlaps(self, place: str, records: Product, asked: Sequence[Product]) -> Product:
        spec = {
            "kind": "overlaps",
            "records": records.fingerprint,
            "asked": sorted(product.fingerprint for product in asked),
            "versions": self._versions("overlaps"),
        }
        return self._catalogue.add(f"data/overlaps/{place}", spec, records, *asked)

    def _compared_with(self, dataset: str) -> list[Product]:
        """The records of what is asked that those of a dataset are compared with."""
        products = [self.records(name) for name in self._study.compared_with(dataset)]
        return sorted({product.key: product for product in products}.values(), key=lambda product: product.key)

    @cached_property
    def model(self) -> Product:
        """The base model."""
        model: Model = self._study.model
        spec = {"kind": "model", **model.spec(self._catalogue.entry(model.identity))}
        if model.made_from is None:
            spec |= {"versions": converted} if (converted := self._converted()) else {}
            return self._add(f"models/{model.place}", spec, model.identity)
        tokenizer, pretraining = self.tokenizer(), model.made_from[1]
        rows = self._add_rows(
            f"pretraining-seed{pretraining.seed}",
            pretraining.dataset,
            tokenizer,
            regime="cpt",
            sequence_length=pretraining.sequence_length,
            batch_rows=pretraining.batch_rows,
            group_rows=pretraining.batch_rows,
            seed=pretraining.seed,
        )
        spec |= {
            "tokenizer": tokenizer.fingerprint,
            "rows": rows.fingerprint,
            "versions": self._versions("model"),
        }
        return self._catalogue.add(f"models/{model.place}", spec, tokenizer, rows)

    def _add(self, name: str, spec: dict[str, Any], identity: str | None) -> Product:
        if identity is None:
            return self._catalogue.add(name, spec)
        return self._catalogue.add_outside(name, spec, identity, locked=bool(self._catalogue.entry(identity)))

    def _converted(self) -> dict[str, int]:
        """The code version behind what is made of the base model's files."""
        name = self._study.model.converted_by
        return {name: self._catalogue.versions[name]} if name else {}

    def _versions(self, kind: str) -> dict[str, int]:
        return specs.versions(kind, self._catalogue.versions)
