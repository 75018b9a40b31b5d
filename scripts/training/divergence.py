"""When training counts as diverged, which is a result of the condition and no error.

Training has diverged at the first batch where

* the loss or the gradient's norm is not a finite number; or
* the mean loss of the last 20 batches is too far above the best: above ``best + max(3, 3/4 (log V - best))`` nats.

`best` is the lowest mean loss of 20 batches in a row so far, or the first batch's loss where that is lower, and V the
size of the vocabulary. log V is the loss of a model that gives every token the same probability, so the model has
then lost three quarters of what it knew above guessing, and is at least e^3 = 20 times as perplexed as before.
For Llama-2 that is a rise from 1.5 to 8.2 nats.

The rule is slow on purpose. A rate that is too high often makes a model much worse without ending its training; what
it has learned then is a poor score, which says more than no score. And the losses of a few rows are noisy: 20 batches
are what `final_loss` is a mean of as well, and of the demo's and the tour's 300 runs at every rate tried, one that
rose from 0.3 to a peak of 7.4 nats and fell back to 2.2 came nearest, with a mean of 3.6 where 5.3 is the limit.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

WINDOW = 20
MARGIN = 3.0  # nats
SHARE = 0.75  # of what was known above guessing


@dataclass(frozen=True)
class Divergence:
    """`step` counts batches from the start of the trunk or run, with the one that showed it; `rule` says what it was.

    `loss` is that batch's loss in nats, as text (`nan`, `inf`) where it is no number.
    """

    step: int
    loss: float | str
    rule: str


class Watch:
    """Looks at the losses of a job one after another.

    `vocabulary` is the model's number of tokens, `best` what the watch of the leg before ended with (None: the job is
    the trunk's or run's first), `seen` the losses of this job up to its checkpoint. The last 20 batches are of this job
    alone. `best` holds the best so far, None before the first batch.
    """

    def __init__(self, vocabulary: int, best: float | None = None, seen: Iterable[float] = ()) -> None:
        self._guessing = math.log(vocabulary)
        self.best = best
        self._last: deque[float] = deque(maxlen=WINDOW)
        for loss in seen:
            self._mean(loss)

    def look(self, step: int, loss: float, norm: float) -> Divergence | None:
        """What the batch that reaches `step` shows, with its loss and its gradient's norm before clipping."""
        if not math.isfinite(loss):
            return Divergence(step, str(loss), f"the loss is {loss}")
        if not math.isfinite(norm):
            return Divergence(step, loss, f"the gradient's norm is {norm}")
        best = loss if self.best is None else self.best
        limit = best + max(MARGIN, SHARE * (self._guessing - best))
        mean = self._mean(loss)
        if mean is None or mean <= limit:
            return None
        told = f"the mean loss of {WINDOW} batches is {mean:.4g}, above {limit:.4g}; the best before was {best:.4g}"
        return Divergence(step, loss, told)

    def _mean(self, loss: float) -> float | None:
        """Of the last batches with this one, None where they are too few; the best is kept."""
        self._last.append(loss)
        mean = math.fsum(self._last) / WINDOW if len(self._last) == WINDOW else None
        self.best = min(one for one in (self.best, mean, loss if self.best is None else None) if one is not None)
        return mean
