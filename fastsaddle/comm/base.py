"""The contract of a communicator: how rows travel between agents, and nothing about what they are for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from fastsaddle.comm.lists import Lists, Meeting
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.graphs.schedule import Schedule
from fastsaddle.kernels.consensus import consensus
from fastsaddle.kernels.gossip_step import gossip_step
from fastsaddle.kernels.local_step import local_step
from fastsaddle.kernels.mix_update import mix_update
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.hyperparameters import Hyperparameter
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.ranks.fingerprint import Agreement
    from fastsaddle.ranks.placement import Placement


# rows of the next step that are under way, in an exchange's memory
AHEAD = "ahead"
NOT_STACKED = (
    "parameters must be stacked as [agents, ...], as those of fs.AgentStack(model, agents) are, "
    "got no common first dimension; where each process has one agent, an ordinary module, give process_group="
)


@dataclass(frozen=True)
class LocalStep:
    """What a gossip step does before and after the exchange: the arguments of the op `fs.kernels.gossip_step`.

    `fs.rules.Rows.local_step` makes it.

    Args:
        saved: the models to return to after a perturbation, `[agents, columns]` float32; None if there was none.
        g: gradients, `[agents, columns]` float32.
        momentum: `[agents, columns]` float32 or bfloat16, updated; None for kind 0.
        lr: learning rate, float32, 0-d or `[agents]`.
        weight_decay: L2 coefficient, likewise.
        beta: factor of the momentum, likewise.
        mu: factor of a quasi-global buffer, likewise.
        norm: `[agents]` float32, or None: agents for which it is not finite take no local step.
        kind: 0 no momentum, 1 local, 2 quasi-global.
        nesterov: use Nesterov's form instead of heavy ball.
        maximize: ascend instead of descending.
        seed: seed of the draws that round bfloat16 momentum.
        number: steps done before, int64, 0-d, for the same draws.
        first_agent: number of the first row's agent, for the same draws.
    """

    saved: torch.Tensor | None
    g: torch.Tensor
    momentum: torch.Tensor | None
    lr: torch.Tensor
    weight_decay: torch.Tensor
    beta: torch.Tensor
    mu: torch.Tensor
    norm: torch.Tensor | None
    kind: int
    nesterov: bool
    maximize: bool
    seed: int
    number: torch.Tensor
    first_agent: int = 0

    @property
    def random(self) -> tuple[int, torch.Tensor, int]:
        """Seed, number of the step and first agent, as ops take them."""
        return self.seed, self.number, self.first_agent


def local_models(x: torch.Tensor, step: LocalStep, out: torch.Tensor | None = None) -> torch.Tensor:
    """h, every agent's model after its local step, `[agents, columns]`, new or in `out`; local momentum is updated."""
    h = torch.empty_like(x) if out is None else out
    local_step(
        x,
        step.saved,
        step.g,
        step.momentum,
        h,
        step.lr,
        step.weight_decay,
        step.beta,
        step.norm,
        step.kind,
        step.nesterov,
        step.maximize,
        *step.random,
    )
    return h


def take_mixed(
    x: torch.Tensor, saved: torch.Tensor | None, mixed: torch.Tensor, step: LocalStep, alone: Lists
) -> None:
    """Make `mixed` `[agents, columns]` the models, from `saved` or x, and move quasi-global momentum by the way."""
    momentum = step.momentum if step.kind == 2 else None
    rates = (step.lr, step.mu, step.norm)
    mix_update(x, saved, mixed, momentum, alone.neighbors, alone.weights, *rates, *step.random)


def fused_step_(x: torch.Tensor, step: LocalStep, lists: Lists) -> None:
    """Local step, gossip by `lists` and momentum in one kernel, in place on `x`."""
    gossip_step(
        x,
        step.saved,
        step.g,
        step.momentum,
        lists.neighbors,
        lists.weights,
        step.lr,
        step.weight_decay,
        step.beta,
        step.mu,
        step.norm,
        step.kind,
        step.nesterov,
        step.maximize,
        *step.random,
    )


