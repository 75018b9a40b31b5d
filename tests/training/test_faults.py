"""What goes wrong around a trainer: kills, other trainers, damaged files, a full disk. Nothing is lost or pretended."""

import errno
import os
import random
import resource
import shutil
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.common.commands import python_command
from scripts.common.errors import UserError, run
from scripts.launch.command import end_with
from scripts.plan.product import Product
from scripts.store import fingerprint as study_fingerprint
from scripts.store.locks import LockedError
from scripts.store.store import COPY
from scripts.training import attempts, loop, train
from tests.forks import FORK, forked, wait_for
from tests.training.houses import RECIPE, House

FILE_EVENTS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


@pytest.fixture
def house(tmp_path: Path, base: Path, cpt_rows: Path) -> House:
    return House(tmp_path / "store", base, cpt_rows)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint and a report after every step."""
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(House, "checkpoint_seconds", 0.0)


def leg(house: House, method: dict[str, Any], batches: int = 16) -> Product:
    trunk = {**RECIPE, "method": method, "warmup_batches": 3, "first_leg": batches}
    return house.product({"kind": "leg", "trunk": trunk, "batches": batches})


def contents(house: House, product: Product) -> dict[str, bytes]:
    """Its bytes; the manifest's copy beside them tells of attempts and times."""
    there = house.store.directory(product.key).iterdir()
    return {path.name: path.read_bytes() for path in there if path.name != COPY}


@contextmanager
def commanded(work: Callable[[], Any], output: Path = Path(os.devnull)) -> Iterator[Any]:
    """Does `work` in a process of its own, which says on `output` what it would on stderr, as a command line would."""

    def main() -> None:
        with output.open("a") as file:
            sys.stderr = file
            run(lambda _: work(), _no_arguments())

    with forked(main) as process:
        yield process


def _no_arguments() -> ArgumentParser:
    parser = ArgumentParser()
    parser.parse_args = lambda *_: None  # type: ignore[assignment]
    return parser


def after_steps(steps: int, act: Callable[[], object]) -> Callable[[str], Any]:
    """Instead of `train._reporter`: acts once `steps` steps are done; needs `often`."""
    return lambda _: lambda event: act() if event["step"] == steps else None


