"""Learning rates over a run, as functions of the step alone: nothing has to be stored to go on."""

import math
from dataclasses import dataclass

KINDS = ("constant", "step", "cosine")
PUBLISHED = (0.5, 0.75)


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate at each of `steps` steps.

    `kind` "step" multiplies by `decay` at each of `milestones` (shares of the run), "cosine" falls from 1 to 0 along
    half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts). During the first `warmup` share the
    factor grows linearly to 1 and multiplies the other.
    """

    kind: str
    steps: int
    milestones: tuple[float, ...] = PUBLISHED
    decay: float = 0.1
    warmup: float = 0.0

    def factor(self, step: int) -> float:
        """For step 0 to `steps` - 1; above zero at each of them."""
        ramp = self.warmup * self.steps
        grown = min(1.0, (step + 1) / ramp) if ramp else 1.0
        if self.kind == "step":
            # a step's share is compared in whole steps, which rounding cannot move
            passed = sum(step >= round(m * self.steps) for m in self.milestones)
            return grown * self.decay**passed
        if self.kind == "cosine":
            return grown * (1 + math.cos(math.pi * step / self.steps)) / 2
        return grown


def moved(before: Schedule, after: Schedule, step: int, rate: float) -> list[str]:
    """What another number of steps does to a schedule, from `step` on, in lines for people; none where it is constant.

    `rate` is the learning rate at factor 1.
    """
    lines = []
    if before.kind == "step":
        was, will = (
            " and ".join(f"{round(m * s.steps):,}" for m in s.milestones) for s in (before, after)
        )
        lines.append(f"the rate decays at steps {will} of {after.steps:,}, it was to at {was}")
    if before.kind == "cosine":
        lines.append(f"the rate falls to 0 at step {after.steps:,}, it was to at {before.steps:,}")
    if before.warmup:
        old, new = (math.ceil(s.warmup * s.steps) for s in (before, after))
        lines.append(f"the warm-up takes {new:,} steps, it was to take {old:,}")
    if lines:
        # the end of the shorter run, where it is reached, has no rate of its own
        seen = min(step, before.steps - 1)
        was, will = (f"{rate * s.factor(t):.3g}" for s, t in ((before, seen), (after, step)))
        lines.append(f"the next step's rate is {will}, by the schedule of before {was}")
    return lines


def parse(text: str, steps: int, decay: float = 0.1, warmup: float = 0.0) -> Schedule:
    """Read `constant`, `cosine`, `step` (decays at 50% and 75%) or `step:0.3:0.6:0.9`.

    Raises ValueError for anything else, and for milestones that are not growing shares of the run.
    """
    kind, *rest = text.split(":")
    if kind not in KINDS or (rest and kind != "step"):
        raise ValueError(
            f"--schedule must be constant, cosine, step or step:0.5:0.75, got {text!r}"
        )
    try:
        milestones = tuple(map(float, rest)) or PUBLISHED
    except ValueError as error:
        raise ValueError(f"--schedule {text}: milestones must be numbers") from error
    if list(milestones) != sorted(set(milestones)) or not 0 < milestones[0] <= milestones[-1] < 1:
        raise ValueError(f"--schedule {text}: milestones must grow between 0 and 1")
    return Schedule(kind, steps, milestones, decay, warmup)


def strength(kind: str, step: int, steps: int) -> float:
    """Factor of a strength that is `rising` from 0 or `falling` to 0 linearly over the run, or `constant`."""
    share = step / max(1, steps - 1)
    return {"rising": share, "falling": 1.0 - share}.get(kind, 1.0)
