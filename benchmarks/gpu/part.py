"""One part in this process, for `runner`: what it finds goes to stdout as lines of JSON, everything else to stderr.

python -m benchmarks.gpu.part MODULE DEVICE SECONDS [--tiny]
"""

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from benchmarks.gpu.runner import lacking

if TYPE_CHECKING:
    import torch


@dataclass
class Bench:
    """What a part is given: the device, whether all is tiny, and whom it tells what it finds, as it finds it."""

    device: "torch.device"
    tiny: bool
    events: IO[str]
    limit: float
    began: float = field(default_factory=time.monotonic)

    @property
    def is_cuda(self) -> bool:
        return bool(self.device.type == "cuda")

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """What training computes in. A CPU is some eighty times slower in bf16."""
        return "bf16" if self.is_cuda else "fp32"

    @property
    def dtype(self) -> "torch.dtype":
        """Of what is not trained, and of what is evaluated."""
        import torch

        return torch.bfloat16 if self.is_cuda else torch.float32

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """What goes wrong inside is a failure of `name`, and the part goes on."""
        try:
            yield
        except ModuleNotFoundError:
            raise
        except Exception as error:
            traceback.print_exc()
            said = next(iter(str(error).splitlines()), "")
            self.fail(f"{name}: {type(error).__name__}: {said[:300]}")

    def left(self) -> float:
        """Seconds until this part is cut off."""
        return self.limit - (time.monotonic() - self.began)

    def figure(self, name: str, value: Any) -> None:
        """Plain data; a dictionary is printed as its names and values."""
        self._tell(kind="figure", name=name, value=value)

    def note(self, sentence: str) -> None:
        self._tell(kind="note", value=sentence)

    def check(self, name: str, bounds: dict[str, tuple[float, float]]) -> None:
        """A figure of values that must not be above their bounds: by name, value and bound."""
        holds = all(value <= bound for value, bound in bounds.values())  # not where a value is no number
        values = {key: value for key, (value, _) in bounds.items()}
        self.figure(name, {"holds": holds, **values})
        for key, (value, bound) in bounds.items():
            if not value <= bound:
                self.fail(f"{name}: {key} is {value:.3g}, above {bound:.3g}")

    def fail(self, sentence: str) -> None:
        """Something is wrong; the part goes on."""
        self._tell(kind="failure", value=sentence)

    def synchronize(self) -> None:
        if self.is_cuda:
            import torch

            torch.cuda.synchronize()

    def seconds(self, act: Callable[[], object], times: int = 1) -> float:
        """Of one call of `act` on the device, the mean of `times`, after one that does not count."""
        act()
        clock = Clock(self)
        for _ in range(times):
            act()
        clock.mark("all")
        return clock.seconds()["all"] / times

    def _tell(self, **event: Any) -> None:
        self.events.write(json.dumps(event) + "\n")
        self.events.flush()


class Clock:
    """Seconds between moments of the device's own time: CUDA events, whose reading alone waits for the device."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._marks: list[tuple[str, Any]] = []
        self.mark("")

    def mark(self, name: str) -> None:
        """What is between the mark before and this one is called `name`."""
        if not self._bench.is_cuda:
            self._marks.append((name, time.perf_counter()))
            return
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((name, event))

    def seconds(self) -> dict[str, float]:
        """By name, the sum of all that is called so."""
        self._bench.synchronize()
        found: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            between = before.elapsed_time(after) / 1000 if self._bench.is_cuda else after - before
            found[name] = found.get(name, 0.0) + between
        return found


def main(module: str, device: str, seconds: float, tiny: bool) -> None:
    faulthandler.dump_traceback_later(seconds, exit=True)
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print
    try:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("torch sees no GPU; `--device cpu --tiny` runs the same code on the CPU")
        if device == "cpu":
            torch.set_num_threads(1)  # several wait for each other where others use the processor too
        bench = Bench(torch.device(device), tiny, events, seconds)
        bench._tell(kind="device", value=_described(device))
        importlib.import_module(module).main(bench)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if not name or name in ("scripts", "benchmarks", "tests"):
            raise
        print(json.dumps({"kind": "skipped", "value": lacking([name])}), file=events, flush=True)


def _described(device: str) -> dict[str, Any]:
    import torch

    from scripts.store.machine import processor

    if device == "cpu":
        return {"device": processor(), "memory_bytes": None, "cuda": None}
    properties = torch.cuda.get_device_properties(0)
    return {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}


if __name__ == "__main__":
    name, kind, limit, *rest = sys.argv[1:]
    main(name, kind, float(limit), bool(rest))
