"""What training and evaluation run on: peaks and memory of GPUs by kind, and of a CPU's core."""

from dataclasses import dataclass

CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """A GPU, or one core of a CPU.

    Peaks are dense, without sparsity, by the vendor's data sheets; fp32 is that of the plain cores, as nothing here
    computes in TF32. Memory is the data sheets' too, in powers of 1000: a card has a little more, which the CUDA
    context and the gaps between blocks of memory take.
    """

    words: str
    """Words that all stand in the name that CUDA gives it, in any order; empty for a CPU."""
    bf16: float
    """FLOP/s."""
    fp32: float
    """FLOP/s."""
    memory: int
    """Bytes; 0 for a CPU, whose machine says it."""

    def peak(self, precision: str) -> float:
        """FLOP/s in `fp32` or `bf16`."""
        return self.bf16 if precision == "bf16" else self.fp32


DEVICES = {
    "b200": Device("B200", 2250e12, 75e12, 180 * 10**9),
    "gh200": Device("GH200", 989e12, 67e12, 96 * 10**9),
    "h200": Device("H200", 989e12, 67e12, 141 * 10**9),
    "h100-nvl": Device("H100 NVL", 835e12, 60e12, 94 * 10**9),
    "h100-pcie": Device("H100 PCIe", 756e12, 51e12, 80 * 10**9),
    "h100-80gb": Device("H100", 989e12, 67e12, 80 * 10**9),
    "a100-40gb": Device("A100 40GB", 312e12, 19.5e12, 40 * 10**9),
    "a100-80gb": Device("A100", 312e12, 19.5e12, 80 * 10**9),
    "a6000": Device("A6000", 155e12, 38.7e12, 48 * 10**9),
    "a40": Device("A40", 150e12, 37.4e12, 48 * 10**9),
    "a10": Device("A10", 125e12, 31.2e12, 24 * 10**9),
    "l40s": Device("L40S", 362e12, 91.6e12, 48 * 10**9),
    "l40": Device("L40", 181e12, 90.5e12, 48 * 10**9),
    "l4": Device("L4", 121e12, 30.3e12, 24 * 10**9),
    "rtx-4090": Device("4090", 165e12, 82.6e12, 24 * 10**9),
    "rtx-3090": Device("3090", 71e12, 35.6e12, 24 * 10**9),
    # a core with AVX2 at 2.5 GHz: 2 units of 8 numbers, each a product and a sum; bf16 was measured to be 80 times
    # slower where the CPU has no instructions for it
    CPU: Device("", 1e9, 80e9, 0),
}
"""By the words of a study; of several whose words a name has, the first is meant."""


def known(name: str) -> Device | None:
    """The GPU that CUDA calls `name`; None where the table does not have it."""
    said = set(name.replace("-", " ").split())
    return next((device for device in DEVICES.values() if device.words and set(device.words.split()) <= said), None)
