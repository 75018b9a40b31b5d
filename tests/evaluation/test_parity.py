"""The harness against lm-eval's command line, which asks lm-eval's own tasks of the same records: every likelihood,
every text that is written, every score.

Of lm-eval's task files nothing is changed but the name, where records come from, and the number of shots.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.common.errors import UserError
from scripts.evaluation.harness import Harness, Result
from tests.evaluation.conftest import CannedLM, random_llama, write_records
from tests.evaluation.real_records import Records, benchmarks, smollm2, stories15m
from tests.vocabularies import llama_2_chatml

NATS = 1e-4
"""How far apart two likelihoods of a text may lie: both sides compute in fp32, in other batches."""
SEED = 7
LM_EVAL_TASKS = Path(lm_eval.__file__).parent / "tasks"


@dataclass(frozen=True)
class Theirs:
    """A task file of lm-eval's own, and what it calls the splits that items and shots come from."""

    file: str
    items: str
    shots: str


FILES = {
    "hellaswag": Theirs("hellaswag/hellaswag.yaml", "validation", "train"),
    "arc_challenge": Theirs("arc/arc_challenge.yaml", "test", "train"),
    "winogrande": Theirs("winogrande/default.yaml", "validation", "train"),
    "gsm8k": Theirs("gsm8k/gsm8k.yaml", "test", "train"),
    "lambada": Theirs("lambada/lambada_openai.yaml", "test", "train"),
    "mmlu": Theirs("mmlu/default/mmlu_{subject}.yaml", "test", "dev"),
}


@dataclass
class Compared:
    """What both sides found for one task."""

    label: str
    items: int
    ours: str
    theirs: str
    cut: int  # items whose context lost its beginning
    farthest: float = 0.0  # two likelihoods, in nats
    differences: list[str] = field(default_factory=list)

    def row(self) -> str:
        task, shots = self.label.rsplit("-", 1)
        differ = len(self.differences)
        return (
            f"| {task} | {shots} | {self.items} | {self.cut} | {self.ours} | {self.theirs} | {self.farthest:.1e} "
            f"| {differ} |"
        )


def table(rows: Sequence[Compared]) -> str:
    head = "| task | shots | items | cut | ours | lm-eval | likelihoods, nats | items that differ |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *(row.row() for row in rows)])


def write_their_tasks(directory: Path, label: str, task: str, shots: int, items: Records, pool: Records) -> list[str]:
    """Files that include lm-eval's own: several for MMLU, of which it has one for each subject. Returns their names."""
    theirs = FILES[task]
    names = []
    for subject in dict.fromkeys(item.get("subject", "") for item in items):
        name = f"{label}-{subject}" if subject else label
        of_subject = [[record for record in some if record.get("subject", "") == subject] for some in (items, pool)]
        splits = dict(zip((theirs.items, theirs.shots), of_subject, strict=True))
        files = write_records(directory, {f"{name}-{split}": records for split, records in splits.items() if records})
        data = {split: str(files[f"{name}-{split}"]) for split, records in splits.items() if records}
        config: dict[str, Any] = {
            "include": str(LM_EVAL_TASKS / theirs.file.format(subject=subject)),
            "task": name,
            "num_fewshot": shots,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": data, "cache_dir": str(directory / "cache")},
        }
        (directory / f"{name}.yaml").write_text(json.dumps(config))
        names.append(name)
    return names


def lm_eval_run(model: Path, tasks: Path, names: Sequence[str], new_tokens: int, bos: str, out: Path) -> Path:
    """What a user types. Returns the directory of results."""
    arguments = f"pretrained={model},dtype=float32" + (",add_bos_token=False" if bos == "none" else "")
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", arguments),
        *("--tasks", ",".join(names), "--include_path", str(tasks), "--seed", str(SEED), "--device", "cpu"),
        *("--gen_kwargs", f"max_gen_toks={new_tokens}", "--output_path", str(out), "--log_samples"),
    ]
    environment = os.environ | {
        **{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "home")},
        **{"OMP_NUM_THREADS": "1", "DISABLE_MULTIPROC": "1"},  # the latter: of lm-eval's bootstrap
    }
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    (results,) = out.glob("*/results_*.json")
    return results.parent


