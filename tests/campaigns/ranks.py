"""Ranks that fail at random moments: every other one names it in time, keeps its models, and takes no further step.

Each attempt is a network of its own in real processes over gloo, of which one is killed or stopped, by a timer or
within a closure, raises, gets a gradient that is no number, or leaves.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.ranks import processes, work
from tests.ranks.verdicts import complaints

DONE = {
    "kill": "killed",
    "stop": "stopped",
    "raise": "raised",
    "nan": "had no gradient",
    "leave": "left",
}
GRAPHS = ("ring", "exponential", "star", "chain", "fully_connected")
MOST_RANKS, MOST_AGENTS = 8, 12
# seconds that a stopped rank is waited for
TIMEOUT = 2.0
BOUND = 30.0


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    ranks = draw.randint(2, MOST_RANKS)
    agents = draw.randint(ranks, MOST_AGENTS)
    cuts = sorted(draw.sample(range(1, agents), ranks - 1))
    counts = tuple(b - a for a, b in pairwise([0, *cuts, agents]))
    name = draw.choice(sorted(work.MAKE))
    # D2 refuses some graphs
    graph = "ring" if name == "D2" else draw.choice(GRAPHS)
    how = draw.choice(["kill", "kill", "stop", "stop", "raise", "raise", "nan", "leave"])
    culprit, at = draw.randrange(ranks), draw.randint(0, 40)
    seconds = draw.expovariate(20) if how in ("kill", "stop") and draw.random() < 0.7 else 0.0
    second = name == "QSADDLe" and draw.random() < 0.5
    served = draw.random() < 0.5
    timeout = TIMEOUT if how == "stop" else 2 * BOUND
    case = (name, graph, counts, culprit, how, at, timeout, seconds, second)
    found = processes.run(work.faulty, ranks, place, *case, bound=BOUND, served=served)
    result = Counts(tried=1)
    result.ended[DONE[how]] += 1
    takes_notes = served and culprit == 0
    for text in complaints(found, culprit, how, counts, timeout, takes_notes):
        kept = result.hangs if text.startswith("hang: ") else result.losses
        kept.append(f"{case}, served {served}: {text}")
    return result


campaign = Campaign("failures", 40, attempt, lambda place: None)
