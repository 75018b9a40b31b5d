"""What the paper claims, how any study is asked whether it is so, and the verdicts.

A claim is one comparison of models or several. Durations stand in relation to the longest, ranks to each other, so
that a study of other durations and ranks is asked the same. `PAPER` has the paper's own numbers.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scripts.artifacts.contrasts import (
    EQUAL,
    ERROR,
    MARGIN,
    Arm,
    Contrast,
    Effect,
    ItemScores,
    Measure,
    Model,
    Statistic,
    Verdict,
    equal_learning,
    estimate,
    judge_all,
    judge_equal,
    judge_more,
    mean_of,
)
from scripts.components.methods import METHODS
from scripts.plan.evaluation import BASE

MINUS, PLUS_MINUS = "\N{MINUS SIGN}", "\N{PLUS-MINUS SIGN}"


# -- what a study has -----------------------------------------------------------------------------


class LackingError(Exception):
    """A study does not have what a comparison is about; the message says what it lacks."""


class Design:
    """The settings, methods and durations of a study, asked for as the claims name them.

    Every question raises LackingError where the study does not have what it asks for; so does one for arms of which
    one diverged, because the others alone would be compared with what has all.
    """

    def __init__(self, scores: ItemScores) -> None:
        self.scores = scores
        self._trained = list(scores.trained.values())
        self.settings = tuple(dict.fromkeys(model.setting for model in self._trained))
        self.roles = {model.setting: model.role or model.setting for model in self._trained}
        """Setting to its domain and regime, by which claims ask for it, whatever the study calls it."""

    def setting(self, role: str) -> str:
        """The setting of a domain and regime, as `code-cpt`."""
        found = [setting for setting, own in self.roles.items() if own == role]
        if len(found) != 1:
            several = f"{len(found)} settings that are {role} ({', '.join(found)}), one is needed"
            raise LackingError(f"the study has {several if found else f'no setting {role}'}")
        return found[0]

    def durations(self, setting: str, low: float = 0.0, high: float = 1.0) -> list[float]:
        """The durations from `low` to `high` times the longest, in order."""
        found = sorted({model.duration_value for model in self._of(setting)})
        rounding = 1e-9
        inside = [d for d in found if low - rounding <= d / found[-1] <= high + rounding]
        if not inside:
            raise LackingError(f"{setting} has no duration from {low:g} to {high:g} of its longest")
        return inside

    def nearest(self, setting: str, share: float) -> float:
        """The duration nearest, in ratio, to `share` times the longest."""
        found = self.durations(setting)
        return min(found, key=lambda duration: abs(math.log(duration / (share * found[-1]))))

    def ranks(self, setting: str, least: int = 1) -> list[int]:
        """The ranks of LoRA, highest first; at least `least` of them."""
        found = sorted({model.rank for model in self._of(setting) if model.kind == "lora"}, reverse=True)
        if len(found) < least:
            raise LackingError(f"{setting} has {len(found)} rank{'s' * (len(found) != 1)} of LoRA, {least} are needed")
        return found

    def full(self, setting: str, durations: Collection[float] | None = None) -> list[Arm]:
        """Full finetuning, at every duration unless some are given."""
        return self._arms(setting, "full", None, durations)

    def lora(self, setting: str, rank: int | None = None, durations: Collection[float] | None = None) -> list[Arm]:
        """LoRA, of every rank unless one is given, at every duration unless some are."""
        return self._arms(setting, "lora", rank, durations)

    def all(self, setting: str, durations: Collection[float] | None = None) -> list[Arm]:
        """Full finetuning and LoRA of every rank."""
        return [*self.full(setting, durations), *self.lora(setting, None, durations)]

    def said(self, setting: str, durations: Iterable[float]) -> str:
        """`at 64K tokens`, or `mean of 32K to 256K tokens`."""
        names = {model.duration_value: model.duration for model in self._of(setting)}
        ends = [names[duration] for duration in sorted(durations)]
        return f"at {ends[0]}" if len(ends) == 1 else f"mean of {ends[0].split()[0]} to {ends[-1]}"

    def _of(self, setting: str) -> list[Model]:
        return [model for model in self._trained if model.setting == setting]

    def _arms(self, setting: str, kind: str, rank: int | None, durations: Collection[float] | None) -> list[Arm]:
        found = [
            (model.setting, model.method, model.duration_value)
            for model in self._of(setting)
            if model.kind == kind and rank in (None, model.rank)
            if durations is None or model.duration_value in durations
        ]
        if not found:
            raise LackingError(f"{setting} has no model of {METHODS[kind].label} there")
        if gone := [
            model for arm, model in self.scores.trained.items() if arm in self.scores.diverged.intersection(found)
        ]:
            named = ", ".join(f"{model.setting} {model.method} at {model.duration}" for model in gone)
            raise LackingError(f"training of {named} diverged")
        return found


# -- the claims -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One comparison of a claim: is the statistic above 0 (`more`), or about 0 (`equal`)?"""

    key: str
    """Of the paper's numbers in `PAPER`."""
    name: str
    text: str
    rule: Literal["more", "equal"]
    statistic: Statistic | None
    """None where the study lacks what it needs; then `text` says what."""


