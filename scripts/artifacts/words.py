"""What titles and captions say of the study: the words in braces, as `{learning}`, that no registry can know."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from scripts.components.asking.shown import Shown
from scripts.plan.registry import Artifact
from scripts.study.schema import REGIMES, Study

if TYPE_CHECKING:
    from scripts.artifacts.points import Points


def of_points(artifact: Artifact, points: "Points") -> Artifact:
    """The artifact in the words of what is drawn."""
    panels = points.panels
    return _told(
        artifact,
        [panel.learning_task for panel in panels],
        points.averaged,
        points.known,
        [panel.regime for panel in panels],
        [panel.domain for panel in panels],
    )


def of_study(artifact: Artifact, study: Study) -> Artifact:
    """The artifact in the words of a study; of one that lacks its setting, in those of the setting's name."""
    block = study.blocks.get(artifact.block)
    names = [cell.setting for cell in block.cells] if block else study.main_settings or list(study.settings)
    shown = [study.settings[name] for name in names if artifact.setting in (None, name)]
    domain, _, regime = (artifact.setting or "").rpartition("-")
    return _told(
        artifact,
        [one.learning for one in shown],
        study.evaluation.forgetting,
        {name: task.shown for name, task in study.evaluation.known.items()},
        [one.regime for one in shown] or [regime],
        [one.domain for one in shown] or [domain],
    )


def _told(
    artifact: Artifact,
    learning: Iterable[str],
    forgetting: Iterable[str],
    known: Mapping[str, Shown],
    regimes: Iterable[str],
    domains: Iterable[str],
) -> Artifact:
    words = {
        "learning": _listed([known[task].label for task in learning]) or "Learning",
        "forgetting": _forgetting([known[task] for task in forgetting]),
        "regimes": _listed([REGIMES.get(regime, regime) for regime in regimes]),
        "domains": _listed(domains),
    }
    texts = {"title": artifact.title, "caption": artifact.caption}
    told = {key: text.format_map(words) for key, text in texts.items()}
    return artifact.model_copy(update={key: text[:1].upper() + text[1:] for key, text in told.items()})


def _forgetting(tasks: Sequence[Shown]) -> str:
    """`Mean accuracy on HellaSwag and WinoGrande`, or `source loss`."""
    names = _listed([task.label for task in tasks])
    return names if any(task.lower_is_better for task in tasks) else f"mean accuracy on {names}"


def _listed(names: Iterable[str]) -> str:
    """`HumanEval`, `HumanEval and GSM8K`, `code, math and chat`: each once."""
    different: Sequence[str] = list(dict.fromkeys(names))
    return " and ".join(filter(None, [", ".join(different[:-1]), *different[-1:]]))
