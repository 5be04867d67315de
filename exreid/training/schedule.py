"""Learning rate and margin as functions of the step."""

from __future__ import annotations

import math


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_steps: int, final_factor: float
) -> float:
    """The learning rate of a step as a fraction of the peak: linear up, then a cosine down.

    Steps count from 0. The warm-up ends at 1 on its last step, the cosine at ``final_factor`` on
    the last step of all.

    >>> [round(learning_rate_factor(s, total_steps=6, warmup_steps=2, final_factor=0.0), 2)
    ...  for s in range(6)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    # The peak stands on the last warm-up step; without one, on step 0.
    peak_step = max(0, warmup_steps - 1)
    done = min(1.0, (step - peak_step) / max(1, total_steps - 1 - peak_step))
    return final_factor + (1.0 - final_factor) * 0.5 * (1.0 + math.cos(math.pi * done))


def margin_factor(step: int, *, warmup_steps: int) -> float:
    """The margin of a step as a fraction of its full size: linear from 0, then 1.

    >>> [margin_factor(s, warmup_steps=2) for s in range(4)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return 1.0 if step >= warmup_steps else step / warmup_steps
