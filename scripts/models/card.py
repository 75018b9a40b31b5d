"""The model card of a model that is taken out of the store: what it is, how to load and ask it, what it scores."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.common.checkout import commit
from scripts.components.measures import FORGETTING, SHOWN, SPECTRA, TARGET_LOSS, averaged, forgetting_of
from scripts.components.methods import Method
from scripts.components.templates import CHAT, DAY, PLAIN, WITH_INPUT, prompt_text
from scripts.data.encoding import TOKENIZER, Encoding
from scripts.launch.launch import Launch
from scripts.plan.conditions import VALIDATION, Condition
from scripts.plan.evaluation import BASE
from scripts.plan.product import Key
from scripts.plan.specs import Trained
from scripts.study.schema import REGIMES, InstructionFinetuning, Study

PAPER = "[LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673)"
_TEXT = "Once upon a time"
"""What a model that knows no instructions is asked to continue."""
_QUESTION = "What is 2 + 3?"


@dataclass(frozen=True)
class Base:
    """How a base model is called: by its repository on the hub at a commit, or by a directory; or not at all."""

    repository: str | None = None
    revision: str | None = None
    directory: Path | None = None

    @property
    def name(self) -> str | None:
        return str(self.directory) if self.directory else self.repository


@dataclass(frozen=True)
class Finished:
    """A finished model of the store, and as what it is taken out."""

    conditions: Sequence[Condition]
    """It, in each block of the study that has it."""
    manifest: Mapping[str, Any]
    method: Method | None
    """None of the base model."""
    base: Base
    is_adapter: bool
    """Whether the adapter alone is taken out."""

    @property
    def key(self) -> Key:
        return self.condition.product

    @property
    def condition(self) -> Condition:
        return self.conditions[0]

    @property
    def is_merged(self) -> bool:
        """Whether its adapter is put into the base model's weights."""
        return self.method is not None and self.method.is_adapter and not self.is_adapter


def load_lines(model: Finished, path: str) -> list[str]:
    """The lines of Python that load what was taken out; `path` is an expression."""
    if not model.is_adapter:
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f"model = AutoModelForCausalLM.from_pretrained({path})",
            f"tokenizer = AutoTokenizer.from_pretrained({path})",
        ]
    quantized = _quantized(model)
    return [
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        *(["from transformers import BitsAndBytesConfig"] if quantized else []),
        f"model = AutoPeftModelForCausalLM.from_pretrained({path}{quantized})",
        f"tokenizer = AutoTokenizer.from_pretrained({path})",
    ]


def _quantized(model: Finished) -> str:
    """What loads the base model of an adapter as it was in training, in 4 bits; empty where it was not."""
    if model.method is None or "quantization" not in model.method.variant:
        return ""
    dtype = "bfloat16" if Trained.read(model.manifest["spec"]).recipe.precision == "bf16" else "float32"
    # see `scripts.loading.models.nf4`
    return (
        ', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", '
        f'bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="{dtype}")'
    )


