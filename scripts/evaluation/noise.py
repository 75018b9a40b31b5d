"""What decides sampled tokens: numbers that depend on the seed, the prompt, the sample and the position alone.

Not on the batch in which a row is written, which depends on a device's memory, nor on the device.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def uniform(seed: int, prompt: Sequence[int], sample: int, count: int, occurrence: int = 0) -> NDArray[np.float32]:
    """The numbers of a row's first `count` positions: uniform in [0, 1), multiples of 2**-24, float32 [count].

    Philox 4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator: the
    number of a position is a function of the key and the position. The key is a hash of the others.

    Args:
        prompt: token ids.
        sample: the how-many-th row of its item it is, from 0.
        occurrence: the how-many-th item with this prompt it is, from 0.
    """
    text = " ".join(map(str, (seed, sample, *prompt)))
    if occurrence:
        text += f" again {occurrence}"
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(count)  # the generator's own numbers: those stay in all numpy versions
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
