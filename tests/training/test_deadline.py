"""A deadline: a checkpoint is there before it, no more time than needed is given away, and nothing changes by it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.common.errors import UserError
from scripts.training import checkpoints, loop, train
from scripts.training.loop import Fit

pytestmark = pytest.mark.arithmetic

Job = Callable[..., Fit]


class Clock:
    """Stands still but for an attempt's steps and checkpoints, which last as long as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: Callable[[int], float], save: float) -> None:
        self.now = 1000.0
        self.at = 0  # steps in this attempt
        backward, written = loop.backward, checkpoints.save

        def stepping(*arguments: Any, **options: Any) -> Any:
            self.now += step(self.at)
            self.at += 1
            return backward(*arguments, **options)

        def saving(*arguments: Any) -> None:
            self.now += save
            written(*arguments)

        class AtOnce:
            def __init__(self, *_: Any) -> None: ...

            def submit(self, write: Callable[[], float]) -> Future[float]:
                future: Future[float] = Future()
                future.set_result(write())
                return future

            def shutdown(self) -> None: ...

        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(loop, "backward", stepping)
        monkeypatch.setattr(checkpoints, "save", saving)
        monkeypatch.setattr(checkpoints, "ThreadPoolExecutor", AtOnce)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("step", "save", "every", "budget"),
    [
        (lambda at: 4.0, 0.0, 1e9, 25.0),  # the least margin holds
        (lambda at: 20.0, 5.0, 1e9, 67.0),  # a step takes longer
        (lambda at: 20.0 + at % 3, 9.0, 15.0, 150.0),  # steps are not equal, and a checkpoint was measured
        (lambda at: 90.0 if at == 0 else 20.0, 30.0, 15.0, 260.0),  # an attempt's first step takes longest
    ],
)
def test_saves_before_the_deadline_and_goes_on_bit_for_bit(
    job: Job,
    words: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    step: Callable[[int], float],
    save: float,
    every: float,
    budget: float,
) -> None:
    plain = job("plain", method=words.METHODS[method])
    expected = words.train(plain)
    clock = Clock(monkeypatch, step, save)
    reached = [0]
    while True:
        deadline, clock.at = clock.now + budget, 0
        cut = job(f"cut-{len(reached)}", method=words.METHODS[method], deadline=deadline, checkpoint_seconds=every)
        cut = replace(cut, checkpoints=plain.checkpoints)
        try:
            metrics = words.train(cut)
            break
        except SystemExit as stopped:
            status = stopped.code
        assert status == 75
        assert not any(cut.out.iterdir())
        assert clock.now <= deadline
        # it could not have done another step: the longest one, a checkpoint as long as the longest, ten seconds
        longest = max(step(at) for at in range(1, 12))
        assert deadline - clock.now <= max(10.0, longest + save) + longest
        reached.append(max(int(path.name.removeprefix("step-")) for path in plain.checkpoints.iterdir()))
        assert f"stopped at step {reached[-1]} of 12; the same call goes on from there\n" in capsys.readouterr().err
    assert len(reached) > 2
    assert reached == sorted(set(reached))
    assert words.weights(cut.out) == words.weights(plain.out) != {}
    assert {**metrics, "seconds": 0} == {**expected, "seconds": 0}


def test_without_time_for_a_step_nothing_is_done(job: Job, words: SimpleNamespace) -> None:
    """Not a step, and no checkpoint either: there is nothing new to keep."""
    cut = job("cut", deadline=time.monotonic() + loop.MARGIN_SECONDS)
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            words.train(cut)
        assert stopped.value.code == 75
    assert not cut.checkpoints.exists()
    assert not any(cut.out.iterdir())


def test_seconds_count_from_the_start_of_the_process() -> None:
    psutil = pytest.importorskip("psutil")
    began = psutil.Process().create_time() - (time.time() - time.monotonic())  # by the clock of deadlines
    assert train._moment(3600.0) == pytest.approx(began + 3600, abs=2)
    assert train._moment(None) is None


@pytest.mark.parametrize("seconds", [0.0, -5.0, float("nan"), float("inf")])
def test_a_deadline_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(UserError, match="--deadline: must be a number of seconds above 0"):
        train._moment(seconds)


def test_a_family_passes_its_deadline_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To every member; and devices are claimed once for all of them."""
    passed: list[float | None] = []
    claims: list[object] = []
    members = {name: SimpleNamespace(kind="run", key=name, inputs=(), members=()) for name in "ab"}
    family = SimpleNamespace(kind="trained", key="family", members=tuple(members), spec={"members": list(members)})

    def trained(launch: Any, product: Any, deadline: float | None, claim: Callable[[], object], *_: Any) -> None:
        passed.append(deadline)
        claims.append(claim())

    monkeypatch.setattr(train, "find", lambda launch, name: family)
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setattr(train, "make", lambda *_: None)
    entered: list[dict[str, Any]] = []

    @contextmanager
    def claimed(root: Path, **options: Any) -> Iterator[str]:
        entered.append({"root": root, **options})
        yield "a device"

    monkeypatch.setattr(train.devices, "claimed", claimed)
    store = SimpleNamespace(root=tmp_path, is_made=lambda key: False, by_fingerprint=lambda key: {})
    launch: Any = SimpleNamespace(store=store, grid=SimpleNamespace(products=members | {"family": family}))
    train.main(launch, "family", 7.0)
    assert passed == [7.0, 7.0]
    assert claims == ["a device", "a device"]
    assert entered == [{"root": tmp_path, "deadline": 7.0}]