def model_card(launch: Launch, model: Finished, out: Path, encoding: Encoding, dtypes: str) -> str:
    """The text of README.md, with the front matter that the hub reads.

    Args:
        launch: the study and the store, whose manifests say all of it.
        model: what is taken out.
        out: the directory with everything else in it.
        encoding: the tokenizer as training and evaluation read it.
        dtypes: of the weights.
    """
    study = launch.grid.study
    parts = [
        _front_matter(launch, model),
        f"# {_title(study, model)}",
        *_warning(launch),
        _origin(study, model),
        "## Load it",
        _code(['path = "."  # where this file lies, or the name of its repository', *load_lines(model, "path")]),
        *_needs(launch, model),
        "## Ask it",
        *_asking(study, model, out, encoding),
        *_training(launch, model),
        "## Scores",
        *_scores(launch, model),
        "## Where it comes from",
        _table(("", ""), _provenance(launch, model, dtypes)),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(launch: Launch, model: Finished) -> str:
    from huggingface_hub import ModelCardData

    dataset = None if model.condition.is_base else _dataset(launch, model)
    # a licence is not said: the base model's and the data's decide, and no file of the store has them
    data = ModelCardData(
        base_model=None if model.condition.is_base else model.base.repository,
        datasets=[dataset["repository"]] if dataset and dataset["source"] == "hub" else None,
        library_name="peft" if model.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[model.method.kind] if model.method else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _title(study: Study, model: Finished) -> str:
    condition = model.condition
    if condition.is_base:
        return study.model.label
    setting = study.settings[condition.setting].label
    return f"{study.model.label}: {setting}, {condition.method}, {_duration(study, condition)}"


def _duration(study: Study, condition: Condition) -> str:
    unit: str = study.settings[condition.setting].unit
    return f"{condition.duration} {unit.removesuffix('s') if condition.amount == 1 else unit}"


def _warning(launch: Launch) -> Iterator[str]:
    if launch.grid.study.scale == "demo":
        yield (
            f"> **This is a demo.** The study `{launch.name}` shows how the paper's experiments are made, with a small "
            "model and small data. It is no evidence for or against the paper."
        )


def _origin(study: Study, model: Finished) -> str:
    pipeline = "the pipeline of " if study.scale == "own" else ""
    made = f"From {pipeline}a reproduction of {PAPER} (Biderman et al., TMLR 2024)"
    if model.condition.is_base:
        return f"{made}: the base model of the study *{study.title}*."
    assert model.method is not None
    setting = study.settings[model.condition.setting]
    base = f"[{model.base.repository}](https://huggingface.co/{model.base.repository})"
    return (
        f"{made}, study *{study.title}*: {base if model.base.repository else study.model.label}, after "
        f"{REGIMES[setting.regime]} on {setting.domain} ({setting.label}) by {model.method.label}"
        f"{', the adapter merged into the weights' if model.is_merged else ''}."
    )


def _needs(launch: Launch, model: Finished) -> Iterator[str]:
    """What a reader has to know beside the lines that load it."""
    if model.is_adapter:
        at = f" at the commit `{model.base.revision}`" if model.base.revision else ""
        if model.base.directory:
            yield (
                f"Its base model is `{launch.grid.model.key}` of the store, which was taken out into a directory of "
                "its own. `adapter_config.json` names that directory as `base_model_name_or_path`: change it there "
                "where the directory moves or is put on the hub."
            )
        else:
            yield f"`adapter_config.json` names the base model, `{model.base.name}`{at}, and peft loads it too."
    elif _quantized(model):
        yield "The base model was in 4 bits in training; its weights here are what those 4 bits say."


def template_of(study: Study, condition: Condition) -> str:
    """The text around what a model was asked in training."""
    setting = None if condition.is_base else study.settings[condition.setting]
    return setting.template if isinstance(setting, InstructionFinetuning) else PLAIN


def _asking(study: Study, model: Finished, out: Path, encoding: Encoding) -> Iterator[str]:
    """How a prompt has to look, so that the model reads what it read in training."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    setting = None if model.condition.is_base else study.settings[model.condition.setting]
    if template_of(study, model.condition) == CHAT:
        yield (
            "It was trained on instructions in the chat template of its tokenizer; the response ends with "
            f"`{encoding.token(encoding.ending[0])}`. So:"
        )
        yield _code([*_chatting(tokenizer, encoding), *_WRITING])
        return
    if isinstance(setting, InstructionFinetuning):
        yield "It was trained on instructions in this form; the response follows directly, and ends with " + (
            f"`{encoding.token(encoding.eos)}`:"
        )
        yield _code([prompt_text("{instruction}", setting.template)], "text")
        if setting.template in WITH_INPUT:
            yield "and where the instruction has an input:"
            yield _code([WITH_INPUT[setting.template].format("{instruction}", "{input}")], "text")
        yield "So:"
        prompt = prompt_text(_QUESTION, setting.template)
    else:
        yield "It continues a text:" if model.condition.is_base else "It was trained on text, and continues one:"
        prompt = _TEXT
    yield _code(
        [
            f"prompt = {json.dumps(prompt, ensure_ascii=False)}",
            *_reading(tokenizer, encoding, prompt),
            *_WRITING,
        ]
    )
    if setting and tokenizer.chat_template:
        yield "The tokenizer's chat template is the base model's: this model was not trained on it."


def _chatting(tokenizer: Any, encoding: Encoding) -> list[str]:
    """As `_reading`, for a message in a chat."""
    messages = [{"role": "user", "content": _QUESTION}]
    named: dict[str, Any] = {"add_generation_prompt": True}
    if "date_string" in tokenizer.get_chat_template():
        named["date_string"] = DAY
    said = "".join(f", {name}={value!r}" for name, value in named.items())
    lines = [f"messages = {json.dumps(messages)}"]
    (wanted,) = encoding.prompts([encoding.form.conversation([], _QUESTION)])
    if tokenizer.apply_chat_template(messages, return_dict=True, **named)["input_ids"] == wanted:
        more = ', return_dict=True, return_tensors="pt"'
        return [*lines, f"ids = tokenizer.apply_chat_template(messages{said}{more}).input_ids"]
    return [
        *lines,
        f"prompt = tokenizer.apply_chat_template(messages{said}, tokenize=False)",
        *_read_by_hand([]),
    ]


def _reading(tokenizer: Any, encoding: Encoding, prompt: str) -> list[str]:
    """Lines that make the ids of a prompt as training did: by transformers' tokenizer, if that gives the same."""
    probe = f"{prompt}\n\tdef f(x):  return 1234  # déjà"
    (wanted,) = encoding.prompts([probe])
    for adds, words in ((True, ""), (False, ", add_special_tokens=False")):
        if tokenizer(probe, add_special_tokens=adds).input_ids == wanted:
            return [f'ids = tokenizer(prompt, return_tensors="pt"{words}).input_ids']
    return _read_by_hand(encoding.prefix)


def _read_by_hand(prefix: Sequence[int]) -> list[str]:
    return [
        "# transformers reads this tokenizer otherwise than it was read in training",
        "import tokenizers, torch",
        f'reader = tokenizers.Tokenizer.from_file("{TOKENIZER}")',
        "reader.no_truncation(), reader.no_padding()",
        f"ids = torch.tensor([{list(prefix)} + reader.encode(prompt, add_special_tokens=False).ids])",
    ]


_WRITING = (
    "written = model.generate(ids, max_new_tokens=64)[0, ids.shape[1] :]",
    "print(tokenizer.decode(written, skip_special_tokens=True))",
)


def _training(launch: Launch, model: Finished) -> Iterator[str]:
    if not model.condition.is_base:
        yield "## Training"
        yield _table(("", ""), _recipe(launch, model))


def _recipe(launch: Launch, model: Finished) -> Iterator[tuple[str, str]]:
    study, condition, method = launch.grid.study, model.condition, model.method
    assert method is not None
    setting = study.settings[condition.setting]
    dataset = _dataset(launch, model)
    yield "base model", _base_words(study, model)
    if dataset["source"] == "hub":
        link = f"[{dataset['repository']}](https://huggingface.co/datasets/{dataset['repository']})"
        yield "data", f"{link} at the commit `{dataset['revision']}`"
    else:
        yield "data", f"`{setting.dataset}` of the study ({dataset['source']})"
    yield "regime", REGIMES[setting.regime]
    yield "duration", _duration(study, condition)
    cells = ", ".join(f"{name} {value}" for name, value in {**method.cells(), **method.variant}.items())
    yield "method", f"{method.label}{f': {cells}' if cells else ''}"
    if condition.learning_rate is not None:
        yield "peak learning rate", f"{condition.learning_rate:g}"
    if condition.is_published:
        spec = model.manifest["spec"]
        yield (
            "trained by",
            f"the paper's authors: {spec['repository']}, branch {spec['branch']}, at `{spec['revision']}`",
        )
        return
    recipe = Trained.read(model.manifest["spec"]).recipe
    said = {name: value for name, value in recipe.optimizer.items() if name not in ("name", "learning_rate")}
    yield "optimizer", f"{recipe.optimizer['name']}: {', '.join(f'{name} {value}' for name, value in said.items())}"
    if recipe.attention_dropout:
        yield "attention dropout", f"{recipe.attention_dropout['rate']:g}"
    yield "batch", f"{setting.batch_rows} rows of {setting.sequence_length} tokens"
    yield "computed in", recipe.precision
    yield "seed", str(recipe.seed)


def _dataset(launch: Launch, model: Finished) -> dict[str, Any]:
    """The spec of the records that it was trained on."""
    return launch.grid.records(launch.grid.study.settings[model.condition.setting].dataset).spec


def _base_words(study: Study, model: Finished) -> str:
    if not model.base.repository:
        return study.model.label
    return f"{model.base.repository}" + (f" at the commit `{model.base.revision}`" if model.base.revision else "")


def _scores(launch: Launch, model: Finished) -> Iterator[str]:
    """A table of what the store has of it, the base model's beside; and what was forgotten."""
    study = launch.grid.study
    (base,) = launch.grid.blocks[BASE]
    own = _results(launch, {name: key for one in model.conditions for name, key in one.evaluations.items()})
    beside = {} if model.condition.is_base else _results(launch, base.evaluations)
    setting = model.condition.setting
    if TARGET_LOSS in own and (loss := beside.get(f"{TARGET_LOSS}@{setting}")):
        beside[TARGET_LOSS] = loss
    names = {name: _label(study, name) for name in own}
    parts = study.evaluation.forgetting
    shown = {**SHOWN, **{name: task.shown for name, task in study.evaluation.known.items()}}
    falls = forgetting_of(parts, shown).lower_is_better
    for results in () if falls else (own, beside):
        if all(part in results for part in parts):
            results[FORGETTING] = _average([results[part] for part in parts])
    if FORGETTING in own:
        names[FORGETTING] = f"**{SHOWN[FORGETTING].axis}**: {averaged(parts, shown)}"
    if not own:
        yield "The store has no evaluation of it."
        return
    rows = [(label, *_cells(own[name], beside.get(name), model)) for name, label in names.items()]
    heads = ("", "this model") if model.condition.is_base else ("", "this model", "base model", "difference")
    yield _table((*heads, "items"), rows)
    yield f"± is one standard error over items. The models were evaluated in {study.precision}."
    kept, called = (parts[0], f"the {shown[parts[0]].label}") if falls else (FORGETTING, "the forgetting average")
    if kept in own and kept in beside:
        gained = own[kept]["value"] - beside[kept]["value"]
        side = "above" if gained > 0 else "below"
        yield f"What was forgotten: {called} is {abs(gained):.3f} {side} the base model's."


def _results(launch: Launch, evaluations: Mapping[str, Key]) -> dict[str, dict[str, Any]]:
    """What the manifests of evaluations say, as far as they are made; validation items chose the learning rate."""
    wanted = {name: key for name, key in evaluations.items() if name not in (SPECTRA, VALIDATION)}
    found = {name: launch.store.read(key) for name, key in wanted.items()}
    return {name: dict(manifest["results"]) for name, manifest in found.items() if manifest}


def _average(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The plain mean of benchmarks whose items are independent draws (paper, section 3.3)."""
    return {
        "value": math.fsum(one["value"] for one in results) / len(results),
        "stderr": math.hypot(*(one["stderr"] for one in results)) / len(results),
        "items": sum(one["items"] for one in results),
    }


def _label(study: Study, name: str) -> str:
    task, _, of_setting = name.partition("@")
    shown = study.evaluation.task(task).shown
    better = " (less is better)" if shown.lower_is_better else ""
    return f"{shown.axis}{better}" + (f", {study.settings[of_setting].label}" if of_setting else "")


def _cells(own: Mapping[str, Any], base: Mapping[str, Any] | None, model: Finished) -> list[str]:
    cells = [_value(own)]
    if not model.condition.is_base:
        cells += [_value(base), f"{own['value'] - base['value']:+.3f}"] if base else ["", ""]
    return [*cells, f"{own['items']:,}"]


def _value(result: Mapping[str, Any]) -> str:
    return f"{result['value']:.3f} ± {result['stderr']:.3f}"


def _provenance(launch: Launch, model: Finished, dtypes: str) -> Iterator[tuple[str, str]]:
    made = model.manifest["provenance"]
    yield "study", f"`{launch.name}`: {launch.grid.study.title}"
    yield "scale", launch.grid.study.scale
    yield "model", f"`{model.key}`"
    yield "fingerprint of its recipe", f"`{model.key.fingerprint}`"
    yield "base model", f"`{launch.grid.model.key}`"
    yield "weights", dtypes
    yield "taken out at commit", commit()
    if code := made["code"]:
        yield (
            "made by",
            ", ".join(f"{name} {entry['version']} (`{entry['hash'][:12]}`)" for name, entry in code.items()),
        )
    yield "made with", ", ".join(f"{name} {version}" for name, version in sorted(made["packages"].items()))


def _table(heads: Sequence[str], rows: Iterator[tuple[str, str]] | Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(lines: Sequence[str], language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])
