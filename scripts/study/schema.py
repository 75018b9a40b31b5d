"""The schema of a study: the YAML files in ``config/studies/``.

Every key is checked strictly (a number written as text is an error, an unknown key is an error), and every
name that one key uses must be declared by another.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, create_model, model_validator

from scripts.common.devices import CPU, DEVICES
from scripts.common.quantities import format_tokens, parse_tokens
from scripts.components.foreign import LmEval
from scripts.components.forms import Document, Form, Instruction, Use
from scripts.components.measures import LANGUAGE_UNDERSTANDING, MEASURES, SOURCE_LOSS, SPECTRA, TARGET_LOSS
from scripts.components.methods import AnyMethod
from scripts.components.models import Model
from scripts.components.modules import ATTENTION, MLP
from scripts.components.optimizers import AnyOptimizer
from scripts.components.part import LONGEST_NAME, Count, Name, Part, Rate, Repository, Seed, Tokens, field
from scripts.components.sources import Dataset
from scripts.components.tasks import BENCHMARKS, COMPOSITE, TASKS, Task
from scripts.components.templates import BOS, CHAT, JOIN, PLAIN, Bos, Join, Template

TaskName = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=LONGEST_NAME)]
"""A key of `evaluation.tasks`."""
RESERVED = ("base", "grid", "losses", "pretraining", "sweep", "throughput", "validation")
"""Names that the workflow gives by itself, in CSVs, in the store, and where artifacts are chosen."""
MEASURABLE = (*MEASURES, *TASKS)
"""What every study may name under a block's `measures`."""
MATRICES = (*(f"self_attn.{module}" for module in ATTENTION), *(f"mlp.{module}" for module in MLP))
MATRIX = re.compile(rf"model\.layers\.(?P<layer>[0-9]+)\.({'|'.join(map(re.escape, MATRICES))})")


def _duration(value: object) -> object:
    return parse_tokens(value) if isinstance(value, str) else value


CellDuration = Annotated[int, Field(gt=0), BeforeValidator(_duration)]


class _SettingSweep(Part):
    """The learning rates that a setting's sweep tries, at one short duration."""

    learning_rates: dict[Name, Annotated[list[Rate], Field(min_length=2)]] = field(
        "method to the peak learning rates that are tried", paper="appendix B, figure S1; which rates: not said"
    )

    @model_validator(mode="after")
    def _rates_differ(self) -> Self:
        for method, rates in self.learning_rates.items():
            if len(set(rates)) != len(rates):
                raise ValueError(f"learning_rates.{method}: rates must differ from each other")
        return self


class CptSweep(_SettingSweep):
    """The learning rates that the sweep tries in this setting, all at one duration."""

    duration: Tokens = field("how long each is trained", unit="tokens")


class IftSweep(_SettingSweep):
    """The learning rates that the sweep tries in this setting, all at one duration."""

    duration: Count = field("how long each is trained", unit="epochs", paper="appendix B: 2 epochs")