def stop_at(monkeypatch: pytest.MonkeyPatch, house: House, product: Product, steps: int) -> None:
    """Trains until a signal comes after `steps` steps."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "REPORT_SECONDS", 0.0)
        patch.setattr(train, "_reporter", after_steps(steps, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        with pytest.raises(SystemExit) as stopped:
            train.train(house, product)  # type: ignore[arg-type]
    assert stopped.value.code == 75
    assert house.store.scratch(product.key).joinpath(f"step-{steps:06d}").is_dir()


def kill_before(event: int, counted: Path | None = None) -> None:
    """Kills this process before it does anything for the `event`-th time to a file's name, or writes to a file."""
    done = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if name in FILE_EVENTS or (name == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax")):
            done += 1
            if done == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_at_any_moment(
    house: House, words: SimpleNamespace, often: None, tmp_path: Path, base: Path, cpt_rows: Path, method: str
) -> None:
    """Ten times for each method, every second time between two changes of files; then it goes on.

    Checkpoints are being written at almost any moment, and some kills meet the export or the manifest.
    """
    product = leg(house, words.METHODS[method] | ({"dropout": 0.1} if method == "lora" else {}))
    count = tmp_path / "count"

    def counting() -> None:
        events = []
        sys.addaudithook(lambda name, _: events.append(name) if name in FILE_EVENTS else None)
        house.train_product(product)
        count.write_text(str(len(events)))

    began = time.monotonic()
    with commanded(counting) as whole:
        whole.join()
    duration, events = time.monotonic() - began, int(count.read_text())
    assert whole.exitcode == 0
    expected = contents(house, product)
    assert {"optimizer.safetensors"} < expected.keys()

    draw = random.Random(20 if method == "full" else 21)
    kills, in_a_write, lives = 0, 0, 0
    while kills < 10:
        lives += 1
        house = House(tmp_path / f"life-{lives}", base, cpt_rows)
        killed_here = 0
        while house.store.read(product.key) is None:
            by_event = kills % 2 == 1
            event = draw.randrange(1, events) if by_event else 0

            def attempt(house: House = house, event: int = event) -> None:
                kill_before(event)
                house.train_product(product)

            with commanded(attempt) as trainer:
                trainer.join(None if by_event else draw.random() * duration)
                trainer.kill()
                trainer.join()
            assert trainer.exitcode in (0, -signal.SIGKILL)
            kills += trainer.exitcode != 0
            killed_here += trainer.exitcode != 0
            in_a_write += any(house.store.scratch(product.key).glob(".writing-*"))
            if house.store.read(product.key) is None:
                # without its manifest it is not there; bytes of that name are whole, or there are none
                assert not house.store.directory(product.key).exists() or contents(house, product) == expected
        assert contents(house, product) == expected
        house.train_product(product)  # what the last kill left, if it met the very end, is no obstacle
        told = house.store.require(product.key)["provenance"]["training"]
        assert 1 <= len(told["attempts"]) <= 1 + killed_here
    assert in_a_write > 0


def test_nothing_is_left_of_killed_attempts(house: House, words: SimpleNamespace, often: None) -> None:
    """Also where a kill met the renaming of the bytes or of the manifest."""
    product = leg(house, words.FULL, 4)

    def attempt(number: int) -> None:
        sys.addaudithook(renamed(number))
        house.train_product(product)

    def renamed(number: int) -> Callable[[str, tuple[Any, ...]], None]:
        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            targets = [house.store.directory(product.key), house.store.manifest_path(product.key)]
            if name == "os.rename" and Path(os.fsdecode(arguments[1])) == targets[number]:
                os.kill(os.getpid(), signal.SIGKILL)

        return hook

    for number in (0, 1):
        with commanded(lambda number=number: attempt(number)) as trainer:
            trainer.join()
        assert trainer.exitcode == -signal.SIGKILL
        # once the bytes have their name, the copy among them is a manifest
        assert house.store.is_made(product.key) == (number == 1)
    house.train_product(product)
    name = Path(product.key).name
    there = {path.name for path in house.store.directory(product.key).parent.iterdir()}
    assert there == {name, f"{name}.json", f"{name}.metrics.jsonl"}


def test_a_trainer_saves_and_ends_when_its_parent_dies(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The head is killed; the trainer below its shell is not, and writes a checkpoint of where it was."""
    product, said = leg(house, words.FULL), tmp_path / "said"
    expected = contents(house, (house.train_product(product), product)[1])
    shutil.rmtree(house.store.directory(product.key))
    manifest = house.store.manifest_path(product.key)
    manifest.unlink()
    running = tmp_path / "running"

    def asked_to_end() -> bool:
        handler: Any = signal.getsignal(signal.SIGTERM)  # the loop's
        return bool(handler.requested)

    def trainer(head: int) -> None:
        end_with(head)
        monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
        monkeypatch.setattr(train, "_reporter", after_steps(5, lambda: (running.touch(), wait_for(asked_to_end))))
        house.train_product(product)

    def head() -> None:
        me = os.getpid()
        with commanded(lambda: trainer(me), said) as process:
            process.join()

    process = FORK.Process(target=head)
    process.start()
    wait_for(running.exists)
    process.kill()
    process.join()
    wait_for(lambda: said.exists() and "goes on from there" in said.read_text())
    assert "error: the process that started this job is gone; ending\n" in said.read_text()
    assert not manifest.exists()
    (saved,) = house.store.scratch(product.key).glob("step-*")
    assert saved.name >= "step-000005"
    house.train_product(product)  # waits for the lock, should the other still be ending
    assert contents(house, product) == expected
    assert len(house.store.require(product.key)["provenance"]["training"]["attempts"]) == 2


def test_a_second_trainer_waits_says_so_and_finds_it_done(
    house: House, words: SimpleNamespace, often: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    product, said = leg(house, words.FULL), tmp_path / "said"
    running, go_on = tmp_path / "running", tmp_path / "go on"

    def first() -> None:
        hold = after_steps(5, lambda: (running.touch(), wait_for(go_on.exists)))
        monkeypatch.setattr(train, "_reporter", hold)
        house.train_product(product)

    def second() -> None:
        monkeypatch.setattr(train, "_reporter", lambda _: pytest.fail("it trains"))
        house.train_product(product)

    with commanded(first) as one:
        wait_for(running.exists)
        with pytest.raises(LockedError) as told:
            train.train(house, product, lock_wait=0.2)  # type: ignore[arg-type]
        assert f"{product.key}: another job (process {one.pid} on " in str(told.value)
        assert "\n" not in str(told.value)
        with pytest.raises(LockedError):
            train.train(house, product, deadline=time.monotonic() + 0.2)  # type: ignore[arg-type]
        with commanded(second, said) as two:
            wait_for(said.exists)
            wait_for(lambda: "waiting for it" in said.read_text())
            go_on.touch()
            two.join()
            one.join()
    assert (one.exitcode, two.exitcode) == (0, 0)
    assert (
        said.read_text() == f"{product.key}: another job (process {one.pid} on {os.uname().nodename}) is making it; "
        "waiting for it\n"
    )
    assert len(house.store.require(product.key)["provenance"]["training"]["attempts"]) == 1


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "gone"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_damaged_inputs_are_one_sentence(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, method: str, damage: Callable[[Path], Any]
) -> None:
    """Base model, rows, and weights and optimizer of the leg; what was trained so far is kept, and goes on after."""
    before = leg(house, words.METHODS[method], 4)
    house.train_product(before)
    product = Product.of("legs/next-000000000000", before.spec | {"batches": 8}, (*before.inputs, before.key))
    stop_at(monkeypatch, house, product, 6)
    weights = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    model, rows = before.inputs
    inputs = [(model, "model.safetensors"), (before.key, weights), (before.key, "optimizer.safetensors")]
    if damage is flip:  # rows that are not there, or not whole, are simply made again
        inputs.append((rows, "rows.npy"))
    for key, name in inputs:
        path = house.store.directory(key) / name
        intact = path.read_bytes()
        damage(path)
        with pytest.raises(UserError) as told:
            house.train_product(product)
        sentence = str(told.value)
        assert "\n" not in sentence
        assert str(path.parent) in sentence
        assert "makes" in sentence
        assert key in sentence
        assert house.store.read(product.key) is None
        assert not house.store.directory(product.key).exists()
        assert [path.name for path in house.store.scratch(product.key).glob("step-*")] == ["step-000006"]
        path.write_bytes(intact)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    steps: list[int] = []
    monkeypatch.setattr(train, "_reporter", lambda _: lambda event: steps.append(event["step"]))
    house.train_product(product)
    assert steps == [7, 8]


def test_a_shard_that_cannot_be_read_is_one_sentence(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = leg(house, words.FULL)
    rows = house.store.directory(product.inputs[1]) / "rows.npy"
    read = study_fingerprint.file_sha256

    def broken(path: Path) -> str:
        if path == rows:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(study_fingerprint, "file_sha256", broken)
    with pytest.raises(UserError, match=rf"^{rows} is not what its manifest says \(Input/output error\); delete "):
        house.train_product(product)
    assert house.store.read(product.key) is None


def test_what_is_damaged_is_made_again_and_is_the_same(house: House, words: SimpleNamespace) -> None:
    """The sentence says how, and it is true."""
    product = leg(house, words.FULL, 4)
    house.train_product(product)
    expected, directory = contents(house, product), house.store.directory(product.key)
    flip(directory / "model.safetensors")
    with pytest.raises(UserError) as told:
        house.store.bytes_of(product.key)
    assert str(told.value).endswith(
        f"delete {directory}, and `{python_command('scripts.training.train', product.key)}` "
        "makes it again and checks its hashes"
    )
    shutil.rmtree(directory)
    house.train_product(product)
    assert contents(house, product) == expected
    assert house.store.bytes_of(product.key) == directory


def test_a_truncated_checkpoint_costs_the_way_from_its_elder(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    product, other = leg(house, words.FULL), leg(house, words.FULL, 17)
    house.train_product(product)
    again = Product.of(other.key, product.spec, product.inputs)
    stop_at(monkeypatch, house, again, 5)
    stop_at(monkeypatch, house, again, 9)
    largest = max(house.store.scratch(again.key).glob("step-000009/*"), key=lambda path: path.stat().st_size)
    truncate(largest)
    capsys.readouterr()
    steps: list[int] = []
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(train, "_reporter", lambda _: lambda event: steps.append(event["step"]))
    house.train_product(again)
    assert steps == [*range(6, 17)]
    assert contents(house, again) == contents(house, product)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_ends_the_trainer_with_one_sentence(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No file may have more than 16 KiB: checkpoints fail half-way, as on a full disk. With room it goes on."""
    product, said = leg(house, words.FULL), tmp_path / "said"
    expected = contents(house, (house.train_product(product), product)[1])
    again = Product.of(leg(house, words.FULL, 17).key, product.spec, product.inputs)
    stop_at(monkeypatch, house, again, 5)
    kept = {path: path.read_bytes() for path in house.store.scratch(again.key).glob("step-*/*")}
    assert any(len(content) > 2**14 for content in kept.values())

    def cramped() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
        house.train_product(again)

    for seconds in (0.0, 1e9):  # in a checkpoint; in the export
        monkeypatch.setattr(House, "checkpoint_seconds", seconds)
        with commanded(cramped, said) as trainer:
            trainer.join()
        assert trainer.exitcode == 1
        (sentence,) = [line for line in said.read_text().splitlines() if line.startswith("error: ")]
        assert sentence.startswith(f"error: {again.key}: {house.store.root}")
        assert "could not be written (" in sentence
        assert "goes on from" in sentence
        assert house.store.read(again.key) is None
        assert {path: path.read_bytes() for path in kept} == kept
        said.unlink()
    house.train_product(again)
    assert contents(house, again) == expected


def test_attempts_are_counted_and_timed(
    house: House, words: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, often: None
) -> None:
    """One that is stopped counts to its end, one that is killed to its last report; waiting for the lock does not."""
    product = leg(house, words.FULL)
    now = 0.0
    monkeypatch.setattr(attempts, "time", SimpleNamespace(time=lambda: 1000.0 + now, monotonic=lambda: now))

    def report(name: str) -> Callable[[dict[str, Any]], None]:
        def pass_time(event: dict[str, Any]) -> None:
            nonlocal now
            now += 10.0  # after the attempt was told of this step
            if event["step"] in stops:
                os.kill(os.getpid(), stops[event["step"]])

        return pass_time

    monkeypatch.setattr(train, "_reporter", report)
    stops = {3: signal.SIGTERM}
    with pytest.raises(SystemExit):
        house.train_product(product)
    assert now == 30.0
    stops = {8: signal.SIGKILL}
    with commanded(lambda: house.train_product(product)) as killed:
        killed.join()
    assert killed.exitcode == -signal.SIGKILL
    now, stops = 500.0, {}
    resumed = max(int(path.name[5:]) for path in house.store.scratch(product.key).glob("step-*"))
    house.train_product(product)
    provenance = house.store.require(product.key)["provenance"]
    told = provenance["training"]
    assert [entry["started"] for entry in told["attempts"]] == [1000.0, 1030.0, 1500.0]
    # the second one did steps 4 to 8 and was killed right after it had reported the eighth
    assert [entry["seconds"] for entry in told["attempts"]] == [30.0, 40.0, 10.0 * (16 - resumed)]
    assert all(entry["devices"] == 1 and entry["device"] for entry in told["attempts"])
    assert told["wall_seconds"] == told["device_seconds"] == sum(entry["seconds"] for entry in told["attempts"])
    assert "provenance" not in house.store.require(product.key)["results"]


def test_device_seconds_are_wall_seconds_times_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(attempts, "time", SimpleNamespace(time=lambda: now, monotonic=lambda: now))
    with attempts.attempt(tmp_path / "attempts.json", 4):
        now = 10.0
    with attempts.attempt(tmp_path / "attempts.json", 2) as second:
        now = 15.0
    assert second.totals()["wall_seconds"] == 15.0
    assert second.totals()["device_seconds"] == 4 * 10 + 2 * 5
    (tmp_path / "attempts.json").write_text("[")  # a power failure; earlier attempts are forgotten, training goes on
    with attempts.attempt(tmp_path / "attempts.json", 1) as third:
        assert len(third.totals()["attempts"]) == 1


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_lock_wait_is_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(UserError, match="--lock-wait: must be a number of seconds, 0 or more"):
        train._lock_wait(seconds)