def read_run(directory: Path, name: str, metric: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """lm-eval's numbers of a task by metric, and its samples in the order of the items.

    Of gsm8k's two filters it is the strict one; what the other finds is called `flexible`, as here.
    """
    (results,) = directory.glob("results_*.json")
    (samples,) = directory.glob(f"samples_{name}_*.jsonl")
    found = json.loads(results.read_text())["results"][name]
    filtered = "strict-match" if f"{metric},strict-match" in found else "none"
    numbers = {key.split(",")[0]: value for key, value in found.items() if key.endswith(f",{filtered}")}
    lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    kept = [sample for sample in lines if sample["filter"] == filtered]
    if others := [sample for sample in lines if sample["filter"] == "flexible-extract"]:
        numbers["flexible"] = found["exact_match,flexible-extract"]
        for sample, other in zip(kept, others, strict=True):
            sample["flexible"] = other["exact_match"]
    return numbers, kept


def compare(
    label: str, ours: Result, directory: Path, names: Sequence[str], room: "Room", drops_space: bool
) -> Compared:
    """Where several tasks of lm-eval are one of ours, each counts once."""
    numbers, samples = [], []
    for name in names:
        of_task, of_items = read_run(directory, name, ours["metric"])
        numbers.append(of_task)
        samples += of_items
    mean = {key: sum(each[key] for each in numbers) / len(numbers) for key in ours["metrics"]}
    stderr = sum(each[f"{ours['metric']}_stderr"] ** 2 for each in numbers) ** 0.5 / len(numbers)
    found = Compared(
        label=label,
        items=ours["items"],
        ours=f"{ours['value']:.4f} ± {ours['stderr']:.4f}",
        theirs=f"{mean[ours['metric']]:.4f} ± {stderr:.4f}",
        cut=sum(room.is_cut(sample) for sample in samples),
    )
    for number, (mine, its) in enumerate(zip(ours["samples"], samples, strict=True)):
        differ = [key for key in ours["metrics"] if mine[key] != its[key]]
        if hashlib.sha256((mine["prompts"][0] or mine["completions"][0]).encode()).hexdigest() != its["prompt_hash"]:
            differ.append("prompt")
        if isinstance(its["resps"][0][0], str):
            (text,), ((its_text,),) = mine["completions"], its["resps"]
            # lm-eval decodes what was written by itself: some tokenizers then leave out the space it begins with
            if (text.removeprefix(" ") if drops_space else text) != its_text:
                differ.append(f"text ({text!r}, {its_text!r})")
        else:
            values = mine["loglikelihoods"] if "loglikelihoods" in mine else [mine["loglikelihood"]]
            apart = [abs(a - float(b)) for a, (b, _) in zip(values, its["filtered_resps"], strict=True)]
            found.farthest = max(found.farthest, *apart)
            if max(apart) > NATS:
                differ.append(f"likelihoods ({max(apart)})")
        if differ:
            found.differences.append(f"{label}, item {number}: {', '.join(differ)}")
    if ours["metrics"] != pytest.approx(mean, rel=1e-9) or ours["stderr"] != pytest.approx(stderr, rel=1e-9):
        found.differences.append(f"{label}: {ours['metrics']}, {mean}; {ours['stderr']}, {stderr}")
    return found


@dataclass(frozen=True)
class Room:
    """What a model can hold.

    Attributes:
        positions: tokens.
        prompt: tokens, so that what is written fits behind.
        begins: whether what the tokenizer puts before a text stands there.
    """

    tokenizer: Tokenizer
    positions: int
    prompt: int
    begins: bool

    @classmethod
    def of(cls, model: Path, new_tokens: int, bos: str) -> "Room":
        positions = json.loads((model / "config.json").read_text())["max_position_embeddings"]
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        return cls(tokenizer, positions, positions - new_tokens, bos == "tokenizer")

    def is_cut(self, sample: Mapping[str, Any]) -> bool:
        """Whether the model cannot hold the text of one of a sample's requests."""
        for request in sample["arguments"].values():
            context, rest = request["arg_0"], request["arg_1"]
            # of a text that is read, the last token is no input
            text, most = (context + rest, self.positions + 1) if isinstance(rest, str) else (context, self.prompt)
            if len(self.tokenizer.encode(text, add_special_tokens=self.begins).ids) > most:
                return True
        return False


def both(
    model: Path,
    sets: Mapping[str, tuple[Records, Records]],
    shots: Mapping[str, Sequence[int]],
    new_tokens: int,
    tmp_path: Path,
    *,
    bos: str,
    drops_space: bool,
) -> list[Compared]:
    """Asks each set with each number of shots, here and by lm-eval's command line.

    Args:
        model: its directory.
        sets: of each task the items, and what shots are drawn from.
        shots: of each task the numbers of shots it is asked with.
        new_tokens: where a text that is written is cut off.
        bos: of both sides; what is `tokenizer` in a study is lm-eval's default, `none` is its add_bos_token=False.
        drops_space: whether the tokenizer leaves out the space that a text of its own would begin with.
    """
    tasks, records, pools, names = {}, {}, {}, {}
    (tmp_path / "theirs").mkdir()
    for task, counts in shots.items():
        items, pool = sets[task]
        files = write_records(tmp_path, {task: items, f"{task}-shots": pool})
        for count in counts:
            label = f"{task}-{count}"
            tasks[label] = {"task": task, "shots": count, "bos": bos}
            if task == "gsm8k":
                tasks[label]["max_new_tokens"] = new_tokens
            records[label] = files[task]
            if pool:
                pools[label] = files[f"{task}-shots"]
            names[label] = write_their_tasks(tmp_path / "theirs", label, task, count, items, pool)
    every = [name for some in names.values() for name in some]
    harness = Harness(tasks, records, model, seed=SEED, shots=pools)
    directory = lm_eval_run(model, tmp_path / "theirs", every, new_tokens, bos, tmp_path / "out")
    ours = harness.score(None, None, list(tasks))
    room = Room.of(model, new_tokens, bos)
    return [compare(label, ours[label], directory, names[label], room, drops_space) for label in tasks]


ITEMS: dict[str, Records] = {
    "hellaswag": [
        {
            "activity_label": "Baking cookies",
            "ctx_a": "A woman puts a tray of dough into an oven.",
            "ctx_b": "she",
            "endings": [
                "swims across the lake with it.",
                "paints the  fence [substeps] behind the house.",
                "waits until they are brown and takes them out.",
                "is shown the door of the oven by a dog.",
            ],
            "label": "2",
        },
        {
            "activity_label": "Home and Garden",
            "ctx_a": "[header] How to prune roses [title] Wait for the end of winter. [step] Frost kills young shoots.",
            "ctx_b": "",
            "endings": [
                "[step] Choose a dry day, so that the cuts can heal. [title] Clean the blades.",
                "Bake them at 180 degrees.",
                "They bark when strangers come.",
                "[substeps] Roses are not sold in winter, which is why you should never buy one.",
            ],
            "label": "0",
        },
        {
            "activity_label": "Long jump",
            "ctx_a": "A boy runs down a track towards a sand pit.",
            "ctx_b": "the boy then",
            "endings": ["reads the license aloud.", "folds the water.", "sells his copyright.", "jumps far."],
            "label": "3",
        },
    ],
    "arc_challenge": [
        {
            "question": "Which of these is a source of energy that does not run out?",
            "choices": {"text": ["coal", "wind", "natural gas", "oil"], "label": ["A", "B", "C", "D"]},
            "answerKey": "B",
        },
        {
            "question": "What causes day and night on Earth?",
            "choices": {
                "text": ["its rotation about its own axis", "its path around the Sun", "the Moon"],
                "label": ["1", "2", "3"],
            },
            "answerKey": "1",
        },
        {
            "question": "A ball rolls down a hill. What happens to its energy?",
            "choices": {
                "text": [
                    "Potential energy becomes kinetic energy.",
                    "It is destroyed.",
                    "None of it changes.",
                    "It grows.",
                ],
                "label": ["A", "B", "C", "D"],
            },
            "answerKey": "A",
        },
    ],
    "winogrande": [
        {
            "sentence": "Anna lent her notes to Maria because _ had been ill for a week.",
            "option1": "Anna",
            "option2": "Maria",
            "answer": "2",
        },
        {
            "sentence": "The suitcase did not fit into the trunk because the _ was too small.",
            "option1": "suitcase",
            "option2": "trunk",
            "answer": "2",
        },
        {"sentence": "_ paid for what Tom had broken.", "option1": "Jim", "option2": "Tom", "answer": "1"},
    ],
    "gsm8k": [
        {
            "question": "A box holds 12 eggs. How many eggs are in 4 boxes?",
            "answer": "Four boxes hold 4 * 12 = <<4*12=48>>48 eggs.\n#### 48",
        },
        {
            "question": "Lee earns $1,200 a month and spends a quarter of it on rent. How much is left?",
            "answer": "The rent is 1200 / 4 = $<<1200/4=300>>300.\nLee has $<<1200-300=900>>900 left.\n#### 900",
        },
        {"question": "Zoé's 3 cats eat 2 cans each.  How many cans?", "answer": "3 * 2 = <<3*2=6>>6 cans.\n#### 6"},
    ],
    "lambada": [
        {"text": "He looked for the license all day, and in the end, under the table, he found the license"},
        {"text": '"Do you see the boat?" she asked. I looked at the sea again. "No," I said, "I see no boat'},
        {"text": "first came the rain , then the snow , and last of all , late in the night , the wind"},
    ],
    "mmlu": [
        {
            "subject": subject,
            "question": question,
            "choices": choices,
            "answer": answer,
        }
        for subject, question, choices, answer in (
            ("astronomy", "Which planet is the largest?", ["Mars", "Jupiter", "Venus", "Earth"], 1),
            ("astronomy", " What is the Sun?\n", ["a planet", "a moon", "a star", "a comet"], 2),
            ("world_religions", "Which text is read in a synagogue?", ["Torah", "Vedas", "Gathas", "Sutras"], 0),
            ("world_religions", "Where is Mecca?", ["Egypt", "India", "Iran", "Saudi Arabia"], 3),
        )
    ],
}
"""In the format of the real sets, with their peculiarities."""
POOLS: dict[str, Records] = {task: items[::-1] for task, items in ITEMS.items()} | {"lambada": []}


def test_a_random_model_scores_as_with_lm_evals_command_line(tmp_path: Path) -> None:
    """With a tokenizer that puts a token before a text, and contexts that the model can hold, and such that it
    cannot."""
    torch.set_num_threads(1)
    model = tmp_path / "model"
    positions, new_tokens = 128, 12
    random_llama(5, vocab_size=1024, max_position_embeddings=positions, initializer_range=0.3).save_pretrained(model)
    llama_2_chatml(model)
    shots = dict.fromkeys(ITEMS, (0, 2)) | {"lambada": (0,), "mmlu": (1,)}
    sets = {task: (ITEMS[task], POOLS[task]) for task in ITEMS}
    found = both(model, sets, shots, new_tokens, tmp_path, bos="tokenizer", drops_space=True)
    print(table(found))
    assert not [difference for one in found for difference in one.differences]
    cut = {one.label for one in found if one.cut}
    assert {"hellaswag-2", "gsm8k-2"} <= cut < {one.label for one in found}


def scored_by_both(
    here: CannedLM, there: CannedLM, task: str, items: Records, base: Path, tmp_path: Path, **settings: Any
) -> tuple[Result, dict[str, Any]]:
    """Asks one model here and the other by lm-eval, of its own task, each item with one shot; what both return."""
    files = write_records(tmp_path, {"items": items, "shots": POOLS[task]})
    asked, records, shots = {"task": task, "shots": 1, **settings}, {task: files["items"]}, {task: files["shots"]}
    ours = Harness({task: asked}, records, base, seed=SEED, shots=shots).score_lm(here, [task])[task]
    write_their_tasks(tmp_path, task, task, 1, items, POOLS[task])
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    return ours, lm_eval.simple_evaluate(there, tasks=[task], task_manager=manager, fewshot_random_seed=SEED)


ANSWERS = [
    # to the items of gsm8k in their order, which are 48, 900 and 6; and whether they are right
    ((" 4 * 12 = 48\n#### 48", 1), (" 900 are left.\n#### 900", 1), (" 3 * 2 = 6\n#### 6", 1)),
    ((" #### 48.", 1), (" #### 9,00", 1), (" #### 6\n\nThat is\n#### 7", 1)),
    ((" The answer is 48", 0), (" #### $900", 0), (" ###6", 0)),
    ((" #### 84", 0), (" #### -900", 0), (" 6\n#### 6.0", 0)),
    (("", 0), (" #### 900\n", 1), (" ", 0)),
]


def test_scripted_answers_to_gsm8k(base: Path, tmp_path: Path) -> None:
    texts, right = zip(*(answer for answers in ANSWERS for answer in answers), strict=True)
    here, there = CannedLM(texts), CannedLM(texts)
    items = ITEMS["gsm8k"] * len(ANSWERS)
    ours, theirs = scored_by_both(here, there, "gsm8k", items, base, tmp_path, max_new_tokens=16)
    assert [context for context, _ in here.asked] == [context for context, _ in there.asked]
    strict = [sample for sample in theirs["samples"]["gsm8k"] if sample["filter"] == "strict-match"]
    assert [sample["exact_match"] for sample in ours["samples"]] == list(right)
    assert [sample["exact_match"] for sample in strict] == list(right)
    scores = theirs["results"]["gsm8k"]
    assert ours["value"] == pytest.approx(scores["exact_match,strict-match"])
    assert ours["stderr"] == pytest.approx(scores["exact_match_stderr,strict-match"])


@pytest.mark.parametrize("task", ["hellaswag", "winogrande"])
def test_shots_are_those_that_lm_evals_own_file_draws(task: str, base: Path, tmp_path: Path) -> None:
    choices = sum(len(item.get("endings", ("option1", "option2"))) for item in ITEMS[task])
    here, there = (CannedLM(loglikelihoods=[-1.0] * choices) for _ in range(2))
    scored_by_both(here, there, task, ITEMS[task], base, tmp_path)
    assert here.asked == there.asked


@dataclass(frozen=True)
class Real:
    """A real model and how much it is asked.

    Attributes:
        make: makes it.
        knows: a text, and how the model goes on.
        items: as in `benchmarks`.
        shots: of each set but lambada, whose task in lm-eval has none.
        bos: as in a study.
    """

    make: Callable[[Path], Path]
    knows: tuple[str, str]
    items: int
    shots: Sequence[int]
    bos: str
    drops_space: bool


STORY = ("Once upon a time, there was a little", "girl named Lily.")
REAL = {
    "stories15M": Real(stories15m, STORY, 250, (0, 2), "tokenizer", True),
    "stories15M, bos: none": Real(stories15m, STORY, 50, (0, 2), "none", True),
    "SmolLM2-135M": Real(smollm2, ("The capital of France is", " Paris."), 10, (0, 2), "tokenizer", False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_a_real_model_scores_real_records_as_with_lm_evals_command_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real, new_tokens = REAL[name], 48
    torch.set_num_threads(1)
    kept = Path(os.environ.get("PARITY_PACKAGES", tmp_path / "packages"))
    try:
        sets, model = benchmarks(kept, real.items), real.make(kept)
    except UserError as error:
        pytest.skip(str(error))
    assert goes_on(model, *real.knows)
    shots = {task: real.shots if pool else (0,) for task, (_, pool) in sets.items()}
    found = both(model, sets, shots, new_tokens, tmp_path, bos=real.bos, drops_space=real.drops_space)
    with capsys.disabled():
        print(f"\n{name}\n\n{table(found)}")
    assert not [difference for one in found for difference in one.differences]


def goes_on(model: Path, text: str, rest: str) -> bool:
    """Whether a model, which was made here of its weights, is what its makers trained."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    ids = tokenizer(text, return_tensors="pt").input_ids
    written = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(written[0, ids.shape[1] :])).startswith(rest)
