"""RelaySGD: partial sums relayed along a tree, whose ends all agents average exactly."""

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.graphs.relay_lists import Neighbors, average_lists, message_lists
from fastsaddle.graphs.topology import Topology
from fastsaddle.kernels.weighted_sum import weighted_sum
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer


class RelaySGD(TrackingOptimizer):
    """RelaySum/Model: after as many steps as the tree is wide, every agent holds an exact average of older models.

        h_i    = x_i - lr sgd(g_i)
        m_ij   = h_i + sum_{k != j} m_ki of the step before        sent to each neighbor j, with the number of its terms
        x_i    = ((n - sum_j n_ji) h_i + sum_j m_ji) / n

    Vogels et al. 2021 (arXiv:2110.04175), RelaySum/Model as in the authors' description: what has not arrived yet
    counts as h_i (their production code takes the initial model). The number of terms is known from the step, so that
    one row is sent to each neighbor. Suitable rates are about as many times larger as messages travel steps. State:
    `relay_1` ... (what arrived from each neighbor, ascending), `momentum_buffer`, `step`.

    Args:
        topology: a tree, such as `chain(n)` or `binary_tree(n)`; W's weights are not used.
        momentum: beta in [0, 1), of the local step: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`, and

    Raises:
        ValueError: the graph is no tree.
    """

    counts_rounds = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            consensus_step=1.0,
            nonfinite=nonfinite,
            backend=backend,
        )

    def _connect(  # type: ignore[override]
        self, topology: Topology | str | None, consensus_step: float, choco: Choco
    ) -> tuple[int, bool]:
        connected = super()._connect(topology, consensus_step, choco)
        graph = self.topology
        if graph is not None and graph.edges != graph.agents - 1:
            raise ValueError(
                f"RelaySGD needs a tree, {graph.agents - 1} edges among {graph.agents} agents, "
                f"got {graph} with {graph.edges}: chain or binary_tree"
            )
        return connected

    @property
    def _neighbors(self) -> Neighbors:
        return ((),) if self.topology is None else self.topology.neighbors

    @property
    def state_names(self) -> tuple[str, ...]:
        most = max(map(len, self._neighbors))
        return (*(f"relay_{k}" for k in range(1, most + 1)), "momentum_buffer")

    def _allocate(self, device: torch.device) -> dict[str, torch.Tensor]:
        # one buffer: this step's models, then what arrived from the first neighbor of each agent, and so on
        *relays, momentum = self.state_names
        self._arrived = self.rows.layout.allocate((1 + len(relays)) * self.agents, device)
        self._messages = [part.to(device) for part in message_lists(self._neighbors)]
        self._averages = [part.to(device) for part in average_lists(self._neighbors)]
        blocks = dict(zip(relays, self._arrived.split(self.agents)[1:], strict=True))
        return {**blocks, momentum: self.rows.layout.allocate(self.agents, device)}

    def box(self, rows: Rows) -> None:
        arrived, agents = self._arrived[:, rows.columns], self.agents
        arrived[:agents] = rows.descended(rows.x, rows.g)
        if len(arrived) > agents:
            messages = torch.empty_like(arrived[agents:])
            weighted_sum(arrived, messages, *self._messages)
            arrived[agents:] = messages
        sources, shares = self._averages
        step = self.rounds.clamp(max=len(shares) - 1).reshape(1)
        weighted_sum(arrived, rows.x, sources, shares.index_select(0, step)[0])
