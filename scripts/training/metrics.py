"""The numbers of a running job: how busy the device is, how much memory it takes, and a log of them as JSON lines."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scripts.common import devices
from scripts.common.files import atomic_path
from scripts.components import flops
from scripts.components.shape import Shape
from scripts.training.checkpoints import writable


def flops_per_token(model: Any, length: int) -> float:
    """Floating-point operations that training needs for one token of a row of `length` tokens; all parameters count."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    return flops.trained(Shape.of(model.config, 4), frozen, trained, length)


class Meter:
    """What a model's training takes from its device."""

    def __init__(self, model: Any, length: int, device: torch.device, precision: str) -> None:
        self._cuda = device.type == "cuda"
        self._flops = flops_per_token(model, length)
        name = torch.cuda.get_device_name(device) if self._cuda else ""
        known = devices.known(name)
        self._peak = known.bf16 if known and precision == "bf16" else None

    def mfu(self, tokens_per_second: float) -> float | None:
        """The share of the device's peak that the model's operations are (MFU): `flops_per_token` * tokens/s / peak.

        None on the CPU, in fp32 and on a GPU without an entry in `scripts.common.devices`.
        """
        return self._flops * tokens_per_second / self._peak if self._peak else None

    def memory_bytes(self) -> int:
        """The most memory so far: what torch allocated on a GPU, on the CPU the process's resident set."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        from scripts.training.throughput import _peak_resident

        return _peak_resident()


class Log:
    """The reports of a job as lines of JSON in `path`, of all its attempts as if there had been one.

    A line has what the loop reports and `time` (seconds since 1970) and `attempt` (from 1). An attempt begins by
    dropping the lines of steps that it does again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._attempt: int | None = None

    def add(self, event: Mapping[str, Any]) -> None:
        """Append a report; its `resumed_at` is the step at which this attempt began. Raises UserError if it cannot."""
        if self._attempt is None:
            with writable(self.path):
                self._attempt = self._resume(event["resumed_at"])
        line: dict[str, Any] = {**event, "time": round(time.time(), 3), "attempt": self._attempt}
        del line["resumed_at"]
        for name, value in line.items():
            if isinstance(value, float) and not math.isfinite(value):  # of training that diverged; JSON has none
                line[name] = None
        with writable(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _resume(self, step: int) -> int:
        """Drop the lines after `step`, and what a power failure left of one; return the number of this attempt."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        attempts, kept = [0], []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            attempts.append(event["attempt"])
            if event["step"] <= step:
                kept.append(line)
        with atomic_path(self.path) as new:
            new.write_text("".join(kept), encoding="utf-8")
        return 1 + max(attempts)