@dataclass(frozen=True)
class Claim:
    """What the paper says (`statement`), and how any study is asked for it (`asked`)."""

    name: str
    title: str
    statement: str
    asked: str
    questions: Callable[[Design], list[Question]]


def _each(names: Mapping[str, str], make: Callable[[str], tuple[str, Statistic]]) -> list[Question]:
    """A directional comparison for each name; where the study lacks what one of them needs, the others still count.

    Args:
        names: to the keys of the paper's numbers.
    """
    questions = []
    for name, key in names.items():
        try:
            text, statistic = make(name)
            questions.append(Question(key, name, text, "more", statistic))
        except LackingError as lacking:
            questions.append(Question(key, name, str(lacking), "more", None))
    return questions


def _order(measure: Measure, sides: Sequence[tuple[str, Collection[Arm]]], text: str) -> list[Question]:
    """Each side above the next, in mean score."""
    questions = []
    for place, ((above, higher), (below, lower)) in enumerate(itertools.pairwise(sides)):
        statistic = mean_of(measure, higher) - mean_of(measure, lower)
        questions.append(
            Question(str(place), f"{above} over {below}", f"{above} minus {below}, {text}", "more", statistic)
        )
    return questions


def _learns_less(design: Design) -> list[Question]:
    def make(setting: str) -> tuple[str, Statistic]:
        text = f"full finetuning minus LoRA of all ranks, {design.said(setting, design.durations(setting))}"
        return text, mean_of("learning", design.full(setting)) - mean_of("learning", design.lora(setting))

    return _each(design.roles, make)


def _forgets_less(design: Design) -> list[Question]:
    def make(setting: str) -> tuple[str, Statistic]:
        text = f"LoRA of all ranks minus full finetuning, {design.said(setting, design.durations(setting))}"
        return text, mean_of("forgetting", design.lora(setting)) - mean_of("forgetting", design.full(setting))

    return _each(design.roles, make)


def _forgets_less_at_equal_learning(design: Design) -> list[Question]:
    def make(setting: str) -> tuple[str, Statistic]:
        base = (setting, BASE, 0.0)
        if base not in design.scores.models:
            raise LackingError("the base model was not asked")
        path = ((base,), *(tuple(design.full(setting, [duration])) for duration in design.durations(setting)))
        arms = sorted(design.lora(setting), key=lambda arm: arm[2])
        methods = [[arm for arm in arms if arm[1] == method] for method in {arm[1]: None for arm in arms}]
        statistic = equal_learning(design.scores, methods, path)
        if statistic is None:
            raise LackingError(f"{setting} has no LoRA model that learned as much as full finetuning on its way")
        count = f"{len(statistic.compared)} of {len(arms)} LoRA models"
        return f"{count} minus full finetuning when it had learned as much", statistic

    return _each(design.roles, make)


def _code_cpt_order(design: Design) -> list[Question]:
    setting = design.setting("code-cpt")
    durations = design.durations(setting, low=1 / 10)
    sides = [("full", design.full(setting, durations)), *_by_rank(design, setting, durations)]
    return _order("learning", sides, design.said(setting, durations))


def _code_cpt_lag(design: Design) -> list[Question]:
    setting = design.setting("code-cpt")
    return [_about(design, setting, design.nearest(setting, 1), design.nearest(setting, 1 / 5))]


