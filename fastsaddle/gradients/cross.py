"""Every agent's gradient as a mean of gradients taken by, or at, its neighbors: the exchange of NGM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from fastsaddle.comm.base import Communicator
from fastsaddle.comm.choco import CompressedGossip
from fastsaddle.comm.lists import Lists, Meeting
from fastsaddle.compressors._wire import row_norms
from fastsaddle.compressors.base import Compressor, Payload
from fastsaddle.gradients.ascents import Ascent
from fastsaddle.gradients.base import Found, Gradient, Plain, at_one_model
from fastsaddle.gradients.sam import SLOT_STRIDE
from fastsaddle.graphs.mixing_matrix import Topology
from fastsaddle.kernels.op import use_backend
from fastsaddle.kernels.weighted_sum import weighted_sum
from fastsaddle.optimizer.state import State

if TYPE_CHECKING:
    from fastsaddle.gradients.base import Closure
    from fastsaddle.optimizer.shell import Optimizer
    from fastsaddle.rules.base import Rule


class Cross(Gradient):
    """The mean, weighed by W, of an agent's own gradient and of cross-gradients.

    It needs the rule `fs.rules.AdaptedMomentum`.

        data:   G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_j(x_i)       taken by the neighbors, on their batches
        model:  G_i = W_ii grad F_i(x_i) + sum_j W_ij grad F_i(x_j)       at the neighbors' models, on the own batch

    Aketi, Kodge and Roy 2022 (arXiv:2209.14390). A graph of largest degree d takes d + 1 evaluations a step: the
    stack's rows hold each agent's own model, then its first neighbor's, its second's and so on, and the closure
    evaluates whatever they hold on every agent's own batch. BatchNorm's statistics move only at the own models.
    Parameters return to their values in any case.

    Models are sent to the neighbors, and with "data" each cross-gradient is sent back. With a compressor models travel
    by CHOCO gossip, cross-gradients are taken at public copies, and are sent with error feedback, one memory for each
    neighbor. It adds the states `residual_1`, `residual_2`, ...: what was kept back for each neighbor, in ascending
    order.

    Args:
        kind: "data" or "model".
        of: the gradient that is taken at each model, `fs.gradients.Plain()` or `fs.gradients.SAM(...)`, each with its
            own norm; None is plain.
        perturb: whether "all" gradients are of that kind, or only the "self"-gradient, with the others plain.
        mixed_self_gradient: take the self-gradient, and weight decay, at the mixed model instead, as the authors' code
            does.

    Raises:
        ValueError: another kind, another word for `perturb`, or `of` is not taken at one model.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.Optimizer(
        ...     stack.parameters(),
        ...     gradient=fs.gradients.Cross("model"),
        ...     rule=fs.rules.AdaptedMomentum("local"),
        ...     communicator=fs.comm.Gossip("ring"),
        ... )
        >>> optimizer.evaluations
        3
    """

    needs_closure = "takes gradients at the neighbors' models"

    def __init__(
        self,
        kind: Literal["data", "model"] = "data",
        of: Gradient | None = None,
        perturb: Literal["all", "self"] = "all",
        mixed_self_gradient: bool = False,
    ) -> None:
        check_kind("kind", kind)
        if perturb not in ("all", "self"):
            raise ValueError(f'perturb must be "all" or "self", got {perturb!r}')
        self.kind: Literal["data", "model"] = kind
        self.of = at_one_model(of)
        self.perturb_which: Literal["all", "self"] = perturb
        self.mixed_self_gradient = mixed_self_gradient
        self.hyperparameters = self.of.hyperparameters

    @property
    def defaults(self) -> dict[str, Any]:
        return self.of.defaults

    @property
    def ascent(self) -> Ascent | None:  # type: ignore[override]
        return self.of.ascent

    @property
    def decides_on_host(self) -> str | None:  # type: ignore[override]
        return self.of.decides_on_host

    def states_with(self, communicator: Communicator) -> tuple[State, ...]:
        slots = range(1, models_of(communicator))
        sent = slots if self._compressor(communicator) is not None else ()
        perturbed = slots if self.perturb_which == "all" else ()
        return (
            *(State(f"residual_{slot}") for slot in sent),
            *self.of.states_with(communicator),
            *(state for slot in perturbed for state in self.of.slot_states(slot)),
        )

    def evaluations(self, communicator: Communicator) -> float:
        others = models_of(communicator) - 1
        own = self.of.evaluations(communicator)
        return own + others * (own if self.perturb_which == "all" else 1)

    def refuses(self, rule: Rule, communicator: Communicator) -> str | None:
        if not rule.mixes_first:
            return f"cross-gradients need a rule that mixes first, AdaptedMomentum, {rule.name} mixes later"
        if not communicator.once_a_step:
            return "cross-gradients need Gossip with every=1 and rounds=1: the neighbors' models, once a step"
        if not communicator.has_graph:
            return f"cross-gradients need a graph, {type(communicator).__name__} has none"
        if self._compressor(communicator) is not None and changes(communicator):
            return (
                f"{rule.name} keeps what compression of cross-gradients left over for each neighbor: with a compressor "
                f"it needs a graph that stays, got {communicator.schedule!r}"
            )
        return self.of.refuses(rule, communicator)

    def bind(self, optimizer: Optimizer) -> None:
        self.of.bind(optimizer)
        if "gradients" in optimizer.made:
            return
        device, communicator = optimizer.rows.x.device, optimizer.communicator
        models = models_of(communicator)
        layout = optimizer.rows.layout
        optimizer.made["gradients"] = layout.allocate(models * optimizer.agents, device)
        if changes(communicator):
            return
        # W itself, whatever the consensus step of the models is
        lists = communicator.lists_of_w(device)
        optimizer.made["sources"] = sources_of(lists, self.kind == "data")
        optimizer.made["weights"] = lists.weights
        # how many lists reach each slot; found on the host, as reading a sum would wait for a GPU
        graph, first = communicator.topology, communicator.first_agent
        near = () if graph is None else graph.neighbors[first : first + optimizer.agents]
        optimizer.made["listeners"] = [sum(len(n) >= slot for n in near) for slot in range(models)]

    def passes(self, optimizer: Optimizer) -> int:
        """Number of gradients that the next step takes at each model.

        Args:
            optimizer: whose step it is.
        """
        return self.of.passes(optimizer)

    def take(self, optimizer: Optimizer, closure: Closure | None, passes: int | None = None) -> Any:
        assert closure is not None
        # before their buffers are named
        optimizer.follow()
        communicator, rows = optimizer.communicator, optimizer.rows
        models, known, loss = models_of(communicator), rows.x, None
        # the neighbors' models may be on their way while the own gradient is taken
        hears_at = 0 if self.mixed_self_gradient or models == 1 else 1
        for slot in range(models):
            if slot == hears_at:
                known = self._hear(optimizer)
            if slot == 0:
                model = None if self.mixed_self_gradient else rows.x
            else:
                model = known.index_select(0, self._lists(optimizer).whose(slot))
            found = self._evaluate(optimizer, closure, slot, model)
            loss = found if slot == 0 else loss
            if slot > 0 and self.kind == "data" and communicator.overlaps:
                self._send_slot(optimizer, slot)
        optimizer.leave()
        return loss

    def _hear(self, optimizer: Optimizer) -> torch.Tensor:
        """Send the models; what is known of them and of those heard, `[agents + heard, stride]`."""
        home = optimizer.phase.home
        own = optimizer.rows.x if home is None else home
        with use_backend(optimizer.backend):
            rounds = [*optimizer.begin_rounds()]
            # who is heard may be others than in the round before
            known = own.new_empty(len(own) + optimizer.communicator.heard, own.shape[1])
            for comm, columns in rounds:
                x, exchange = own[:, columns], comm.apart()
                comm.communicator.publish(x, exchange)
                known[:, columns] = comm.communicator.copies(x, exchange)
                comm.told = comm.communicator.pulled(x, exchange)
        return known

    def _evaluate(
        self, optimizer: Optimizer, closure: Closure, slot: int, model: torch.Tensor | None
    ) -> Any:
        """A slot's gradients into their block; agents whose gradient is not finite have NaN there. The loss."""
        columns, rows = optimizer.model_columns, optimizer.rows
        optimizer.visit(model)
        rows.second_pass = slot > 0
        of = self.of if slot == 0 or self.perturb_which == "all" else Plain()
        loss, norm = of.evaluate(optimizer, closure, slot)
        block = self._block(optimizer, slot)
        finite = norm.isfinite()[:, None]
        block[:, columns] = torch.where(finite, rows.g[:, columns], torch.nan)
        return loss

    def found(self, optimizer: Optimizer) -> Found:
        columns = optimizer.model_columns
        made, g = optimizer.made, optimizer.rows.g[:, columns]
        arrived = self._send(optimizer)
        if not columns.stop:
            return Found(optimizer.check_gradients(), at_mixed=self.mixed_self_gradient)
        gradients = made["gradients"][:, columns]
        if arrived is not None:
            gradients = torch.cat([gradients, arrived])
        if changes(optimizer.communicator):
            lists = optimizer.communicator.lists_of_w(g.device, _meeting(optimizer))
            weighted_sum(gradients, g, sources_of(lists, self.kind == "data"), lists.weights)
        else:
            weighted_sum(gradients, g, made["sources"], made["weights"])
        return Found(row_norms(g), at_mixed=self.mixed_self_gradient)

    def keep(self, optimizer: Optimizer) -> None:
        self.of.keep(optimizer)
        for residual, left in optimizer.phase.passing.get("residuals", ()):
            residual.copy_(left)

    def _send(self, optimizer: Optimizer) -> torch.Tensor | None:
        """Send cross-gradients back; rows `[arriving, columns]` of those that come from elsewhere, None where none do.

        They are compressed with error feedback where a compressor is asked for.
        """
        if self.kind == "model":
            return None
        phase, communicator = optimizer.phase, optimizer.communicator
        compressor = self._compressor(communicator)
        if compressor is not None:
            slots = range(1, models_of(communicator))
            if "told" not in phase.passing:
                phase.passing["told"] = [self._compress(optimizer, compressor, k) for k in slots]
            told = phase.passing["told"]
            return self._read(optimizer, compressor, told) if communicator.arriving else None
        meeting = _meeting(optimizer)
        messages = communicator.messages if meeting is None else meeting.messages
        phase.nbytes = phase.nbytes + 4 * optimizer.dim * messages
        arrived = communicator.slots_arrived()
        if arrived is None:
            blocks = optimizer.made["gradients"][optimizer.agents :, optimizer.model_columns]
            arrived = communicator.deliver(blocks)[len(blocks) :]
        return arrived if len(arrived) else None

    def _send_slot(self, optimizer: Optimizer, slot: int) -> None:
        """Begin to send the gradients of one slot, which travel while the next ones are taken."""
        communicator = optimizer.communicator
        compressor = self._compressor(communicator)
        rows = self._block(optimizer, slot)[:, optimizer.model_columns]
        if compressor is not None:
            with use_backend(optimizer.backend):
                groups = self._compress(optimizer, compressor, slot)
            optimizer.phase.passing.setdefault("told", []).append(groups)
            if not groups:
                return
            rows = torch.cat([payload.packed() for _, payload in groups], 1)
        communicator.send_slot(slot - 1, rows)

    def _compress(
        self, optimizer: Optimizer, compressor: Compressor, slot: int
    ) -> list[tuple[slice, Payload]]:
        """Replace gradients for the neighbors at a slot by what arrives of them; each group's columns and payload."""
        phase, communicator = optimizer.phase, optimizer.communicator
        neighbors = self._lists(optimizer).neighbors
        left_over = phase.passing.setdefault("residuals", [])
        block, listening = self._block(optimizer, slot), neighbors[:, slot] >= 0
        told = []
        for index, layout in enumerate(optimizer.layouts):
            columns = optimizer.columns(index)
            part = block[:, columns]
            if not part.shape[1]:
                continue
            # a gradient that is not finite is sent as zero; nobody is sent nothing
            sent = listening[:, None] & part.isfinite().all(1, keepdim=True)
            seed = (optimizer.seed_of(index) + slot * SLOT_STRIDE) % 2**63
            residual = optimizer.flat_state[f"residual_{slot}"][:, columns]
            left = residual.clone()
            payload = compressor.compress_ef_(
                torch.where(sent, part, 0.0),
                left,
                seed,
                optimizer.rounds,
                layout=layout,
                first_agent=communicator.first_agent,
            )
            part.copy_(compressor.decode(payload))
            left_over.append((residual, left))
            each = payload.nbytes // optimizer.agents
            phase.nbytes += each * optimizer.made["listeners"][slot]
            told.append((columns, payload))
        return told

    def _read(
        self, optimizer: Optimizer, compressor: Compressor, told: list[list[tuple[slice, Payload]]]
    ) -> torch.Tensor | None:
        """Exchange packed gradients of all slots along edges; rows of those that arrived."""
        if not any(told):
            return None
        communicator, g = optimizer.communicator, optimizer.rows.g
        messages = communicator.slots_arrived()
        if messages is None:
            blocks = [torch.cat([payload.packed() for _, payload in groups], 1) for groups in told]
            messages = communicator.deliver_bytes(torch.cat(blocks))
        rows = g.new_zeros(len(messages), optimizer.model_columns.stop)
        for slot, groups in enumerate(told):
            # a message is drawn by its sender's slot
            mine = [k for k, (_, at) in enumerate(communicator.arriving) if at == slot]
            agents = [communicator.arriving[k][0] for k in mine]
            if not mine:
                continue
            sizes = [payload.nbytes // optimizer.agents for _, payload in groups]
            parts = messages[mine].split(sizes, 1)
            for (columns, payload), part in zip(groups, parts, strict=True):
                rows[mine, columns] = compressor.decode(Payload.unpacked(part, payload, agents))
        return rows

    @staticmethod
    def _lists(optimizer: Optimizer) -> Lists:
        """This step's neighbor lists."""
        meeting = _meeting(optimizer)
        device = optimizer.rows.g.device
        return optimizer.communicator.lists(device) if meeting is None else meeting.lists

    def _block(self, optimizer: Optimizer, slot: int) -> torch.Tensor:
        """Gradients taken at slot number `slot`, `[agents, stride]`."""
        agents = optimizer.agents
        block: torch.Tensor = optimizer.made["gradients"][slot * agents : (slot + 1) * agents]
        return block

    def _compressor(self, communicator: Communicator) -> Compressor | None:
        """What cross-gradients are compressed with; None where they are sent whole, or not at all."""
        if self.kind == "data" and isinstance(communicator, CompressedGossip):
            return communicator.choco.compressor
        return None


def check_kind(name: str, kind: str) -> None:
    """Raise ValueError, which calls it `name`, for another kind of cross-gradients than "data" and "model"."""
    if kind not in ("data", "model"):
        raise ValueError(f'{name} must be "data" or "model", got {kind!r}')


def models_of(communicator: Communicator) -> int:
    """Models that a step's closure is evaluated on: the largest degree and one."""
    return 1 + communicator.most_neighbors


def changes(communicator: Communicator) -> bool:
    """Whether each step has a graph of its own."""
    schedule = communicator.schedule
    return schedule is not None and not isinstance(schedule, Topology)


def _meeting(optimizer: Optimizer) -> Meeting | None:
    """Who talks to whom in this step, where that changes."""
    rounds = optimizer.phase.rounds
    meetings = rounds[0].meetings if rounds else optimizer.communicator.meetings(optimizer)
    return meetings[0] if meetings else None


def sources_of(lists: Lists, by_neighbors: bool) -> torch.Tensor:
    """Rows to sum for each agent, int32 `[agents, width]`, in the order of its neighbor list.

    Gradients lie in blocks of one row an agent: block k holds what each agent took on its own batch at the model of
    the k-th agent of its list, itself being the first.

    Args:
        lists: of a symmetric graph.
        by_neighbors: each agent's own model, on the neighbors' batches (data-variant); otherwise the neighbors' models
            on its own batch (model-variant).
    """
    neighbors, agents = lists.neighbors, len(lists.neighbors)
    own = neighbors[:, :1]
    if by_neighbors:
        heard = torch.where(lists.incoming < 0, lists.incoming, lists.incoming + agents)
        return torch.cat([own, heard], 1)
    slots = torch.arange(lists.width, dtype=torch.int32, device=neighbors.device)
    return torch.where(neighbors < 0, neighbors, own + agents * slots)
