"""Links and agents that fail: any schedule, with W repaired in each round so that it keeps what it kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from numbers import Integral, Real
from typing import NamedTuple

import torch

from fastsaddle.graphs import draws, fault_log
from fastsaddle.graphs.fault_log import Fallen, Log
from fastsaddle.graphs.mixing_matrix import SYMMETRIC, Kind, Topology
from fastsaddle.graphs.schedule import (
    Drawn,
    Recent,
    Schedule,
    graph_of,
    is_schedule,
    kind_of,
    most_neighbors,
)

# rounds that are drawn together for steps, one after the other, and how many such blocks are kept
BLOCK, KEPT = 64, 4
# links of all rounds that are drawn together, at most: a step would wait for rounds that are far off
MOST_DRAWN = 2**22
# rounds that are looked at together where many are asked for
AT_ONCE = 512
# agents that a pair's number has room for
MOST_AGENTS = 2**16


@dataclass(frozen=True)
class Faults:
    """Links that fail and agents that are down, drawn anew for each round, over any graph or schedule.

    A failed link fails in both directions. Where W is symmetric its weight goes to the two agents themselves, W_ii +=
    W_ij and W_jj += W_ij, so that W stays symmetric, doubly stochastic and non-negative, and the mean is kept. On a
    directed graph an agent divides what it sends among the agents it still reaches: columns are scaled to sum to one
    again, as push-sum needs. An agent that is down takes no local step and talks to nobody, W_ii = 1: its model and its
    state keep their exact bits. With a compressor, a failed link carries nothing; in the round in which it is back,
    each end gets the whole public copy of the other, as float32, instead of that round's message.

    A round is a gossip together with the local steps before it. Draws are by (seed, round, link or agent), so they do
    not depend on who asks, or in which order. Links are drawn whether or not the round's graph has them. Gradients of
    agents that are down are still computed, and not used.

    Args:
        links: probability that a link is down in a round, in [0, 1).
        agents: probability that an agent is down in a round, in [0, 1).
        slow: agents that take part only in every k-th round (0, k, 2 k, ...) and are down in the others, as agent
            number -> k: `{3: 4}`.
        seed: seed of the draws, a whole number from 0 to 2^63 - 1.
        log: faults of an earlier run, repeated instead of drawn: the path of its faults.jsonl, or the records. Rounds
            that it does not name have no faults.

    Raises:
        ValueError: a number is out of range, or a log is given together with `links`, `agents` or `slow`.

    Example:
        >>> import fastsaddle as fs
        >>> ring = fs.topology.ring(16)
        >>> fs.Faults(links=0.1, seed=1).over(ring)
        Schedule(ring with faults, agents=16, drawn)
    """

    links: float = 0.0
    agents: float = 0.0
    slow: Mapping[int, int] | None = None
    seed: int = 0
    log: Log | None = None

    def __post_init__(self) -> None:
        for name, chance in (("links", self.links), ("agents", self.agents)):
            is_number = isinstance(chance, Real) and not isinstance(chance, bool)
            if not is_number or not 0 <= chance < 1:
                raise ValueError(f"{name} must be a probability in [0, 1), got {chance!r}")
        for agent, each in (self.slow or {}).items():
            if not (_is_whole(agent, 0) and _is_whole(each, 1)):
                raise ValueError(
                    "slow must be agents by number with the k of every k-th round, k >= 1, such as {3: 4}, "
                    f"got {self.slow!r}"
                )
        draws.check_seed(self.seed)
        if self.log is not None and (self.links or self.agents or self.slow):
            raise ValueError("log takes the place of links, agents and slow, got both")

    def over(self, schedule: Schedule) -> Faulty:
        """Put these faults over a topology or schedule.

        Args:
            schedule: the graph without faults, with at most 65536 agents; its W must not be row-stochastic alone.

        Returns:
            A schedule, to be passed as `topology=`. Its `down(round)` says which agents are down, bool `[agents]`.

        Raises:
            ValueError: not a schedule, one that has faults already or whose W is only row-stochastic, or agents and
                links that it does not have.
            FileNotFoundError: the log does not exist.

        Example:
            >>> import fastsaddle as fs
            >>> graph = fs.Faults(slow={3: 4}).over(fs.topology.ring(8))
            >>> graph.down(1)
            tensor([False, False, False,  True, False, False, False, False])
        """
        return Faulty(self, schedule)


class Faulty(Drawn):
    """A schedule whose links and agents fail; see `Faults`.

    Attributes:
        faults: how.
        schedule: the one without faults.
        links: int64 `[links, 2]`: every link of any round, ascending: pairs i < j, or who sends and who hears where
            graphs are directed.
        loses_agents: whether an agent may be down.
        log_digest: SHA-256 of what the log says, where there is one.
    """

    def __init__(self, faults: Faults, schedule: Schedule) -> None:
        if not is_schedule(schedule):
            raise ValueError(
                f"faults are over an fs.Topology or an fs.Schedule, fs.topology.ring(16), got {schedule!r}"
            )
        if isinstance(schedule, Faulty):
            raise ValueError(f"one fs.Faults says all that fails, {schedule!r} has such already")
        if schedule.agents > MOST_AGENTS:
            raise ValueError(f"faults are for at most {MOST_AGENTS} agents, got {schedule.agents}")
        kind = kind_of(schedule)
        if kind == "row-stochastic":
            raise ValueError(
                f"faults need a mixing matrix whose columns sum to one, that of {schedule!r} is row-stochastic"
            )
        self.faults, self.schedule = faults, schedule
        self._is_symmetric = kind == SYMMETRIC
        linked = schedule.union.W.T > 0
        self.links = linked.fill_diagonal_(False).nonzero()
        if self._is_symmetric:
            self.links = self.links[self.links[:, 0] < self.links[:, 1]]
        self._logged = None if faults.log is None else fault_log.read(faults.log)
        self._check_agents()
        self.loses_agents = bool(faults.agents or faults.slow) or any(
            fallen.agents for fallen in (self._logged or {}).values()
        )
        self._blocks: Recent[Rounds] = Recent(KEPT)
        self._block = self._at_most(BLOCK)
        kept: Kind = SYMMETRIC if self._is_symmetric else "column-stochastic"
        most = most_neighbors(schedule)
        super().__init__(f"{schedule.name} with faults", self._mean(), kept, most)
        # processes that read a log tell by it whether it is the same
        self.log_digest: str | None = None
        if self._logged is not None:
            self.log_digest = sha256(fault_log.text(self._logged).encode()).hexdigest()

    def down(self, round: int) -> torch.Tensor:
        """Who is down in a round, bool `[agents]` on the CPU."""
        return self._of(round).agents[0].clone()

    def draw(self, round: int) -> Topology:
        graph = graph_of(self.schedule, round)
        lost = self.links[~self._reached(round)]
        lost = lost[graph.W[lost[:, 1], lost[:, 0]] > 0]
        if self._is_symmetric:
            lost = torch.cat([lost, lost.flip(1)])
        W = _repaired(graph.W, lost, self._is_symmetric)
        return Topology(self.name, W)

    def deliveries(self, round: int, senders: range | None = None) -> tuple[int, int]:
        """How many compressed messages arrive in a round, and how many public copies are sent whole in place of one.

        Messages go along the links of any round, both ways where W is symmetric. A copy goes along each that was down
        in the round before.

        Args:
            round: which.
            senders: whose messages count; None: all agents'.
        """
        reached = self._reached(round)
        before = self._reached(round - 1) if round else torch.ones_like(reached)
        ends = self.links if self._is_symmetric else self.links[:, :1]
        is_theirs = torch.ones_like(ends, dtype=torch.bool)
        if senders is not None:
            is_theirs = (ends >= senders.start) & (ends < senders.stop)
        ways = is_theirs.sum(1)
        return int(ways[reached & before].sum()), int(ways[reached & ~before].sum())

    def happened(self, rounds: range) -> Rounds:
        """What is down in each of some rounds."""
        if self._logged is None:
            return self._drawn(rounds)
        links = torch.zeros(len(rounds), len(self.links), dtype=torch.bool, device="cpu")
        agents = torch.zeros(len(rounds), self.schedule.agents, dtype=torch.bool, device="cpu")
        places = {tuple(pair): k for k, pair in enumerate(self.links.tolist())}
        for row, fallen in enumerate(self._logged.get(t, Fallen((), ())) for t in rounds):
            links[row, [places[pair] for pair in fallen.links]] = True
            agents[row, list(fallen.agents)] = True
        return Rounds(links, agents)

    def records(self, rounds: range) -> dict[int, Fallen]:
        """What happens in some rounds, as a log has it: `fault_log.text` makes lines of it."""
        records: dict[int, Fallen] = {}
        pairs = [(i, j) for i, j in self.links.tolist()]
        for part in self._parts(rounds):
            found = self.happened(part)
            links, agents = found.links.nonzero().tolist(), found.agents.nonzero().tolist()
            fell: list[list[tuple[int, int]]] = [[] for _ in part]
            down: list[list[int]] = [[] for _ in part]
            for row, k in links:
                fell[row].append(pairs[k])
            for row, agent in agents:
                down[row].append(agent)
            both = zip(part, fell, down, strict=True)
            records |= {t: Fallen(tuple(f), tuple(d)) for t, f, d in both}
        return records

    def shares(self, rounds: range) -> tuple[float, float]:
        """Which share of the links fell in some rounds, and of the agents was down; NaN of no rounds."""
        fell = down = 0
        for part in self._parts(rounds):
            found = self.happened(part)
            fell, down = fell + int(found.links.sum()), down + int(found.agents.sum())
        counts = len(rounds) * len(self.links), len(rounds) * self.agents
        links, agents = (
            n / count if count else math.nan for n, count in zip((fell, down), counts, strict=True)
        )
        return links, agents

    def _check_agents(self) -> None:
        """Raise ValueError for agents and links that the schedule does not have."""
        agents = self.schedule.agents
        named = set(self.faults.slow or {})
        for fallen in (self._logged or {}).values():
            named |= set(fallen.agents)
        if outside := sorted(int(agent) for agent in named if agent >= agents):
            raise ValueError(f"faults name agent {outside[0]}, {self.schedule!r} has {agents}")
        if self._logged is None:
            return
        pairs = {(i, j) for i, j in self.links.tolist()}
        for t, fallen in sorted(self._logged.items()):
            if unknown := sorted(set(fallen.links) - pairs):
                raise ValueError(
                    f"round {t} of the log names the link {list(unknown[0])}, which {self.schedule!r} has not"
                )

    def _of(self, round: int) -> Rounds:
        """One round."""
        number, row = divmod(round, self._block)
        links, agents = self._blocks.at(number, self._in_block)
        return Rounds(links[row : row + 1], agents[row : row + 1])

    def _in_block(self, number: int) -> Rounds:
        return self.happened(range(number * self._block, (number + 1) * self._block))

    def _at_most(self, rounds: int) -> int:
        """So many rounds, or fewer where they would have too many links."""
        return max(1, min(rounds, MOST_DRAWN // max(1, len(self.links))))

    def _parts(self, rounds: range) -> list[range]:
        """The same one after the other, few enough at a time."""
        size = self._at_most(AT_ONCE)
        return [rounds[k : k + size] for k in range(0, len(rounds), size)]

    def _reached(self, round: int) -> torch.Tensor:
        return self._of(round).reached(self.links)[0]

    def _drawn(self, rounds: range) -> Rounds:
        faults, count = self.faults, self.schedule.agents
        times = torch.tensor(list(rounds), dtype=torch.int64, device="cpu")
        numbers = self.links[:, 0] * MOST_AGENTS + self.links[:, 1]
        everybody = torch.arange(count, dtype=torch.int64, device="cpu")
        links = _fall(numbers, times, faults.links, faults.seed, draws.LINKS)
        agents = _fall(everybody, times, faults.agents, faults.seed, draws.AGENTS)
        for agent, each in (faults.slow or {}).items():
            agents[:, agent] |= times % each != 0
        return Rounds(links, agents)

    def _mean(self) -> Topology:
        """The union with W as it is on average, where the two have nothing to do with each other."""
        union, faults = self.schedule.union, self.faults
        if not self._is_symmetric or self._logged is not None:
            return union
        each = torch.ones(union.agents, dtype=torch.int64, device="cpu")
        for agent, k in (faults.slow or {}).items():
            each[agent] = k
        together = torch.lcm(each[:, None], each[None, :]).double()
        W = union.W * ((1 - faults.links) * (1 - faults.agents) ** 2 / together)
        W.fill_diagonal_(0).diagonal().copy_(1 - W.sum(1))
        return Topology(union.name, W)


class Rounds(NamedTuple):
    """What is down in some rounds, on the CPU.

    Attributes:
        links: bool `[rounds, links]`: those that fell.
        agents: bool `[rounds, agents]`.
    """

    links: torch.Tensor
    agents: torch.Tensor

    def reached(self, pairs: torch.Tensor) -> torch.Tensor:
        """Links that carry something, bool `[rounds, links]`: they are up, and both ends are; `pairs` are all links."""
        down: torch.Tensor = self.links | self.agents[:, pairs].any(2)
        return ~down


def _fall(
    numbers: torch.Tensor, rounds: torch.Tensor, chance: float, seed: int, stream: int
) -> torch.Tensor:
    """Who falls with that chance, bool `[rounds, numbers]`."""
    if not chance:
        return torch.zeros(len(rounds), len(numbers), dtype=torch.bool, device="cpu")
    return draws.words_of(numbers, seed, rounds, stream) < round(chance * 2**32)


def _repaired(W: torch.Tensor, lost: torch.Tensor, is_symmetric: bool) -> torch.Tensor:
    """W without what was lost, `[lost, 2]`: who sends and who hears.

    The weights stay with the senders of a symmetric W; otherwise what is left of a column is scaled to what it was.
    """
    W = W.clone()
    senders = lost[:, 0].unique()
    W[lost[:, 1], lost[:, 0]] = 0
    if is_symmetric:
        # from what is left, so that whoever is alone has one exactly
        W[senders, senders] = 0
        W[senders, senders] = 1 - W[senders].sum(1)
        return W
    left = W[:, senders].sum(0)
    W[:, senders] /= torch.where(left > 0, left, 1)
    alone = senders[left == 0]
    W[alone, alone] = 1
    return W


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