def _code_ift_order(design: Design) -> list[Question]:
    setting = design.setting("code-ift")
    shortest = design.durations(setting)[:1]
    return _order("learning", _by_rank(design, setting, shortest), design.said(setting, shortest))


def _code_ift_match(design: Design) -> list[Question]:
    setting = design.setting("code-ift")
    return [_about(design, setting, design.nearest(setting, 1 / 4), design.nearest(setting, 1 / 2))]


def _by_rank(design: Design, setting: str, durations: Collection[float]) -> list[tuple[str, list[Arm]]]:
    return [(f"r={rank}", design.lora(setting, rank, durations)) for rank in design.ranks(setting, least=2)]


def _about(design: Design, setting: str, lora: float, full: float) -> Question:
    """Is LoRA of the highest rank at one duration about where full finetuning is at another?"""
    if lora == full:
        raise LackingError(f"{setting} has too few durations: LoRA's and full finetuning's would be the same")
    rank = design.ranks(setting)[0]
    text = f"r={rank} {design.said(setting, [lora])} minus full finetuning {design.said(setting, [full])}"
    ours, theirs = design.lora(setting, rank, [lora]), design.full(setting, [full])
    return Question("", f"r={rank}", text, "equal", mean_of("learning", ours) - mean_of("learning", theirs))


def _math_cpt_gap(design: Design) -> list[Question]:
    setting = design.setting("math-cpt")
    late = design.durations(setting, low=1 / 5)
    early = [duration for duration in design.durations(setting) if duration not in late]
    if not early:
        raise LackingError(f"{setting} has no duration below a fifth of its longest")
    rank = design.ranks(setting)[0]

    def gap(durations: Collection[float]) -> Contrast:
        full, lora = design.full(setting, durations), design.lora(setting, rank, durations)
        return mean_of("learning", full) - mean_of("learning", lora)

    later = f"full finetuning minus r={rank}, {design.said(setting, late)}"
    text = f"{later}, minus the same {design.said(setting, early)}"
    return [
        Question("gap", "gap", later, "more", gap(late)),
        Question("opening", "opening", text, "more", gap(late) - gap(early)),
    ]


def _math_ift_match(design: Design) -> list[Question]:
    setting = design.setting("math-ift")
    durations = design.durations(setting, low=1 / 4, high=1 / 2)
    full = mean_of("learning", design.full(setting, durations))
    questions = []
    for place, (name, arms) in enumerate(_by_rank(design, setting, durations)[:2]):
        text = f"{name} minus full finetuning, {design.said(setting, durations)}"
        questions.append(Question(str(place), name, text, "equal", mean_of("learning", arms) - full))
    return questions


def _ift_forgets_more(design: Design) -> list[Question]:
    def make(domain: str) -> tuple[str, Statistic]:
        cpt, ift = (design.setting(f"{domain}-{regime}") for regime in ("cpt", "ift"))
        text = f"{cpt} minus {ift}, mean of all methods and durations"
        return text, mean_of("forgetting", design.all(cpt)) - mean_of("forgetting", design.all(ift))

    return _each({"code": "code", "math": "math"}, make)


def _code_forgets_more(design: Design) -> list[Question]:
    def make(regime: str) -> tuple[str, Statistic]:
        sums, code = (design.setting(f"{domain}-{regime.lower()}") for domain in ("math", "code"))
        text = f"{sums} minus {code}, mean of all methods and durations"
        return text, mean_of("forgetting", design.all(sums)) - mean_of("forgetting", design.all(code))

    return _each({"CPT": "CPT", "IFT": "IFT"}, make)


def _forgetting_grows(design: Design) -> list[Question]:
    def make(setting: str) -> tuple[str, Statistic]:
        first, last = design.durations(setting)[0], design.durations(setting)[-1]
        if first == last:
            raise LackingError(f"{setting} has one duration, two are needed")
        text = f"{design.said(setting, [first])} minus {design.said(setting, [last])}, mean of all methods"
        short, long = design.all(setting, [first]), design.all(setting, [last])
        return text, mean_of("forgetting", short) - mean_of("forgetting", long)

    return _each(design.roles, make)


