"""Signals whose handlers raise, at random moments of steps: a step is done whole, or not at all.

An attempt is one method, with a compressor or without, whose steps are interrupted some dozens of times: by a timer
once or again and again, by another process, or where the interpreter calls a function. After each the models, states
and counters must be those before the step or those after it, of a run that nobody interrupted.
"""

from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.campaigns.forked import warm_up

# interrupted steps of an attempt
BLOCK = 50


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    from tests.optimizers.interrupted_steps import EVERY, WAYS, Judge, interrupt_steps

    case, way, seed = draw.choice([*EVERY]), draw.choice(WAYS), draw.randrange(2**32)
    counts, judge = Counts(), Judge(case, seed)
    try:
        interrupt_steps(judge, way, BLOCK, draw)
    except AssertionError as error:
        counts.losses.append(f"{case}, {way}, seed {seed}: {error}".splitlines()[0])
    counts.tried = judge.left.total()
    for end, number in judge.left.items():
        counts.ended[f"step {'undone' if end == 'before' else 'done'}"] += number
    if counts.tried < BLOCK and not counts.losses:
        counts.losses.append(f"{case}, {way}, seed {seed}: only {counts.tried} signals came")
    return counts


campaign = Campaign("signals", 20_000, attempt, warm_up)
