"""Every base model has all that a study, the lock, a job and estimates ask of it; a module more is a choice more."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from scripts.common.errors import UserError
from scripts.components.making import BuildContext
from scripts.components.models import MODELS, BaseModel, Model, maker
from scripts.components.models.hub import still_true
from scripts.components.models.pretrained import SHIPPED

COMMIT = "01234567" * 5
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context": 512}
SAID: dict[str, dict[str, Any]] = {
    "hub": {"repository": "owner/Net-Hf", "architecture": {**SHAPE, "vocabulary": 400}},
    "package": {"package": "some-model", "version": "1.0", "member": "some_model/Net-1B.Q8_0.gguf"},
    "path": {"path": "models/mine"},
    "pretrained": {
        "architecture": SHAPE,
        "tokenizer": {"datasets": ["texts"], "vocabulary": 400},
        "pretraining": {
            "dataset": "texts",
            "tokens": 6400,
            "sequence_length": 32,
            "batch_rows": 4,
            "learning_rate": 1.0e-3,
            "warmup_fraction": 0.1,
            "weight_decay": 0.1,
            "seed": 0,
        },
    },
}
"""What a study must say of each, beside its label."""
PLACES = {"hub": "hub/net-hf", "package": "package/net-1b.q8_0", "path": "path/directory", "pretrained": "llama"}
ARCHITECTURE = {
    **SHAPE, "kv_heads": 1, "head_dim": 16, "vocabulary": 400, "tied": True, "parameters": 20_000, "dtype": "bfloat16",
}  # fmt: skip
LOCKED: dict[str, tuple[str, dict[str, Any]]] = {
    "hub": ("model:owner/Net-Hf", {"revision": COMMIT}),
    "package": (
        "gguf:some-model==1.0/some_model/Net-1B.Q8_0.gguf",
        {"file": "some_model-1.0-py3-none-any.whl", "sha256": "89abcdef" * 8, "architecture": ARCHITECTURE},
    ),
    "path": ("directory:models/mine", {"files": {"config.json": "89abcdef" * 8}, "architecture": ARCHITECTURE}),
}
"""What the lock has of those that come from outside."""


def model(name: str) -> BaseModel:
    chosen: BaseModel = TypeAdapter(Model).validate_python({"source": name, "label": "Net", **SAID[name]})
    return chosen


def test_these_are_all() -> None:
    assert MODELS.keys() == SAID.keys()


@pytest.mark.parametrize("name", SAID)
def test_what_comes_from_outside_has_an_entry_and_a_directory_of_its_own(name: str) -> None:
    chosen = model(name)
    assert chosen.place == PLACES[name]
    if name not in LOCKED:
        assert (chosen.identity, chosen.entry) == (None, None)
        return
    identity, entry = LOCKED[name]
    assert chosen.identity == identity
    assert chosen.entry is not None
    assert chosen.entry.has_form(entry)
    assert not chosen.entry.has_form({})
    assert not chosen.entry.has_form({**entry, "sha256": "", "more": ""})


@pytest.mark.parametrize("name", SAID)
def test_a_spec_leads_to_who_made_it(name: str) -> None:
    spec = model(name).spec(LOCKED.get(name, ("", {}))[1])
    assert json.loads(json.dumps(spec)) == spec
    assert maker(spec) is type(model(name))


@pytest.mark.parametrize("name", SAID)
def test_it_is_made_with_a_tokenizer_or_comes_with_one(name: str) -> None:
    chosen = model(name)
    if chosen.made_from is None:
        assert chosen.tokenizer_spec(LOCKED[name][1])["source"] == name
        assert type(chosen).build_tokenizer is not BaseModel.build_tokenizer
    else:
        assert chosen.identity is None


@pytest.mark.parametrize("name", LOCKED)
def test_unlocked_is_refused(name: str, tmp_path: Path) -> None:
    chosen = model(name)
    context = BuildContext("models/net-0123456789ab", "mine", tmp_path / "scratch", {}, lambda: [])
    for build, spec in ((chosen.build, chosen.spec({})), (chosen.build_tokenizer, chosen.tokenizer_spec({}))):
        with pytest.raises(UserError, match=f": {chosen.identity} is not locked; run .* --study mine"):
            build(spec, context, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "embeddings"), [("hub", 800), ("pretrained", 400)])
def test_parameters_are_those_that_transformers_counts(name: str, embeddings: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=embeddings == 400,
        )
    )
    assert model(name).parameters == made.num_parameters()


def test_how_long_a_job_trains_is_known() -> None:
    (shipped,) = (path.stem for path in SHIPPED.glob("models/*.json"))
    assert model("hub").tokens_to_train("models/hub/net-0123456789ab") is None
    assert model("pretrained").tokens_to_train("models/llama-0123456789ab") == 6400
    assert model("pretrained").tokens_to_train(f"models/{shipped}") == 0


def test_names_say_where_it_comes_from() -> None:
    assert model("hub").names == ["Net", "owner/Net-Hf"]
    assert model("pretrained").names == ["Net"]


def locked(name: str, **changes: Any) -> BaseModel:
    """As a study of the model sees it once it is locked."""
    identity, entry = LOCKED["path"]
    data = {"source": name, "label": "Net", **SAID[name], **changes}
    entry = entry if name == "path" else {"revision": COMMIT, "architecture": entry["architecture"]}
    chosen: BaseModel = TypeAdapter(Model).validate_python(
        {key: value for key, value in data.items() if value is not None},
        context={identity if name == "path" else LOCKED["hub"][0]: entry},
    )
    return chosen


@pytest.mark.parametrize(("name", "changes"), [("path", {}), ("hub", {"architecture": None})])
def test_what_nobody_types_is_known_once_it_is_locked(name: str, changes: dict[str, Any]) -> None:
    known = locked(name, **changes)
    assert known.shape is not None
    assert known.shape.model_dump() == ARCHITECTURE
    # the output layer is the embedding, and keys and values have one head of 16 channels
    assert (known.parameters, known.stored_bytes, known.shape.keys) == (20_000, 40_000, 16)
    unknown = TypeAdapter(Model).validate_python({**known.model_dump()})
    assert (unknown.shape, unknown.parameters) == (None, 0)
    assert "architecture" not in known.spec({"revision": COMMIT, "files": {}})


def test_what_is_typed_must_be_what_is_locked() -> None:
    assert locked("hub").shape == model("hub").shape
    with pytest.raises(ValidationError, match=r"architecture: layers is 1 in the model's config.json, not 2"):
        locked("hub", architecture={**SHAPE, "layers": 2, "vocabulary": 400})
    with pytest.raises(ValidationError, match=r"is locked without its architecture; .* `.*scripts.data.lock --study"):
        TypeAdapter(Model).validate_python(
            {"source": "hub", "label": "Net", "repository": "owner/Net-Hf"}, context=dict([LOCKED["hub"]])
        )


def test_an_architecture_is_locked_with_its_commit() -> None:
    """Where another study locks the repository anew for its tokenizer alone."""
    before = {"revision": COMMIT, "branches": {"1B": COMMIT}, "architecture": ARCHITECTURE}
    assert still_true(before, COMMIT) == before
    assert still_true(before, "f" * 40) == {"revision": COMMIT, "branches": {"1B": COMMIT}}