def _forgetting_order(design: Design) -> list[Question]:
    ranks = reversed(design.ranks(design.settings[0], least=2))
    sides = [(f"r={rank}", [arm for s in design.settings for arm in design.lora(s, rank)]) for rank in ranks]
    sides.append(("full", [arm for setting in design.settings for arm in design.full(setting)]))
    return _order("forgetting", sides, "mean of all settings and durations")


def _not_measured(design: Design) -> list[Question]:
    raise LackingError("not measured by this study")


CLAIMS = (
    Claim(
        "learns-less",
        "LoRA learns less",
        "LoRA learns less of the target task than full finetuning: the first half of the title.",
        "In every setting, accuracy on its learning task, mean over all ranks and durations. That mean is our choice: "
        "the paper looks at each.",
        _learns_less,
    ),
    Claim(
        "forgets-less",
        "LoRA forgets less",
        "LoRA keeps more of what the base model could do than full finetuning: the second half of the title.",
        "In every setting, the forgetting average, mean over all ranks and durations. That mean is our choice.",
        _forgets_less,
    ),
    Claim(
        "forgets-less-at-equal-learning",
        "LoRA forgets less at equal learning",
        "LoRA is a better trade-off, not only a weaker dose: it forgets less than full finetuning that has learned no "
        "more (the paper's figure 3).",
        "In every setting, each LoRA model's forgetting average minus that of full finetuning when it had learned as "
        "much: at the first such point on straight lines from the base model through its durations. Compared are LoRA "
        "models that learned more than the base model and every shorter training of their method, and not more than "
        "full finetuning ever does. All this is our choice; the rule is that both sides stop in time. Straight lines "
        "cut corners: where full finetuning's true curve bulges between two durations, they flatter LoRA a little.",
        _forgets_less_at_equal_learning,
    ),
    Claim(
        "code-cpt-order",
        "Rank decides in code CPT",
        "In continued pretraining on code, full finetuning learns more than LoRA, a higher rank more than a lower.",
        "Each method against the next, mean over the durations of at least a tenth of the longest (in the paper: from "
        "2B of 20B tokens on).",
        _code_cpt_order,
    ),
    Claim(
        "code-cpt-lag",
        "High rank lags in code CPT",
        "In continued pretraining on code, LoRA of the highest rank ends about where full finetuning is after a fifth.",
        "LoRA at the longest duration, full finetuning at the one nearest in ratio to a fifth of it (in the paper: 20B "
        "and 4B tokens).",
        _code_cpt_lag,
    ),
    Claim(
        "code-ift-order",
        "Rank decides early in code IFT",
        "After the shortest instruction finetuning on code, a higher rank has learned more than a lower.",
        "Each rank against the next, at the shortest duration (in the paper: 1 epoch).",
        _code_ift_order,
    ),
    Claim(
        "code-ift-match",
        "High rank matches full in code IFT",
        "In instruction finetuning on code, LoRA of the highest rank is after a quarter of the training about where "
        "full finetuning is after half.",
        "LoRA at the duration nearest in ratio to a quarter of the longest, full finetuning at the one nearest to half "
        "(in the paper: 4 and 8 of 16 epochs).",
        _code_ift_match,
    ),
    Claim(
        "math-cpt-gap",
        "A gap opens in math CPT",
        "In continued pretraining on mathematics, full finetuning and LoRA of the highest rank learn alike at first; "
        "then full finetuning is ahead.",
        "Mean over the durations of at least a fifth of the longest: is there a gap, and is it wider than before (in "
        "the paper: from 4B of 20B tokens on)?",
        _math_cpt_gap,
    ),
    Claim(
        "math-ift-match",
        "High ranks match full in math IFT",
        "In instruction finetuning on mathematics, the two highest ranks come about level with full finetuning.",
        "Each of the two, mean over the durations from a quarter to half of the longest (in the paper: 4 and 8 of 16 "
        "epochs).",
        _math_ift_match,
    ),
    Claim(
        "ift-forgets-more",
        "IFT forgets more than CPT",
        "Instruction finetuning makes a model forget more than continued pretraining.",
        "For code and for mathematics, the forgetting average, mean over all methods and over the durations of each. "
        "That mean is our choice: tokens and epochs have no common measure.",
        _ift_forgets_more,
    ),
    Claim(
        "code-forgets-more",
        "Code forgets more than mathematics",
        "Training on code makes a model forget more than training on mathematics.",
        "For CPT and for IFT, the forgetting average, mean over all methods and durations. That mean is our choice.",
        _code_forgets_more,
    ),
    Claim(
        "forgetting-grows",
        "Forgetting grows with duration",
        "The longer a model is trained, the more it forgets.",
        "In every setting, the forgetting average at the shortest minus at the longest duration, mean over all methods "
        "(our choice).",
        _forgetting_grows,
    ),
    Claim(
        "forgetting-order",
        "Forgetting follows the rank",
        "The higher the rank, the more is forgotten, and full finetuning forgets most.",
        "Each method against the next, the forgetting average, mean over all settings and durations (our choice).",
        _forgetting_order,
    ),
    Claim(
        "pass-at-k",
        "Full finetuning leads where few programs are sampled",
        "On HumanEval full finetuning is ahead while few programs a problem are sampled; beyond 16 the gap shrinks.",
        "It would take up to 256 sampled programs a problem.",
        _not_measured,
    ),
    Claim(
        "high-rank-changes",
        "Full finetuning changes weights at high rank",
        "What full finetuning adds to the weights has a rank of 10 to 100 times that of a usual LoRA.",
        "It would take the singular values of the weights' changes.",
        _not_measured,
    ),
)