class _Setting(Part):
    label: str = field("how figures call it", min_length=1)
    domain: Name = field("what it is about, such as code or math; settings of one domain stand in a row of a figure")
    dataset: Name = field("name of the dataset that is trained on", paper="section 3.1, table 1")
    sequence_length: Count = field("length of a row; at most the model's context", unit="tokens", paper="appendix A")
    batch_rows: Count = field("rows of an optimizer step", unit="rows", paper="appendix A")
    group_rows: Count = field(
        "rows whose loss is averaged as one unit (the paper's device microbatch); must divide `batch_rows`",
        unit="rows",
        paper="appendix A",
    )
    learning: TaskName = field(
        "the task that measures learning: a key of `evaluation.tasks`, or `target_loss`, the loss on `held_out`",
        paper="section 3.2",
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = field(
        "how much weights shrink at a step at the peak learning rate; the schedule scales it, the rate does not",
        default=0.0,
        unit="share of a weight a step",
        paper="appendix A",
    )
    learning_rates: dict[Name, Rate] = field(
        "method to its peak learning rate; a method may be missing whose rate the sweep chooses",
        default={},
        paper="appendix A; full finetuning of code IFT: only in the authors' repository",
    )
    held_out: Name | None = field(
        "name of a dataset like `dataset` that is not trained on, for the target loss and, by one of the two rules of "
        "`sweep`, for choosing learning rates",
        default=None,
        paper="beyond the paper",
    )
    tokenizer: Repository | None = field(
        "a repository whose tokenizer is used here, in training and in evaluation, instead of the base model's",
        default=None,
        paper="appendix A",
    )
    attention: Literal["across", "within"] = field(
        "`across`: a token attends to documents or examples before its own in the row too; `within`: to its own alone",
        default="across",
        paper="not said",
    )
    loss: Literal["group_mean", "token_mean"] = field(
        "`group_mean`: mean over groups of the mean over a group's tokens; `token_mean`: mean over a batch's tokens",
        default="group_mean",
        paper="not said",
    )
    lag: Literal[0, 1] = field(
        "by how much the schedule comes late; with 1, as in the authors' software, the first batch's rate stands twice",
        default=0,
        unit="batches",
        paper="not said",
    )
    published: dict[Name, Repository] = field(
        "method that is not trained here to the repository (OWNER/NAME) of the authors' checkpoints, which are "
        "evaluated instead",
        default={},
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

    regime: Literal["cpt"] = field("how it is trained: continued pretraining on documents", paper="section 3.1")
    durations: Annotated[list[Tokens], Field(min_length=1)] = field(
        "how long models are trained: a branch of the trunk for each", unit="tokens", paper="figure 1, tables S1 to S4"
    )
    first_leg: Tokens = field(
        "where the trunk is first saved for branches to start from; the next places are each at twice the last",
        unit="tokens",
        paper="not said",
    )
    warmup_batches: Annotated[int, Field(ge=0, lt=2**31)] = field(
        "how long the learning rate rises from 0 to its peak", unit="batches", paper="appendix A"
    )
    cooldown: Annotated[float, Field(gt=0, lt=1)] = field(
        "the end of a branch, in which the learning rate falls to 0",
        unit="share of the duration",
        paper="appendix A",
    )
    short_branch: Literal["from_reached", "warmup_only"] = field(
        "a branch that ends inside the warmup cools down from the rate reached, or stays in the warmup to its end",
        default="from_reached",
        paper="not said",
    )
    sweep: CptSweep | None = field("the learning rates to try, if the sweep is to choose them", default=None)

    unit: ClassVar[Literal["tokens", "epochs"]] = "tokens"

    def duration_label(self, amount: int) -> str:
        """A duration as figures and names have it: 64K."""
        return format_tokens(amount)

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

    regime: Literal["ift"] = field(
        "how it is trained: instruction finetuning on instructions with responses", paper="section 3.1"
    )
    durations: Annotated[list[Count], Field(min_length=1)] = field(
        "how long models are trained: a run of its own for each (see `hot`)",
        unit="epochs",
        paper="figure 1, tables S5 to S8",
    )
    template: Template = field(
        "the text around an instruction and its response. `chat`: what the tokenizer's own chat template writes, and "
        "no other token, whatever `bos` and `join` are",
        default=PLAIN,
        paper="not said",
    )
    packing: Literal["foundry", "bfd", "concat", "none"] = field(
        "how examples fill rows. `foundry`: llm-foundry's bins; `bfd`: best fit decreasing; `concat`: one text, cut "
        "into rows; `none`: an example a row",
        default="foundry",
        paper="not said",
    )
    packing_ratio: Annotated[float, Field(ge=1)] | None = field(
        "how many examples are taken for a row of a group; stands exactly where `packing` is `foundry`",
        default=None,
        unit="examples a row",
        paper="not said",
    )
    hot: bool = field(
        "one run over the longest duration; the shorter ones are its weights on the way, with no cooldown of their own",
        default=False,
        paper="section 4.4, appendix C",
    )
    max_epochs: Count = field(
        "epochs whose batches the data stage composes; no duration, here or in a block or sweep, may be longer",
        default=16,
        unit="epochs",
    )
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = field(
        "how much of a run the learning rate rises from 0 to its peak", unit="share of the run", paper="appendix A"
    )
    final_fraction: Annotated[float, Field(ge=0, le=1)] = field(
        "the learning rate that the cosine ends at", unit="share of the peak rate", paper="appendix A"
    )
    sweep: IftSweep | None = field("the learning rates to try, if the sweep is to choose them", default=None)

    unit: ClassVar[Literal["tokens", "epochs"]] = "epochs"

    def duration_label(self, amount: int) -> str:
        """A duration as figures and names have it: 2."""
        return str(amount)

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
REGIMES = {"cpt": "continued pretraining", "ift": "instruction finetuning"}
"""Regime to its name in words."""


class Asked(Part):
    """The benchmarks of a study: those that measure learning or forgetting, and those that an artifact needs.

    Under any other key, of small letters, digits and `_`, stands a task of lm-eval, as `piqa: {task: lm_eval, ...}`.
    """

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[TaskName, LmEval] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _named_by_their_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: {"name": key, **value}
            if key not in BENCHMARKS and isinstance(value, dict) and not value.keys() & {"name", "file"}
            else value
            for key, value in data.items()
        }

    def of(self, task: str) -> Any:
        """The settings of a task; None where the study does not have it."""
        return getattr(self, task, None) if task in BENCHMARKS else self.own.get(task)

    @property
    def own(self) -> dict[str, LmEval]:
        """Name to settings of the tasks that the study itself declares."""
        return self.__pydantic_extra__

    @property
    def present(self) -> dict[str, Any]:
        """Name to settings of the tasks that the study has."""
        return {
            **{name: settings for name in BENCHMARKS if (settings := self.of(name)) is not None},
            **self.own,
        }

    @model_validator(mode="after")
    def _own_names_are_free(self) -> Self:
        for name in self.own:
            if name in RESERVED or name in MEASURES or name in TASKS:
                raise ValueError(f"{name}: is a name that the workflow gives by itself; take another and say `name`")
        return self


if TYPE_CHECKING:
    Tasks = Asked
else:
    Tasks = create_model(
        "Tasks",
        __base__=Asked,
        __doc__=Asked.__doc__,
        **{
            task.name: (task.settings | None, field(task.meaning, paper=task.paper, default=None))
            for task in BENCHMARKS.values()
        },
    )


class Evaluation(Part):
    """What every trained model, and the base model, is asked."""

    seed: Seed = field("decides the programs that are drawn, and which shots an item gets", paper="not said")
    tasks: Tasks = field("the benchmarks, and how each is asked", default=Tasks())
    forgetting: Annotated[list[TaskName], Field(min_length=1)] = field(
        "the tasks whose mean accuracy is the forgetting average: keys of `tasks` whose values rise; or one task alone "
        "whose value falls, as `source_loss`, the loss on `held_out`",
        paper="section 3.3",
    )
    held_out: Name | None = field(
        "name of a dataset with what models must not forget, like that of the base model's pretraining, for the source "
        "loss",
        default=None,
        paper="beyond the paper",
    )

    def task(self, name: str) -> Task:
        """The task of a name, be it the project's or the study's own.

        Raises:
            KeyError: there is none.
        """
        return TASKS[name] if name in TASKS else self.tasks.own[name].as_task(name)

    @property
    def known(self) -> dict[str, Task]:
        """All by their names: the project's, whether or not the study asks them, and the study's own."""
        return {name: self.task(name) for name in (*TASKS, *self.tasks.own)}


class Sweep(Part):
    """How the sweep over learning rates is judged. What it tries stands with each setting.

    The rates that it chose are copied beside the study by ``python -m scripts.artifacts.accept_rates``.
    """

    rule: Literal["highest_validation_score", "lowest_held_out_loss"] = field(
        "for every setting and method the rate is taken whose mean over seeds is best; of a tie, the lowest rate. "
        "`highest_validation_score`: the score on the items of `validation`; `lowest_held_out_loss`: the loss on the "
        "records of the setting's `held_out`, which is its target loss. A rate at which training diverged is never "
        "taken",
        paper="not said",
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = field("every rate is trained once with each", paper="not said")
    validation: dict[TaskName, Name] = field(
        "learning task to the name of the dataset with the items that decide; none of them is a test item. With "
        "`lowest_held_out_loss` it must be absent",
        default={},
        paper="beyond the paper",
    )

    @property
    def by_loss(self) -> bool:
        """Whether held-out losses decide, and not scores."""
        return self.rule == "lowest_held_out_loss"


class Main(Part):
    """The conditions of figures 1 to 3: every setting with every method, unless less is named here."""

    settings: list[Name] | None = field("names of the settings that are shown (all, if absent)", default=None)
    methods: list[Name] | None = field("names of the methods that are shown (all, if absent)", default=None)


class Cell(Part):
    """Conditions in one setting: all methods at all durations and rates, with what differs from the setting."""

    setting: Name = field("name of the setting")
    methods: Annotated[list[Name], Field(min_length=1)] | None = field(
        "names of the methods (those of `main`, if absent)", default=None
    )
    durations: Annotated[list[CellDuration], Field(min_length=1)] | None = field(
        "how long models are trained (as long as the setting says, if absent)",
        default=None,
        unit="tokens (cpt) or epochs (ift)",
    )
    learning_rates: Annotated[list[Rate], Field(min_length=1)] | None = field(
        "peak learning rates, a model for each (the setting's rate for the method, if absent)",
        default=None,
        paper="figures S1 to S3; which rates: not said",
    )
    weight_decay: Annotated[float, Field(ge=0, lt=1)] | None = field(
        "another weight decay than the setting's", default=None, unit="share of a weight a step", paper="figure 4"
    )
    attention_dropout: Annotated[float, Field(gt=0, lt=1)] | None = field(
        "how often an attention weight is dropped in training (never, if absent)",
        default=None,
        unit="probability",
        paper="figure 4",
    )
    optimizer: AnyOptimizer | None = field("another optimizer than the study's", default=None, paper="figure S2")


class Block(Part):
    """Conditions that one figure or table shows, and what is measured of them."""

    measures: Annotated[list[TaskName], Field(min_length=1)] = field(
        f"what is measured of every condition: {', '.join(f'`{name}`' for name in MEASURABLE)}, or a task of "
        "`evaluation.tasks` that the study declares",
        default=["learning", "forgetting"],
    )
    cells: Annotated[list[Cell], Field(min_length=1)] = field(
        "its conditions; one that other blocks have too is trained once"
    )


class Spectra(Part):
    """Singular values of what finetuning changed (paper, figures 6 and S7)."""

    whole: Annotated[list[str], Field(min_length=1)] = field(
        "matrices, as `model.layers.26.self_attn.q_proj`, whose own values before and after are kept too",
        paper="figure S7",
    )


class Throughput(Part):
    """The benchmark of training speed and memory (paper, appendix I)."""

    methods: Annotated[list[Name], Field(min_length=1)] = field("names of the methods compared", paper="appendix I")
    batch_rows: Annotated[list[Count], Field(min_length=1)] = field(
        "global batches, each measured by itself", unit="rows", paper="appendix I"
    )
    sequence_length: Count = field("length of a row", unit="tokens", paper="not said")
    pass_rows: Count = field(
        "most rows in one forward and backward pass of a device", unit="rows", paper="appendix I: both 1 and at most 8"
    )
    steps: Count = field("how many are timed, after one that is not", unit="optimizer steps", paper="not said")


class TrainingJob(Part):
    """What a training job asks a cluster for beside `devices`. Local runs do not read it."""

    cpus: Count = field("CPUs of a process", default=2)
    memory_gb: Count = field("memory of a node", default=8, unit="GiB")
    minutes: Count = field(
        "the longest that an attempt may take; training goes on in the next where it ended", default=60, unit="minutes"
    )


class Job(TrainingJob):
    """What a kind of job asks a cluster for: one process on one node. Local runs do not read it."""

    gpus: Annotated[int, Field(ge=0, le=1)] = field("GPUs of the process, of the kind that `devices` says", default=0)


class EvaluationJob(Job):
    """What an evaluation asks a cluster for: a process for each GPU of one node. Local runs do not read it."""

    gpus: Annotated[int, Field(ge=0, le=64)] = field(
        "GPUs of the kind that `devices` says, which share the items", default=0
    )


if TYPE_CHECKING:
    _Kind: TypeAlias = str
else:
    _Kind = Literal[*DEVICES]


class Devices(Part):
    """What a training job runs on: a process for each GPU or, without any, for each node."""

    kind: _Kind = field("which device; estimates of time go by it, and whether jobs fit into its memory")
    nodes: Count = field("how many nodes", default=1)
    gpus: Annotated[int, Field(ge=0, lt=2**31)] = field("GPUs of a node", default=0)

    @model_validator(mode="after")
    def _gpus_are_of_a_kind(self) -> Self:
        if (self.kind == CPU) != (self.gpus == 0):
            raise ValueError(
                f"gpus: must be 0 where kind is {CPU}"
                if self.gpus
                else f"gpus: must be above 0 where kind is {self.kind}"
            )
        return self

    @property
    def processes(self) -> int:
        """Of one node."""
        return max(self.gpus, 1)

    @property
    def count(self) -> int:
        """GPUs in all, or CPUs where there are none."""
        return self.nodes * self.processes


class Jobs(Part):
    """What each kind of job asks a cluster for. Downloads, joins and drawings run where Snakemake does."""

    data: Job = field("makes the rows that training reads", default=Job())
    models: Job = field("makes the base model", default=Job())
    training: TrainingJob = field(
        "trains a leg, a branch or a run on `devices`; less time than `minutes` is asked for where its tokens need "
        "less",
        default=TrainingJob(),
    )
    throughput: Job = field("measures speed and memory", default=Job())
    evaluation: EvaluationJob = field("asks a model the items of a task", default=EvaluationJob())
    judging: Job = field(
        "judges what a model has written, on as many CPUs as it has; at family grain the job of `evaluation` does",
        default=Job(),
    )
    spectra: Job = field("computes singular values", default=Job())


class Price(Part):
    """What a GPU-hour costs."""

    amount: Annotated[float, Field(gt=0, allow_inf_nan=False)] = field("how much", unit="currency")
    currency: str = field("in what, as the plan writes it: USD", min_length=1)


class Resources(Part):
    """What jobs are expected to take, how often they save, what they ask for; no product's name depends on it."""

    devices: Devices = field(
        "what training runs on; a site, or `--config devices=`, may say another, and nothing is named or trained anew",
        default=Devices(kind=CPU),
    )
    startup_seconds: Count = field("how long a job takes before it does anything", unit="seconds")
    checkpoint_seconds: Count = field(
        "how often a job saves what it needs to go on, so how much work it loses at most when it is killed",
        unit="seconds",
    )
    strict_arithmetic: bool = field(
        "whether CPUs compute with the kernels that every x86 processor with AVX2 has, whatever else it has and the "
        "environment says: meant to give the same bits on each of them, with as many threads; a step of training takes "
        "1.4 (smoke study) to 2 (demo) times the CPU time; nothing changes on GPUs and other processors",
        default=False,
    )
    gpu_hour_price: Price | None = field("what a GPU-hour costs; the plan then says the money, too", default=None)
    jobs: Jobs = field("what jobs ask a cluster for", default=Jobs())

    @model_validator(mode="after")
    def _attempts_have_time(self) -> Self:
        if self.jobs.training.minutes * 60 <= 4 * self.startup_seconds:
            raise ValueError(
                f"jobs.training.minutes: an attempt must be longer than four times startup_seconds "
                f"({self.startup_seconds}), or it ends before it trains"
            )
        return self

    @model_validator(mode="after")
    def _gpus_have_a_kind(self) -> Self:
        for name in ("data", "models", "throughput", "evaluation", "judging", "spectra"):
            if self.devices.kind == CPU and getattr(self.jobs, name).gpus:
                raise ValueError(f"jobs.{name}.gpus: devices must say which kind of GPU it is")
        return self

    def on(self, devices: Devices) -> "Resources":
        """These with other devices: jobs that have GPUs have as many as a node, at most, and without any none.

        Where there were none before, a throughput and an evaluation have one.
        """
        jobs = {}
        for name, job in self.jobs:
            if name == "training":
                continue
            gpus = job.gpus
            if self.devices.kind == CPU and name in ("throughput", "evaluation"):
                gpus = 1
            jobs[name] = job.model_copy(update={"gpus": min(gpus, devices.gpus)})
        return self.model_copy(update={"devices": devices, "jobs": self.jobs.model_copy(update=jobs)})


class Study(Part):
    """One experiment: base model, settings, methods, evaluation, resources."""

    title: str = field("how figures and reports call the study", min_length=1)
    scale: Literal["demo", "own", "paper"] = field(
        "`demo`: figures bear a badge, since data and base model are toys; `own`: one's own model and data, which are "
        "not the paper's; `paper`: the paper's, and nothing of them is made here"
    )
    edition: Literal["v1", "v2"] = field(
        "whose figures and tables it has: `v2` is the TMLR version, `v1` the first on arXiv", default="v2"
    )
    grain: Literal["condition", "family"] = field(
        "one job for each leg, branch or run (clusters), or for all conditions of a setting, method and seed (laptops)"
    )
    seeds: Annotated[list[Seed], Field(min_length=1)] = field(
        "every condition is trained once with each; decides the order of the data, adapters' first weights, dropout",
        paper="not said",
    )
    data_seed: Seed = field("decides what generated records say and which files a sample takes", paper="not said")
    precision: Literal["fp32", "bf16"] = field(
        "the numbers that models compute in, in training and evaluation; trained weights are kept in fp32 either way",
        paper="appendix A",
    )
    datasets: dict[Name, Dataset] = field("name to where its records come from; other keys use these names")
    model: Model = field("the base model", paper="section 3")
    bos: Bos = field(
        "what stands before every document, prompt and question, in training and in evaluation. `tokenizer`: what the "
        "tokenizer itself puts before a text (Llama-2's: <s>); `none`: nothing",
        default=BOS,
        paper="not said",
    )
    join: Join = field(
        "how prompt and response become tokens, in training and in held-out losses. `separate`: each by itself; "
        "`together`: as one text, cut before the first token with a character of the response",
        default=JOIN,
        paper="not said",
    )
    optimizer: AnyOptimizer = field("what turns gradients into steps", paper="appendix A")
    settings: Annotated[dict[Name, Setting], Field(min_length=1)] = field(
        "name (`code-cpt`) to a dataset with the way it is trained on", paper="section 3.1, appendix A"
    )
    methods: Annotated[dict[Name, AnyMethod], Field(min_length=1)] = field(
        "name (`lora-r16`) to what of the model is trained", paper="section 3, appendix A"
    )
    evaluation: Evaluation = field("what models are asked", paper="section 3")
    main: Main = field("the conditions of figures 1 to 3", default=Main(), paper="figures 1 to 3, tables S1 to S8")
    blocks: dict[Name, Block] = field(
        "name to the conditions of one more figure or table, which calls them by it",
        default={},
        paper="figures 4 to S9",
    )
    sweep: Sweep | None = field(
        "how learning rates are chosen", default=None, paper="appendix B; by which rule: not said"
    )
    spectra: Spectra | None = field("which singular values are kept", default=None, paper="figures 6 and S7")
    throughput: Throughput | None = field(
        "what the benchmark of speed and memory runs", default=None, paper="figure S10"
    )
    contamination: Literal["warn", "refuse", "drop"] = field(
        "what happens where a training record shares 13 words in a row with an item that is asked or held out, by the "
        "rule of GPT-3. `warn`: the job that makes the rows says so, and lists the pairs beside the rows; `refuse`: it "
        "ends; `drop`: the record is left out. The last two are part of what is trained, and of its name. Records that "
        "are made here are not compared with each other",
        default="warn",
        paper="beyond the paper",
    )
    overlay: bool = field("whether figures show the paper's printed numbers over the study's own", default=False)
    resources: Resources = field("what jobs are expected to take")

    @property
    def main_settings(self) -> list[str]:
        """The settings of figures 1 to 3."""
        return list(self.settings) if self.main.settings is None else self.main.settings

    @property
    def main_methods(self) -> list[str]:
        """The methods of figures 1 to 3."""
        return list(self.methods) if self.main.methods is None else self.main.methods

    @property
    def trained_on(self) -> dict[str, str]:
        """Key to the name of a dataset that a model is trained on, the base model that is made here among them."""
        trained = {f"settings.{name}.dataset": setting.dataset for name, setting in self.settings.items()}
        if made := self.model.made_from:
            trained["model.pretraining.dataset"] = made[1].dataset
        return trained

    @property
    def asked(self) -> dict[str, str]:
        """Key to the name of a dataset whose items decide a score or a loss; not those that only decide a rate."""
        tasks = self.evaluation.tasks.present
        asked = {f"evaluation.tasks.{name}.dataset": task.dataset for name, task in tasks.items()}
        asked |= {
            f"settings.{name}.held_out": value.held_out for name, value in self.settings.items() if value.held_out
        }
        if self.evaluation.held_out:
            asked["evaluation.held_out"] = self.evaluation.held_out
        return asked

    def compared_with(self, dataset: str) -> list[str]:
        """The names of what is asked that the records of a dataset that is trained on are compared with.

        Not what is made here with what is made here: its parts share no item, and so small a world repeats itself.
        """
        validation = list(self.sweep.validation.values()) if self.sweep else []
        names = dict.fromkeys([*self.asked.values(), *validation])
        made_here = self.datasets[dataset].identity is None
        return [name for name in names if not (made_here and self.datasets[name].identity is None)]

    def uses(self, dataset: str) -> list[Use]:
        """What the records of a dataset are for."""
        return [use for name, use in self._uses() if name == dataset]

    def _uses(self) -> Iterator[tuple[str, Use]]:
        """The name of each dataset that a key names, and what for."""
        if made := self.model.made_from:
            for name in made[0].datasets:
                yield name, Use("model.tokenizer.datasets", (Document, Instruction))
            yield made[1].dataset, Use("model.pretraining.dataset", (Document,))
        for key, setting in self.settings.items():
            trained: tuple[type[Form], ...] = (Document if setting.regime == "cpt" else Instruction,)
            yield setting.dataset, Use(f"settings.{key}.dataset", trained)
        for key, task in self.evaluation.tasks.present.items():
            forms = self.evaluation.task(key).forms
            yield task.dataset, Use(f"evaluation.tasks.{key}.dataset", forms)
            if drawn := task.drawn():
                yield drawn[0], Use(f"evaluation.tasks.{key}.shots_from", forms)
        for key, setting in self.settings.items():
            if setting.held_out:
                yield setting.held_out, Use(f"settings.{key}.held_out", TASKS[TARGET_LOSS].forms)
        if self.evaluation.held_out:
            yield self.evaluation.held_out, Use("evaluation.held_out", TASKS[SOURCE_LOSS].forms)
        for key, name in (self.sweep.validation if self.sweep else {}).items():
            if key in self.evaluation.tasks.present:  # else `_sweep_is_whole` says so
                yield name, Use(f"sweep.validation.{key}", self.evaluation.task(key).forms)

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        names: tuple[tuple[str, Any], ...] = (
            ("datasets", self.datasets),
            ("settings", self.settings),
            ("methods", self.methods),
            ("blocks", self.blocks),
        )
        for key, declared in names:
            if taken := [name for name in declared if name in RESERVED]:
                raise ValueError(
                    f"{key}.{taken[0]}: is a name that the workflow gives by itself; any is allowed but "
                    f"{_listed(RESERVED)}"
                )
        first: dict[str, str] = {}
        for name, setting in self.settings.items():
            # as a reader sees it
            if (same := first.setdefault(" ".join(setting.label.split()), name)) != name:
                raise ValueError(
                    f"settings.{name}.label: is that of settings.{same} too; figures tell settings by their labels"
                )
        return self

    @model_validator(mode="after")
    def _scale_is_that_of_the_sources(self) -> Self:
        made = [f"datasets.{name}" for name, dataset in self.datasets.items() if dataset.identity is None]
        if self.model.identity is None:
            made.append("model")
        if self.scale == "paper" and made:
            more = f" and {len(made) - 1} more are" if len(made) > 1 else " is"
            raise ValueError(f"scale: {made[0]}{more} made here, so the study is a `demo` (or `own`)")
        return self

    @model_validator(mode="after")
    def _model_has_room(self) -> Self:
        if (shape := self.model.shape) is None:  # not locked: `scripts.data.lock` validates again
            return self
        lengths = {f"settings.{name}.sequence_length": value.sequence_length for name, value in self.settings.items()}
        if self.throughput:
            lengths["throughput.sequence_length"] = self.throughput.sequence_length
        if made := self.model.made_from:
            lengths["model.pretraining.sequence_length"] = made[1].sequence_length
        for key, length in lengths.items():
            if length > shape.context:
                raise ValueError(f"{key}: must not exceed the model's context ({shape.context})")
        for name, task in self.evaluation.tasks.present.items():
            if excess := task.excess(shape.context):
                raise ValueError(f"evaluation.tasks.{name}.{excess}")
        for name, method in self.methods.items():
            try:
                method.check(self.model)
            except ValueError as error:
                raise ValueError(f"methods.{name}.{error}") from error
        for matrix in self.spectra.whole if self.spectra else ():
            found = MATRIX.fullmatch(matrix)
            if found is None or int(found["layer"]) >= shape.layers:
                raise ValueError(
                    f"spectra.whole: {matrix!r} is no matrix of the model; it has {shape.layers} layers, from "
                    f"model.layers.0, each with {', '.join(MATRICES)}"
                )
        return self

    @model_validator(mode="after")
    def _main_and_blocks_are_declared(self) -> Self:
        for key, names, declared in (
            ("main.settings", self.main.settings, self.settings),
            ("main.methods", self.main.methods, self.methods),
        ):
            if unknown := set(names or ()) - set(declared):
                raise ValueError(f"{key}: unknown {_listed(unknown)}; declared are {_listed(declared)}")
        first: dict[str, str] = {}
        for name, method in sorted(self.methods.items()):
            if (same := first.setdefault(repr(method), name)) != name:
                raise ValueError(f"methods.{name}: is the same as methods.{same}; one of them must go")
        for block_name, block in self.blocks.items():
            shown: dict[tuple[Any, ...], int] = {}
            for i, cell in enumerate(block.cells):
                self._check_cell(f"blocks.{block_name}.cells.{i}", cell)
                for point in self._points(cell):
                    if shown.setdefault(point, i) != i:
                        raise ValueError(
                            f"blocks.{block_name}.cells.{i}: figures would call {point[1]} what they call so in "
                            f"cells.{shown[point]}; one of them must go, into another block or altogether"
                        )
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

    def _points(self, cell: "Cell") -> Iterator[tuple[Any, ...]]:
        """What figures tell apart of a cell's conditions: setting, method, rate, duration, and what is changed."""
        setting = self.settings[cell.setting]
        changes = (
            f"{setting.weight_decay if cell.weight_decay is None else cell.weight_decay:g}",
            f"{cell.attention_dropout or 0:g}",
            None if cell.optimizer in (None, self.optimizer) else cell.optimizer.label,
        )
        for method in cell.methods or self.main_methods:
            own = [setting.learning_rates.get(method)]
            for rate, amount in product(cell.learning_rates or own, cell.durations or setting.durations):
                yield cell.setting, method, rate, amount, *changes

    @model_validator(mode="after")
    def _durations_differ_in_batches(self) -> Self:
        for name, setting in self.settings.items():
            own = [cell for block in self.blocks.values() for cell in block.cells if cell.setting == name]
            if isinstance(setting, ContinuedPretraining):
                used = {*setting.durations, *(tokens for cell in own for tokens in cell.durations or ())}
                if setting.sweep:
                    used.add(setting.sweep.duration)
                if len({setting.batches(tokens) for tokens in used}) != len(used):
                    raise ValueError(
                        f"settings.{name}.durations: with those of its blocks and its sweep they must differ in whole "
                        f"batches ({setting.batch_tokens} tokens)"
                    )
            elif setting.hot and setting.sweep and setting.sweep.duration not in setting.durations:
                raise ValueError(
                    f"settings.{name}.sweep.duration: a hot setting has durations {_listed(setting.durations)} alone"
                )
        return self

    def _check_measures(self, key: str, block: "Block") -> None:
        asked = self.evaluation.tasks.present
        unasked = [name for name in COMPOSITE if name not in asked]
        allowed = [*MEASURABLE, *self.evaluation.tasks.own]
        lacking = {
            **{name: f"evaluation.tasks.{name}" for name in BENCHMARKS if name not in asked},
            LANGUAGE_UNDERSTANDING: bool(unasked) and f"evaluation.tasks.{' and '.join(unasked)}",
            SOURCE_LOSS: self.evaluation.held_out is None and "evaluation.held_out",
            SPECTRA: self.spectra is None and "spectra",
        }
        for measure in block.measures:
            if measure not in allowed:
                raise ValueError(f"{key}: {measure!r} must be one of {', '.join(allowed)}")
            if need := lacking.get(measure):
                raise ValueError(f"{key}: {measure} needs {need}")

    @model_validator(mode="after")
    def _names_are_declared(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ from each other")
        made = self.model.made_from
        if made and (own := [name for name, setting in self.settings.items() if setting.tokenizer]):
            raise ValueError(f"settings.{own[0]}.tokenizer: the base model is made here with a tokenizer of its own")
        chats = [
            name for name, s in self.settings.items() if isinstance(s, InstructionFinetuning) and s.template == CHAT
        ]
        if made and chats:
            raise ValueError(
                f"settings.{chats[0]}.template: the base model is made here with a tokenizer that has no chat template"
            )
        for name, use in self._uses():
            if name not in self.datasets:
                raise ValueError(f"{use.key}: unknown dataset {name!r}; declared are {_listed(self.datasets)}")
        for name, setting in self.settings.items():
            rates, methods = set(setting.learning_rates), set(self.methods)
            swept = set(setting.sweep.learning_rates) if setting.sweep else set()
            shown = set(self.main_methods) if name in self.main_settings else set()
            if missing := shown - rates - swept - set(setting.published):
                raise ValueError(f"settings.{name}.learning_rates: no rate for {_listed(missing)}")
            published = set(setting.published)
            for method_name in sorted(published & methods):
                if variant := self.methods[method_name].variant:
                    raise ValueError(
                        f"settings.{name}.published: {method_name} has {_listed(variant)}, which no published "
                        "checkpoint has"
                    )
            for key, given in (("learning_rates", rates), ("sweep.learning_rates", swept), ("published", published)):
                if unknown := given - methods:
                    raise ValueError(
                        f"settings.{name}.{key}: unknown method {_listed(unknown)}; "
                        f"declared are {_listed(self.methods)}"
                    )
        return self

    @model_validator(mode="after")
    def _what_counts_is_asked(self) -> Self:
        counts: list[tuple[str, Literal["learning", "forgetting"], str]] = [
            *((f"settings.{name}.learning", "learning", setting.learning) for name, setting in self.settings.items()),
            *((f"evaluation.forgetting.{i}", "forgetting", task) for i, task in enumerate(self.evaluation.forgetting)),
        ]
        known, tasks = self.evaluation.known, self.evaluation.tasks.present
        for key, measure, task in counts:
            if task not in known or measure not in known[task].measures:
                allowed = ", ".join(name for name, one in known.items() if measure in one.measures)
                raise ValueError(f"{key}: {task!r} must be one of {allowed}, or a task that the study declares")
            held_out = {TARGET_LOSS: f"{key.rpartition('.')[0]}.held_out", SOURCE_LOSS: "evaluation.held_out"}.get(task)
            if held_out is None and task not in tasks:
                raise ValueError(f"{key}: {task} needs evaluation.tasks.{task}")
            if held_out and held_out not in self.asked:
                raise ValueError(f"{key}: {task} needs {held_out}")
        forgetting = self.evaluation.forgetting
        if len(forgetting) > 1 and (falls := [task for task in forgetting if known[task].shown.lower_is_better]):
            raise ValueError(
                f"evaluation.forgetting: {falls[0]} falls where models are better, so it has no mean with the others; "
                "it must stand alone"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_asked_that_was_trained_on(self) -> Self:
        trained = self.trained_on
        for key, name in trained.items():
            if self.datasets[name].part not in (None, "train"):
                raise ValueError(
                    f"{key}: dataset {name!r} is what models are asked, not what they are trained on; a generated one "
                    "needs `split: train`"
                )
        for key, name in self.asked.items():
            dataset = self.datasets[name]
            if dataset.part == "train" or any(dataset.overlaps(self.datasets[one]) for one in trained.values()):
                raise ValueError(
                    f"{key}: dataset {name!r} is trained on; a generated one needs `split: validation` or `split: test`"
                )
        return self

    @model_validator(mode="after")
    def _shots_are_no_items(self) -> Self:
        validation: dict[str, str] = dict(self.sweep.validation) if self.sweep else {}
        for name, task in self.evaluation.tasks.present.items():
            if (drawn := task.drawn()) is None:
                continue
            shots_from, shots = drawn
            key, source = f"evaluation.tasks.{name}", self.datasets[shots_from]
            for items in (task.dataset, *([validation[name]] if name in validation else [])):
                if source.overlaps(self.datasets[items]):
                    raise ValueError(
                        f"{key}.shots_from: dataset {shots_from!r} has the items of {items!r}, which are asked; a "
                        "generated one needs another `split`"
                    )
            if (wanted := self.datasets[task.dataset].items) and source.items and source.items != wanted:
                raise ValueError(f"{key}.shots_from: dataset {shots_from!r} holds {source.items} items, not {wanted}")
            if 0 < source.expected_records < shots:
                raise ValueError(
                    f"{key}.shots: must not exceed the {source.expected_records} records of dataset {shots_from!r}"
                )
        return self

    @model_validator(mode="after")
    def _sweep_is_whole(self) -> Self:
        swept = {name: setting.learning for name, setting in self.settings.items() if setting.sweep}
        if self.sweep is None:
            if swept:
                raise ValueError(
                    f"settings.{next(iter(swept))}.sweep: the study has no key sweep with the rule that chooses one"
                )
            return self
        if not swept:
            raise ValueError("sweep: no setting says which rates to try (settings.NAME.sweep)")
        if len(set(self.sweep.seeds)) != len(self.sweep.seeds):
            raise ValueError("sweep.seeds: seeds must differ from each other")
        if self.sweep.by_loss:
            self._check_held_out(swept, self.sweep)
            return self
        for name, task in swept.items():
            if task not in self.sweep.validation:
                raise ValueError(f"sweep.validation: no items for {task}, the learning task of settings.{name}")
        for task, items in self.sweep.validation.items():
            if task not in self.evaluation.tasks.present:
                raise ValueError(f"sweep.validation.{task}: is no task that the study has under evaluation.tasks")
            tested, decides = self.datasets[self.evaluation.tasks.of(task).dataset], self.datasets[items]
            if decides.overlaps(tested) or decides.part not in (None, "validation"):
                raise ValueError(
                    f"sweep.validation.{task}: dataset {items!r} must not hold test or training items; "
                    "a generated one needs `split: validation`"
                )
            if tested.items and decides.items and tested.items != decides.items:
                raise ValueError(
                    f"sweep.validation.{task}: dataset {items!r} holds {decides.items} items, not {tested.items}"
                )
        return self

    def _check_held_out(self, swept: Iterable[str], sweep: Sweep) -> None:
        if sweep.validation:
            raise ValueError(
                f"sweep.validation: must be absent with the rule {sweep.rule}, by which the records of "
                "settings.NAME.held_out decide; in a study that extends another, `validation: ~` takes it away"
            )
        for name in swept:
            key, held_out = f"settings.{name}.held_out", self.settings[name].held_out
            if not held_out:
                raise ValueError(f"{key}: is missing; by the rule {sweep.rule} its records decide the learning rates")
            for task, asked in self.evaluation.tasks.present.items():
                if self.datasets[held_out].overlaps(self.datasets[asked.dataset]):
                    raise ValueError(
                        f"{key}: dataset {held_out!r} has the items of evaluation.tasks.{task}; by the rule "
                        f"{sweep.rule} its records decide the learning rates, and test items must not"
                    )


def _listed(names: Any) -> str:
    return ", ".join(map(str, sorted(names)))
