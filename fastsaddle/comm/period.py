"""When agents that take local steps synchronize: every so many steps, or the longer the smaller the learning rate."""

import math
from dataclasses import dataclass

from fastsaddle.optimizer.hyperparameters import is_number, is_whole


@dataclass(frozen=True)
class QSR:
    """The quadratic synchronization rule: the next period grows with 1 / lr^2.

        H = max(min(max(floor((growth / lr)^2), base), steps left), 1)

    Gu et al. 2024 (arXiv:2310.14423), equation 2 and the authors' code. The first period is the base, and so is one
    that begins at lr = 0. A period that begins in a warm-up, at a small lr, is long.

    Args:
        base: shortest period, in steps, >= 1.
        growth: alpha, > 0 and finite, in the unit of lr; 0.0175 is an example of theirs for AdamW.
        total: steps of the whole run, >= 1, the last of which then synchronizes; None if it is not known.

    Raises:
        ValueError: base or total is not a whole number >= 1, or growth is not > 0 and finite.

    Example:
        >>> import fastsaddle as fs
        >>> rule = fs.QSR(base=4, growth=0.02)
        >>> rule.period(lr=0.01, done=0), rule.period(lr=0.001, done=0)
        (4, 400)
    """

    base: int = 4
    growth: float = 0.0175
    total: int | None = None

    def __post_init__(self) -> None:
        for name in ("base", "total"):
            check_steps(name, getattr(self, name), optional=name == "total")
        if not (is_number(self.growth) and self.growth > 0 and math.isfinite(self.growth)):
            raise ValueError(f"growth must be > 0 and finite, got {self.growth!r}")

    @property
    def first(self) -> int:
        """Steps until the first synchronization."""
        return self.base if self.total is None else min(self.base, self.total)

    def period(self, lr: float, done: int) -> int:
        """Steps until the next synchronization.

        Args:
            lr: learning rate at the beginning of the period.
            done: steps already done.
        """
        longest = max(int((self.growth / lr) ** 2), self.base) if lr > 0 else self.base
        return max(1, longest if self.total is None else min(longest, self.total - done))


def check_steps(name: str, value: int | None, optional: bool = False) -> None:
    """Raise ValueError unless `value` is a whole number of at least 1, or None where that is allowed."""
    if value is None and optional:
        return
    if value is None or not is_whole(value) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