# The same comparisons of the means that the paper prints (v2, tables S1 to S8: one run each, no standard errors).
PAPER = {
    "learns-less": {"code-cpt": "+.044", "code-ift": "+.071", "math-cpt": "+.041", "math-ift": "+.043"},
    "forgets-less": {"code-cpt": "+.042", "code-ift": "+.107", "math-cpt": "+.008", "math-ift": "+.018"},
    "forgets-less-at-equal-learning": {
        "code-cpt": "+.010",
        "code-ift": "+.048",
        "math-cpt": "+.001",
        "math-ift": "+.005",
    },
    "code-cpt-order": {"0": ".235 vs .192", "1": ".192 vs .175", "2": ".175 vs .156"},
    "code-cpt-lag": {"": ".224 vs .218"},
    "code-ift-order": {"0": ".299 vs .249", "1": ".249 vs .197"},
    "code-ift-match": {"": ".498 vs .497"},
    "math-cpt-gap": {"gap": "+.061", "opening": "+.062"},
    "math-ift-match": {"0": ".630 vs .631", "1": ".624 vs .631"},
    "ift-forgets-more": {"code": ".627 vs .590", "math": ".633 vs .597"},
    "code-forgets-more": {"CPT": ".633 vs .627", "IFT": ".597 vs .590"},
    "forgetting-grows": {
        "code-cpt": ".640 vs .606",
        "code-ift": ".639 vs .513",
        "math-cpt": ".638 vs .625",
        "math-ift": ".614 vs .573",
    },
    "forgetting-order": {"0": ".636 vs .624", "1": ".624 vs .619", "2": ".619 vs .587"},
}


# -- judgement ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A question of a claim, judged. `found` is None where the study lacks what it needs."""

    question: Question
    paper: str
    found: Effect | None
    level: float
    """Of the test that the comparison fails: 5 % divided by the number of comparisons of the claim."""
    verdict: Verdict
    reason: str
    models: tuple[str, ...]
    """The fingerprints of the models that were compared."""


@dataclass(frozen=True)
class Judged:
    """A claim, its verdict, and the comparisons that it rests on."""

    claim: Claim
    verdict: Verdict
    sentence: str
    comparisons: tuple[Comparison, ...]


def judge(models: Collection[Model], forgetting: Sequence[str]) -> list[Judged]:
    """The verdict on every claim.

    Args:
        models: the models of a study with their scores, see `ItemScores`; at least one of them was trained.
        forgetting: the tasks of the forgetting average.
    """
    design = Design(ItemScores(models, forgetting))
    return [_judge(claim, design) for claim in CLAIMS]


