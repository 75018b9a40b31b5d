"""The benchmark of training speed: what a step of it does, what it records, and how a process for itself ends."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scripts.common.errors import UserError
from scripts.plan.product import Product
from scripts.store.fingerprint import fingerprint
from scripts.store.store import Store
from scripts.training import objective, throughput
from tests.training import processes

OPTIMIZER = {"name": "decoupled_lionw", "betas": [0.9, 0.95], "clip_norm": 1.0}
SPEC: dict[str, Any] = {
    "kind": "throughput", "method": {"kind": "full"}, "optimizer": OPTIMIZER, "precision": "fp32",
    "sequence_length": 16, "batch_rows": [6], "pass_rows": 4, "steps": 3,
}  # fmt: skip


@pytest.fixture
def _torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(enabled)


class Launch:
    """A store with a base model, and as much of a launch as the benchmark asks for."""

    def __init__(self, root: Path, base: Path) -> None:
        self.store = Store(root)
        given = Product.of("models/given-000000000000", {"kind": "model"}, ())
        self.store.make(given, lambda out: shutil.copytree(base, out, dirs_exist_ok=True) and {}, {})
        self.products: dict[str, Product] = {}
        self.grid = SimpleNamespace(products=self.products, find=lambda name: self.products[name])

    def code_of(self, product: Product) -> dict[str, Any]:
        return {}

    def product(self, **changes: Any) -> str:
        spec = SPEC | changes
        key = f"throughput/it-{fingerprint(spec)}"
        self.products[key] = Product.of(key, spec, ("models/given-000000000000",))
        return key


def test_speed_and_peak_are_measured_once(
    tmp_path: Path, base: Path, words: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = Launch(tmp_path / "store", base)
    key = launch.product(method=words.LORA)
    throughput.main(launch, key)  # type: ignore[arg-type]
    manifest = launch.store.require(key)
    results = manifest["results"]
    assert manifest["files"] == {}
    assert results["devices"] == 1
    assert results["device"]
    assert results["memory"] == (throughput.CUDA_MEMORY if torch.cuda.is_available() else throughput.CPU_MEMORY)
    (six,) = results["points"]
    assert (six["batch_rows"], six["pass_rows"]) == (6, 4)
    assert six["tokens_per_second"] > 0
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    assert weights < six["peak_bytes"] < 2**32
    told = capsys.readouterr()
    assert "batch of 6 rows" in told.err
    throughput.main(launch, key)  # type: ignore[arg-type]
    assert not capsys.readouterr().err, "what is there is not measured again"


@pytest.mark.usefixtures("_torch_as_it_was")
@pytest.mark.parametrize(("batch_rows", "passes"), [(2, [2]), (4, [4]), (10, [4, 4, 2])])
def test_a_step_trains_on_the_whole_batch_in_passes_of_so_many_rows(
    base: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int, passes: list[int]
) -> None:
    seen: list[tuple[int, int]] = []
    forward = objective.last_hidden
    clock = iter([100.0, 108.0])

    def noted(model: Any, input_ids: torch.Tensor, positions: torch.Tensor, **confined: Any) -> Any:
        seen.append(tuple(input_ids.shape))
        assert 0 <= input_ids.min() <= input_ids.max() < 64
        return forward(model, input_ids, positions, **confined)

    monkeypatch.setattr(objective, "last_hidden", noted)
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    measured = throughput.measure(base, SPEC, batch_rows)
    assert measured
    speed, peak = measured
    assert speed == 3 * batch_rows * 16 / 8.0
    assert peak >= 0
    assert seen == [(rows, 16) for rows in passes] * 4, "three steps, after one that is not timed"


@pytest.mark.usefixtures("_torch_as_it_was")
def test_only_lack_of_memory_is_a_missing_point(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Any:
        def backward(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(objective, "backward", backward)
        return throughput.measure(base, SPEC, 2)

    assert throughput.measure(base, SPEC, 2**45) is None
    assert fails(torch.OutOfMemoryError("CUDA out of memory")) is None
    assert fails(MemoryError()) is None
    with pytest.raises(RuntimeError, match="shape"):
        fails(RuntimeError("shape mismatch"))


def test_a_process_for_itself_answers_and_a_killed_one_does_not() -> None:
    assert throughput.apart(processes.end, "answers") not in (None, os.getpid())
    assert throughput.apart(processes.end, "is killed") is None
    with pytest.raises(UserError, match="one sentence"):
        throughput.apart(processes.end, "is told")
    with pytest.raises(UserError, match="ended with status 3"):
        throughput.apart(processes.end, "fails")


def test_the_peak_is_the_process_s_own() -> None:
    """Whatever this one has had in memory: a peak that a process inherits would hide its own."""
    ballast = b"\1" * (60 * 2**20)
    held = throughput.apart(processes.hold, 40)
    assert 39 * 2**20 < held < 48 * 2**20
    assert ballast


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(target=processes.start_lasting, args=(str(mark),))
    parent.start()
    while not (mark.exists() and mark.read_text()):
        time.sleep(0.05)
        assert parent.is_alive()
    parent.kill()
    parent.join()
    child = int(mark.read_text())
    for _ in range(400):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the process that measured lives on")


def test_what_does_not_fit_is_missing(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = Launch(tmp_path / "store", base)
    answers = iter([("a device", "a statistic"), (1234.5, 10**9), None])
    monkeypatch.setattr(throughput, "apart", lambda *_: next(answers))
    key = launch.product(batch_rows=[2, 128])
    throughput.main(launch, key)  # type: ignore[arg-type]
    assert launch.store.require(key)["results"] == {
        "device": "a device",
        "devices": 1,
        "memory": "a statistic",
        "points": [
            {"batch_rows": 2, "pass_rows": 2, "tokens_per_second": 1234.5, "peak_bytes": 10**9},
            {"batch_rows": 128, "pass_rows": 4, "tokens_per_second": None, "peak_bytes": None},
        ],
    }
    assert "batch of 128 rows: memory does not suffice" in capsys.readouterr().err


def test_another_kind_of_product_is_refused(tmp_path: Path, base: Path) -> None:
    launch = Launch(tmp_path / "store", base)
    launch.products["runs/it"] = Product.of("runs/it", {"kind": "run"}, ())
    with pytest.raises(UserError, match="is of the kind 'run', not 'throughput'"):
        throughput.main(launch, "runs/it")  # type: ignore[arg-type]
