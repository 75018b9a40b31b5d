"""Where a model is evaluated: on which device, in which numbers, and how much memory is free there."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from scripts.common.errors import UserError
from scripts.store.machine import processor
from scripts.training import devices

Precision = Literal["fp32", "bf16"]

CPU_BYTES = 2**31
"""What a CPU's sequences may take together. A constant: what is free on a shared machine changes from job to job."""


@dataclass(frozen=True)
class Place:
    """A device and what models compute in there.

    Attributes:
        device: as torch has it.
        precision: of weights, activations and the cache of keys and values.
    """

    device: torch.device
    precision: Precision

    @classmethod
    def of_job(cls, precision: Precision) -> "Place":
        """The device that a training of this process would have."""
        return cls(devices.alone(), precision)

    @property
    def name(self) -> str:
        """What the device is called by its makers."""
        return device_name(self.device)

    def put(self, model: Any) -> Any:
        """The model here, its parameters in the place's precision; what is there already is not copied.

        Buffers keep their own type: the frequencies of rotary positions, rounded to bf16, would turn far positions by
        whole radians.

        Raises:
            UserError: the device's memory does not suffice.
        """
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        try:
            for parameter in model.parameters():  # one after another: two copies of all of them may not fit
                parameter.data = parameter.data.to(self.device, dtype)
            return model.to(self.device)
        except torch.OutOfMemoryError as error:
            size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
            raise UserError(
                f"the model's weights take {size / 1e9:.1f} GB in {self.precision}, and less is free on {self.name}"
            ) from error


def device_name(device: torch.device) -> str:
    """What a device is called by its makers."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else processor()


def free_bytes(device: torch.device) -> int:
    """The memory that sequences may take: on a GPU all that is free, what torch keeps for later included."""
    if device.type != "cuda":
        return CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