@dataclass
class Exchange:
    """What the messages of one row buffer are made of in one round. A communicator gets it with each row that is sent.

    Args:
        layout: where tensors lie in the columns.
        states: the communicator's own state for this buffer, by name, `[agents, columns]` float32, updated. Public
            copies may be bfloat16 if a step is one kernel.
        seed: seed of a compressor's random numbers.
        number: steps done before, int64, 0-d; if `fs.comm.Gossip` does not talk exactly once a step, gossips done
            before.
        squares: `[agents, 2]` float64: squared norms of what was to be sent and of what compression lost. It is
            overwritten, and left as it is if nothing is compressed.
        nbytes: bytes sent so far by the agents here, counted by the communicator; int64, 0-d, on the device if the
            rounds of a period send different amounts.
        meetings: who talks to whom in each gossip of this step, if graphs change; empty if W stays.
        origin: the exchange whose states these are copies of; None if they are the states themselves.
        kept: memory that one step after the other may use, by purpose.
        heard: rows of agents in other processes that the last `publish` brought.
        halos: states that are also kept of the agents heard, `[agents + heard, columns]`; their first rows are those in
            `states`.
    """

    layout: FlatLayout
    states: Mapping[str, torch.Tensor]
    seed: int
    number: torch.Tensor
    squares: torch.Tensor
    nbytes: int | torch.Tensor = 0
    meetings: tuple[Meeting, ...] = ()
    origin: Exchange | None = None
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    heard: torch.Tensor | None = None
    halos: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def halo_of(self, name: str) -> torch.Tensor:
        """A state of the agents here, followed by those heard elsewhere.

        Args:
            name: name of the state.
        """
        return self.halos.get(name, self.states[name])

    @property
    def meeting(self) -> Meeting | None:
        """Who talks to whom in this gossip; None if W stays."""
        return self.meetings[0] if self.meetings else None

    def messages_of(self, communicator: Communicator) -> int | torch.Tensor:
        """Number of rows that a gossip sends.

        Args:
            communicator: how rows travel.
        """
        return communicator.messages if self.meeting is None else self.meeting.messages

    def count(self, messages: int | torch.Tensor) -> None:
        """Count rows that were sent whole.

        Args:
            messages: number of rows of the layout.
        """
        self.nbytes = self.nbytes + 4 * self.layout.dim * messages

    def memory(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Memory that is kept for the next step, not yet filled.

        Args:
            name: name of the purpose.
            shape: shape of the tensor.
            dtype: dtype of the tensor.
        """
        found = self.kept.get(name)
        if found is None or found.shape != shape or found.dtype != dtype:
            found = self.kept[name] = torch.empty(shape, dtype=dtype, device=self.squares.device)
        return found

    def copy_of(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy of rows in memory that is kept for the next step.

        Args:
            rows: what to copy.
        """
        return self.memory("copy", rows.shape, rows.dtype).copy_(rows)

    def apart(self) -> Exchange:
        """The same exchange with copies of its states; `settle` makes the copies the states."""
        halos = {name: rows.clone() for name, rows in self.halos.items()}
        states = {
            name: halos[name][: len(rows)] if name in halos else rows.clone()
            for name, rows in self.states.items()
        }
        squares = torch.zeros_like(self.squares)
        return replace(self, states=states, halos=halos, squares=squares, origin=self)

    def forget_ahead(self) -> None:
        """Forget what was sent for the next step, because that step will send something else."""
        self.kept.pop(AHEAD, None)

    def settle(self) -> None:
        """Make the copies of `apart` the states."""
        if self.origin is not None:
            for name in self.states:
                self.origin.halo_of(name).copy_(self.halo_of(name))
            self.origin.squares.copy_(self.squares)


class Communicator:
    """How rows move between agents. Your own is a subclass that writes `mix`; give it as `communicator=`.

    The other methods have general forms, which a communicator overrides if it can do better. Rows are
    `[agents, columns]` float32, of one parameter group. Methods that send add to `exchange.nbytes`.

    Attributes:
        agents: rows of the buffers here; None before `connect` if it comes from the parameters.
        first_agent: number of the first row's agent.
        all_agents: number of agents of the whole network.
        stacked: whether parameters are `[agents, ...]`; otherwise they are ordinary ones of a single agent.
        placement: which process holds which agents; None if all are here.
        heard: number of agents elsewhere that those here hear.
        schedule: which graph each gossip has, of all agents; None if there is none.
        topology: the graph with every edge of any round, of all agents; None if there is none.
        consensus_step: gamma.
        messages: rows that the agents here send in one exchange, to all neighbors together; if graphs change, to those
            of any round.
        states: what it keeps for each row buffer that is sent; for the models under these names.
        shared_states: what else it keeps, once for the whole optimizer.
        hyperparameters: its entries of the parameter groups, and what values they may have.
        defaults: the values of these entries.
        averages: whether agents meet in a mean of all, not in a mixing matrix.
        push_sum: whether the rows are sums, and the models are sums over weights; see `fs.comm.Gossip`.
        pushes: whether rows that are to keep their sum have a matrix of their own; see `fs.comm.PushPull`.
        is_compressed: whether messages are smaller than the rows.
        is_elementwise: whether columns are independent and there are no states, so that a row may be exchanged piece by
            piece.
        may_refuse: whether it can raise an error in the middle of a step, as compressors do if numbers are not finite.
            Everything is then copied before the step, and put back.
        refuses_first: whether an exchange that raises an error has changed nothing.
        decides_on_host: what it reads or counts on the host, so that a step cannot be part of a CUDA graph; None if
            there is nothing.
        once_a_step: whether each step has exactly one exchange of each row.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> class Neighborly(fs.comm.Communicator):
        ...     def __init__(self, agents):
        ...         self.agents = agents
        ...     def mix(self, x, exchange):
        ...         exchange.count(self.agents)
        ...         return (x + x.roll(1, 0)) / 2
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(stack.parameters(), communicator=Neighborly(4))
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        64
    """

    agents: int | None = None
    first_agent: int = 0
    stacked: bool = True
    placement: Placement | None = None
    heard: int = 0
    schedule: Schedule | None = None
    topology: Topology | None = None
    consensus_step: float = 1.0
    messages: int = 0
    states: tuple[State, ...] = ()
    shared_states: tuple[State, ...] = ()
    hyperparameters: Mapping[str, Hyperparameter] = {}
    averages: bool = False
    push_sum: bool = False
    pushes: bool = False
    is_compressed: bool = False
    is_elementwise: bool = False
    may_refuse: bool = True
    refuses_first: bool = False
    decides_on_host: str | None = None
    once_a_step: bool = True

    @property
    def all_agents(self) -> int:
        return self.agents or 0

    @property
    def bytes_on_wire(self) -> int:
        """Bytes that have left this process for others, headers included."""
        return 0

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: rule.default for name, rule in self.hyperparameters.items()}

    @property
    def most_neighbors(self) -> int:
        """Most agents that an agent hears in one exchange."""
        return 0 if self.topology is None else max(map(len, self.topology.neighbors))

    @property
    def given_up(self) -> str | None:
        """What is lost of the savings of a schedule, in words; None if nothing is lost."""
        return None

    @property
    def has_graph(self) -> bool:
        """Whether it is known who hears whom; a single agent hears nobody."""
        return self.topology is not None or (self.agents or 1) == 1

    def connect(self, leading: int | None) -> Communicator:
        """The communicator for an optimizer's parameters; it may be this one.

        What it keeps between steps is in the optimizer, so one communicator may serve several.

        Args:
            leading: first dimension of the parameters; None if they have no common one.

        Raises:
            ValueError: the parameters are not stacked.
        """
        if self.agents is None:
            raise ValueError(f"{type(self).__name__} must say how many agents it has")
        return self

    def check_groups(self, groups: list[dict[str, Any]]) -> None:
        """Raise an error, before anything moves, for parameter groups that it cannot work with.

        Args:
            groups: the parameter groups.

        Raises:
            ValueError: it cannot work with them.
        """

    def gossips(self, optimizer: Optimizer) -> bool:
        """Whether agents exchange rows in the step that begins now; if not, they take only local steps.

        Args:
            optimizer: whose step it is.
        """
        return True

    def meetings(self, optimizer: Optimizer) -> tuple[Meeting, ...]:
        """Who talks to whom in each gossip of the step that begins now.

        Args:
            optimizer: whose step it is.

        Returns:
            One entry for each gossip; empty if the graph never changes.
        """
        return ()

    def down(self, optimizer: Optimizer) -> torch.Tensor | None:
        """Which agents have no part in the step that begins now.

        They neither step nor talk, and everything that is kept of them stays as it is.

        Args:
            optimizer: whose step it is.

        Returns:
            bool `[agents]`, followed by agents elsewhere whose states are kept here; None if all take part.
        """
        return None

    def gossips_begun(self, steps: int) -> int:
        """Number of gossips that have begun after some steps; one that begins with the steps before it counts.

        Args:
            steps: steps done.
        """
        return steps

    def meets(self, optimizer: Optimizer) -> bool:
        """Whether the step that begins now ends with an exchange, when all groups have stepped.

        Args:
            optimizer: whose step it is.
        """
        return False

    def finish(self, optimizer: Optimizer) -> int:
        """Called when all groups have stepped.

        Args:
            optimizer: whose step it is.

        Returns:
            Bytes sent.
        """
        return 0

    def synchronize(self, optimizer: Optimizer) -> int:
        """Bring all agents together now.

        Args:
            optimizer: whose agents they are.

        Returns:
            Bytes sent.

        Raises:
            RuntimeError: agents never meet, because they mix in each step.
        """
        raise RuntimeError(f"{type(self).__name__} has no synchronization, agents mix in each step")

    def center(self, optimizer: Optimizer) -> torch.Tensor | None:
        """The row `[stride]` of the model to evaluate; None if that is the agents' mean.

        Args:
            optimizer: whose agents they are.
        """
        return None

    def lists(self, device: torch.device) -> Lists:
        """The neighbor lists of a W that stays; if graphs change, `fs.comm.Round.lists` has those of a step.

        Args:
            device: the device of the lists.

        Raises:
            RuntimeError: it has no lists.
        """
        raise RuntimeError(f"{type(self).__name__} has no neighbor lists")

    def alone(self, device: torch.device) -> Lists:
        """Neighbor lists by which every agent reads only its own row.

        Args:
            device: the device of the lists.
        """
        own = torch.arange(self.agents or 1, dtype=torch.int32, device=device)[:, None]
        return Lists(own, torch.ones(len(own), 1, dtype=torch.float32, device=device), own[:, 1:])

    def lists_of_w(self, device: torch.device, meeting: Meeting | None = None) -> Lists:
        """Neighbor lists with the weights of W itself, whatever the consensus step is.

        Args:
            device: where they are to be.
            meeting: of which gossip, where graphs change.

        Raises:
            RuntimeError: it has none.
        """
        return self.lists(device) if meeting is None else meeting.lists

    def mix_all(
        self, rows: tuple[torch.Tensor, ...], exchanges: list[Exchange]
    ) -> tuple[torch.Tensor, ...]:
        """`mix` of several row buffers of one step, in one exchange if possible.

        Args:
            rows: the row buffers, each `[agents, columns]`.
            exchanges: the exchange of each.

        Returns:
            The mixed rows, new, in the same order.
        """
        return tuple(self.mix(x, e) for x, e in zip(rows, exchanges, strict=True))

    def mix(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """One exchange: W x with the consensus step folded in. It adds to `exchange.nbytes`.

        Args:
            x: rows, `[agents, columns]` float32.
            exchange: what the messages are made of.

        Returns:
            `[agents, columns]`, new.
        """
        # what a communicator is
        raise NotImplementedError

    def differences(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """One exchange: `mix(x) - x`, if possible such that what an edge moves cancels exactly.

        Args:
            x: rows, `[agents, columns]` float32.
            exchange: what the messages are made of.

        Returns:
            `[agents, columns]`, new.
        """
        return self.mix(x, exchange) - x

    def pushed(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """`mix` by a matrix whose columns sum to one, so that the sum of all agents' rows is kept.

        Args:
            x: rows, `[agents, columns]` float32.
            exchange: what the messages are made of.

        Returns:
            `[agents, columns]`, new.
        """
        return self.mix(x, exchange)

    def gossip_step_(self, x: torch.Tensor, step: LocalStep, exchange: Exchange) -> None:
        """Local step, one exchange of the models after it, momentum; all in place on `x`.

        Args:
            x: models, `[agents, columns]` float32.
            step: what the local step does.
            exchange: what the messages are made of.
        """
        mixed = self.mix(local_models(x, step), exchange)
        take_mixed(x, step.saved, mixed, step, self.alone(x.device))

    def publish(self, x: torch.Tensor, exchange: Exchange) -> None:
        """One exchange of which nothing is mixed yet: neighbors know the models from now on, and states follow.

        Args:
            x: models, `[agents, columns]` float32.
            exchange: what the messages are made of.
        """
        exchange.count(exchange.messages_of(self))

    def copies(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """What neighbors know of the models after `publish`, followed by the models of agents heard from elsewhere.

        Args:
            x: the models that were published.
            exchange: the same as for `publish`.

        Returns:
            `[agents + heard, columns]`; may be x itself.
        """
        return x

    def pulled(self, x: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        """The models mixed with what was published: `publish` and `pulled` together are `mix`.

        Args:
            x: the models that were published.
            exchange: the same as for `publish`.

        Returns:
            `[agents, columns]`, new.
        """
        return self.mix(x, replace(exchange))

    def loaded(self) -> None:
        """Called when states were loaded: what was made of the earlier ones is out of date."""

    def catch_up(self) -> None:
        """Take in messages that have not been read yet, because rows are about to be laid out anew, or copied."""

    def send_ahead(self, rows: list[tuple[torch.Tensor, Exchange]]) -> None:
        """Called with overlap when a step is done: begin to send rows that the next step mixes as they are now.

        Args:
            rows: rows of all parameter groups, with the exchanges in which they will be mixed.
        """

    def halo(self, x: torch.Tensor) -> torch.Tensor:
        """Rows of the agents here, followed by those of agents elsewhere that they hear.

        Args:
            x: rows of the agents here.

        Returns:
            `[agents + heard, ...]`; x itself if all agents are here.
        """
        return x

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        """Send one row along each directed edge; `incoming` of `lists(...)` says where what was sent to an agent lies.

        Args:
            rows: blocks of one row for each agent; block k is sent to each agent's k-th neighbor.

        Returns:
            The rows sent, followed by those that arrived from elsewhere.
        """
        return rows

    def send_slot(self, slot: int, rows: torch.Tensor) -> None:
        """Begin `deliver` for one block. If one block is sent so, all are, one after the other; see `slots_arrived`.

        Args:
            slot: which of its neighbors each agent sends to, from 0 on.
            rows: the block, `[agents, ...]` float32 or uint8.
        """

    def slots_arrived(self) -> torch.Tensor | None:
        """What `send_slot` has brought, `[arriving, ...]`, each row once; None if nothing was sent so."""
        return None

    @property
    def overlaps(self) -> bool:
        """Whether messages travel while gradients are taken."""
        return self.placement is not None and self.placement.overlap == "auto"

    @property
    def arriving(self) -> tuple[tuple[int, int], ...]:
        """For each edge from elsewhere to here, (agent, place of the sender among its neighbors), in the order of
        `deliver`.
        """
        return ()

    def deliver_bytes(self, rows: torch.Tensor) -> torch.Tensor:
        """`deliver` of bytes, but returning only what came from elsewhere.

        Args:
            rows: uint8 `[rows, bytes]`.

        Returns:
            uint8 `[arriving, bytes]`.
        """
        return rows[:0]

    def resume(self, exchanges: list[Exchange]) -> None:
        """Called when states were loaded: get the rows of agents elsewhere in `halos` from their owners.

        All ranks do the same.

        Args:
            exchanges: those of all row buffers.
        """

    def mean(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of all agents' rows, and each agent's distance to it.

        Args:
            x: `[agents, columns]` float32.

        Returns:
            The mean `[columns]` float32, and the squared distances to it `[agents]` float64.
        """
        mean = torch.empty(x.shape[1], dtype=torch.float32, device=x.device)
        squared_distance = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        if x.shape[1]:
            consensus(x, mean, squared_distance)
        else:
            squared_distance.zero_()
        return mean, squared_distance

    def rows_of_all(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of all agents in order, also of those in other processes.

        Args:
            x: rows of the agents here, `[agents, ...]`.

        Returns:
            `[all agents, ...]`, new.
        """
        return x.clone()

    def point(self, x: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        """A context for closures, in which the rows are where gradients are taken (for push-sum, sums over weights).

        Args:
            x: the rows.
        """
        return contextlib.nullcontext()

    def join(self, agreement: Agreement, steps: Callable[[], int]) -> None:
        """Called once over processes, when all ranks have made the same optimizer.

        Args:
            agreement: what ranks know of each other.
            steps: says how many steps the optimizer has done.
        """

    def begin(self, optimizer: Optimizer) -> None:
        """Called before a step: raise an error if agents in other processes are out of reach for good.

        Args:
            optimizer: whose step it is.
        """

    def compare(
        self, cause: str, facts: Callable[[], Mapping[str, str]], together: bool = False
    ) -> None:
        """Something changed here that must change alike on all ranks: raise an error on every rank if it did not.

        Args:
            cause: what changed, in at most 72 characters.
            facts: gives what must be equal everywhere, by name.
            together: whether all ranks exchange with each other next, and not only with neighbors.
        """

    def look(self) -> None:
        """Called where results are read: raise errors that could not be seen earlier, as on a GPU."""

    def agree(self, norm: torch.Tensor) -> None:
        """Called before a step changes anything: over processes, raise an error on every rank or on none.

        Args:
            norm: norms of the gradients, `[agents]`.
        """

    def is_anywhere(self, here: bool) -> bool:
        """Whether something is so in any of the processes; all of them must ask.

        Args:
            here: whether it is so here.
        """
        return here

    def withdraw(self, error: BaseException) -> None:
        """Called when a step has failed here: tell the processes that wait for this one.

        Args:
            error: what was raised.
        """


class Round:
    """One parameter group's exchanges in one step: what `comm` is in `fs.rules.Rule.step`.

    Args:
        communicator: how rows travel.
        exchanges: the exchange of each row buffer that the rule sends, in order.
        sends: names of these row buffers.
        gossips: whether this step has an exchange at all; if not, mixed rows are the rows as they were.
        meetings: who talks to whom in each gossip of the step, if graphs change.

    Attributes:
        told: the mixed models, if the gradient has published them already.
    """

    def __init__(
        self,
        communicator: Communicator,
        exchanges: list[Exchange],
        sends: tuple[str, ...],
        gossips: bool = True,
        meetings: tuple[Meeting, ...] = (),
    ) -> None:
        self.communicator, self.exchanges, self.gossips = communicator, list(exchanges), gossips
        self.meetings = meetings
        for exchange in exchanges:
            exchange.nbytes, exchange.meetings = 0, meetings
        self.told: torch.Tensor | None = None
        self._sends, self._sent = sends, 0

    @property
    def nbytes(self) -> int | torch.Tensor:
        """Bytes sent so far."""
        return sum(exchange.nbytes for exchange in self.exchanges)

    @property
    def messages(self) -> int | torch.Tensor:
        """Rows that are sent whole in the step's first exchange, to all neighbors together."""
        return self.meetings[0].messages if self.meetings else self.communicator.messages

    def mixed(self, *rows: torch.Tensor) -> Any:
        """W rows, with the consensus step folded in: sum_j W_ij rows_j.

        With a compressor each row buffer of a step has its own public copies, in the order of `fs.rules.Rule.sends`;
        the result is rows + gamma (W copies - copies), after the copies have moved by what was sent.

        Args:
            rows: one row buffer or several, each `[agents, columns]`.

        Returns:
            The mixed rows, new; a tuple if several are given.
        """
        if not self.gossips:
            return _one_or_all(tuple(x.clone() for x in rows))
        exchanges = [self._take() for _ in rows]
        return _one_or_all(self.communicator.mix_all(rows, exchanges))

    def pushed(self, x: torch.Tensor) -> torch.Tensor:
        """`mixed(x)` of a row whose sum over all agents is to be kept, also if W itself does not keep sums.

        Args:
            x: the row buffer, `[agents, columns]`.

        Returns:
            The mixed rows, new.
        """
        return self.communicator.pushed(x, self._take()) if self.gossips else x.clone()

    def differences(self, *rows: torch.Tensor) -> Any:
        """`mixed(rows) - rows`, such that what an edge moves cancels exactly.

        Args:
            rows: one row buffer or several, each `[agents, columns]`.

        Returns:
            The differences, new; a tuple if several are given.
        """
        if not self.gossips:
            return _one_or_all(tuple(map(torch.zeros_like, rows)))
        return _one_or_all(tuple(self.communicator.differences(x, self._take()) for x in rows))

    def mixed_models(self, x: torch.Tensor) -> torch.Tensor:
        """`mixed(x)` of the models; they are not sent again if the gradient has published them in this step.

        Args:
            x: the models, `[agents, columns]`.

        Returns:
            The mixed models.
        """
        return self.mixed(x) if self.told is None else self.told

    def gossip_step_(self, x: torch.Tensor, step: LocalStep) -> None:
        """Local step, exchange and momentum, all in place on the models, in one kernel if possible.

        Args:
            x: the models, `[agents, columns]`.
            step: what the local step does, from `fs.rules.Rows.local_step`.
        """
        if self.gossips:
            self.communicator.gossip_step_(x, step, self._take())
        else:
            fused_step_(x, step, self.communicator.alone(x.device))

    def apart(self) -> Exchange:
        """Go on with copies of the models' states, because nothing may change yet; `settle` makes them the states."""
        self.exchanges[0] = self.exchanges[0].apart()
        return self.exchanges[0]

    def settle(self) -> None:
        """Called when the step is done."""
        for exchange in self.exchanges:
            exchange.settle()

    def deliver(self, rows: torch.Tensor) -> torch.Tensor:
        """Send one row along each directed edge, see `fs.comm.Communicator.deliver`.

        Args:
            rows: blocks of one row for each agent; block k is sent to each agent's k-th neighbor.

        Returns:
            The rows sent, followed by those that arrived from elsewhere.
        """
        exchange = self._take()
        exchange.count(self.messages)
        return self.communicator.deliver(rows)

    def lists(self, device: torch.device) -> Lists:
        """The neighbor lists of the step's first exchange.

        Args:
            device: the device of the lists.
        """
        return self.meetings[0].lists if self.meetings else self.communicator.lists(device)

    def piece(self, part: slice) -> Round:
        """The same round for some of the group's columns, if nothing is compressed. Bytes count once.

        Args:
            part: the columns.
        """
        # not made anew: that would forget the bytes of what the gradient has sent
        piece = copy.copy(self)
        piece.told = None if self.told is None else self.told[:, part]
        piece.exchanges = [e if part.start == 0 else replace(e) for e in self.exchanges]
        return piece

    def _take(self) -> Exchange:
        """The next row buffer's exchange."""
        if self._sent >= len(self.exchanges):
            raise RuntimeError(
                f"a rule that sends {self._sent + 1} row buffers a step must name them in `sends`, "
                f"got {self._sends}"
            )
        self._sent += 1
        return self.exchanges[self._sent - 1]


def _one_or_all(found: tuple[torch.Tensor, ...]) -> Any:
    return found if len(found) > 1 else found[0]