def _judge(claim: Claim, design: Design) -> Judged:
    try:
        questions = claim.questions(design)
    except LackingError as lacking:
        questions = [Question("", "all", str(lacking), "more", None)]
    level = ERROR / max(sum(question.statistic is not None for question in questions), 1)
    comparisons = tuple(_compare(claim, question, design.scores, level) for question in questions)
    verdict = judge_all([comparison.verdict for comparison in comparisons])
    return Judged(claim, verdict, _sentence(verdict, comparisons), comparisons)


def _compare(claim: Claim, question: Question, scores: ItemScores, level: float) -> Comparison:
    paper = PAPER.get(claim.name, {}).get(question.key, "")
    if question.statistic is None:
        return Comparison(question, paper, None, level, Verdict.OPEN, question.text, ())
    found = estimate(scores, question.statistic)
    verdict = (judge_more if question.rule == "more" else judge_equal)(found, level)
    models = {model.fingerprint for arm in question.statistic.arms for model in scores.models[arm].values()}
    reason = f"{difference(found)}, {_reason(question, found, verdict, level)}"
    return Comparison(question, paper, found, level, verdict, reason, tuple(sorted(models)))


def _reason(question: Question, found: Effect, verdict: Verdict, level: float) -> str:
    if question.rule == "more":
        if verdict is Verdict.HOLDS:
            return "clearly above 0"
        if verdict is Verdict.FAILS:
            return f"clearly below {hundredths(MARGIN)}"
        if found.upper() < MARGIN:
            tests = round(ERROR / level)
            return f"below {hundredths(MARGIN)} at 5 %, but {tests} comparisons need it at 5 %/{tests}"
        return f"where only a true difference of {unsigned(found.detectable)} or more would be found"
    if verdict is Verdict.HOLDS:
        return f"clearly within {PLUS_MINUS}{hundredths(EQUAL)}"
    if verdict is Verdict.FAILS:
        return f"clearly {'ahead' if found.value > 0 else 'behind'} by more than {hundredths(EQUAL)}"
    if (half := found.upper() - found.value) >= EQUAL:
        return f"too coarse to show equality: the 90 % interval reaches {unsigned(half)} to either side"
    return f"neither clearly within {PLUS_MINUS}{hundredths(EQUAL)} nor clearly outside"


def _sentence(verdict: Verdict, comparisons: Sequence[Comparison]) -> str:
    """The verdict in a sentence, for the summary."""
    if len(comparisons) == 1:
        sentence = comparisons[0].reason
    elif verdict is Verdict.HOLDS:
        values = sorted(comparison.found.value for comparison in comparisons if comparison.found)
        sentence = f"in all {len(values)} comparisons: differences from {signed(values[0])} to {signed(values[-1])}"
    else:
        said = []
        for kind, start in ((Verdict.FAILS, "not for"), (Verdict.OPEN, "undecided for"), (Verdict.HOLDS, "holds for")):
            if those := [comparison for comparison in comparisons if comparison.verdict is kind]:
                said.append(f"{start} {', '.join(map(_short, those))}")
        sentence = "; ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _short(comparison: Comparison) -> str:
    name, found = comparison.question.name, comparison.found
    if found is None:
        return f"{name} ({comparison.reason})"
    if comparison.verdict is not Verdict.OPEN:
        return f"{name} ({difference(found)})"
    if comparison.question.rule == "more":
        return f"{name} ({difference(found)}, 80 % power from {unsigned(found.detectable)})"
    return f"{name} ({difference(found)}, 90 % interval {interval(found)})"


def difference(found: Effect) -> str:
    """An estimate and its standard error: `+.013` and `.031` with a plus-minus sign between."""
    return f"{signed(found.value)} {PLUS_MINUS} {unsigned(found.stderr)}"


def interval(found: Effect) -> str:
    """The 90 % interval: 5 % lie beyond either end."""
    return f"{signed(found.lower())} to {signed(found.upper())}"


def unsigned(value: float) -> str:
    """Three decimals, as short as accuracies are written in tables: `.013`."""
    return f"{abs(value):.3f}".removeprefix("0")


def hundredths(value: float) -> str:
    """A margin: `.05`."""
    return f"{value:.2f}".removeprefix("0")


def signed(value: float) -> str:
    """`+.013`; without a sign where it rounds to 0."""
    digits = unsigned(value)
    return digits if float(digits) == 0 else ("+" if value > 0 else MINUS) + digits
