"""Base of the gossip methods: local steps on every agent's row, then mixing along the graph."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.base import Communicator, Exchange, LocalStep
from fastsaddle.comm.choco import Choco, CompressedGossip, check_copies
from fastsaddle.comm.stacked import Stacked
from fastsaddle.compressors.base import Compressor
from fastsaddle.compressors.identity import Identity
from fastsaddle.graphs.topology import Topology, resolve
from fastsaddle.kernels._shared.bfloat16.reference import STATE_DTYPES
from fastsaddle.optimizer.stacked_optimizer import StackedOptimizer

# 2^64 over the golden ratio: seeds of parameter groups lie far apart
GROUP_STRIDE = 0x9E3779B97F4A7C15


class DecentralizedOptimizer(StackedOptimizer):
    """Base of the gossip methods: local steps on every agent's row, then mixing along the graph.

    Subclasses say which momentum they keep (`kind`, `state_name`) and set the defaults of their groups.

    Attributes:
        topology: the graph; None where one agent trains ordinary parameters.
        communicator: how models travel.
        state_dtype: of momentum and public copies, float32 or bfloat16; `flat_state` has them so.

    Others: as in `StackedOptimizer`.
    """

    # 0 no momentum, 1 local, 2 quasi-global; and the name its buffer has in `state`
    kind: int = 0
    state_name: str | None = None
    state_dtype = torch.float32
    kept: ClassVar[tuple[str, ...]] = (
        *StackedOptimizer.kept,
        *("topology", "communicator", "state_dtype"),
    )

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        topology: Topology | str | None,
        consensus_step: float,
        nonfinite: str,
        backend: str | None,
        compressor: Compressor | Choco | None = None,
        seed: int = 0,
        state_dtype: torch.dtype = torch.float32,
    ) -> None:
        if state_dtype not in STATE_DTYPES:
            raise ValueError(
                f"state_dtype must be torch.float32 or torch.bfloat16, got {state_dtype}"
            )
        self.state_dtype = state_dtype
        super().__init__(
            params,
            defaults,
            nonfinite=nonfinite,
            backend=backend,
            seed=seed,
            topology=topology,
            consensus_step=consensus_step,
            choco=as_choco(compressor),
        )

    def _connect(  # type: ignore[override]
        self, topology: Topology | str | None, consensus_step: float, choco: Choco
    ) -> tuple[int, bool]:
        graph = None if topology is None else resolve(topology, self._stacked_agents())
        if graph is not None and not torch.allclose(graph.W, graph.W.T, rtol=0, atol=1e-6):
            raise ValueError(
                f"{type(self).__name__} needs a symmetric mixing matrix, {graph} is not"
            )
        self.topology = graph
        self.communicator = communicator_of(graph, consensus_step, choco)
        rounds_state = self.state_dtype != torch.float32 and self.state_name is not None
        self.counts_rounds |= rounds_state or bool(self.communicator.state_names)
        if self.communicator.state_names:
            check_copies(choco, self.state_dtype)
        return self.communicator.agents, graph is not None

    @property
    def state_names(self) -> tuple[str, ...]:
        momentum = () if self.state_name is None else (self.state_name,)
        return (*momentum, *self.communicator.state_names)

    def _allocate(self, device: torch.device) -> dict[str, torch.Tensor]:
        small = (self.state_name, *self.communicator.state_names)
        dtypes = {n: self.state_dtype if n in small else torch.float32 for n in self.state_names}
        allocate = self.rows.layout.allocate
        return {name: allocate(self.agents, device, dtype) for name, dtype in dtypes.items()}

    def _gossip(self, saved: torch.Tensor | None, norm: torch.Tensor) -> None:
        """One step of every group: local step, mixing, momentum."""
        # all read before the first group moves: a bad value must leave nothing half done
        steps = [self._local_step(index, saved, norm) for index in range(len(self.param_groups))]
        for index, step in enumerate(steps):
            columns = self._columns(index)
            if columns.stop > columns.start:
                x, exchange = self.rows.x[:, columns], self._exchange(index)
                self.bytes_sent += self.communicator.gossip_step_(x, step, exchange)
        self.rounds.add_(1)

    def _local_step(
        self, index: int, saved: torch.Tensor | None, norm: torch.Tensor | None
    ) -> LocalStep:
        group, columns = self.param_groups[index], self._columns(index)
        momentum = self.flat_state.get(self.state_name or "")
        mu = "momentum" if group.get("qg_momentum") is None else "qg_momentum"
        return LocalStep(
            saved=None if saved is None else saved[:, columns],
            g=self.rows.g[:, columns],
            momentum=None if momentum is None else momentum[:, columns],
            lr=self._scalar(index, "lr"),
            weight_decay=self._scalar(index, "weight_decay"),
            beta=self._scalar(index, "momentum"),
            mu=self._scalar(index, mu),
            norm=norm,
            kind=self.kind,
            nesterov=bool(group.get("nesterov", False)),
            maximize=bool(group["maximize"]),
            seed=self._seed(index),
            number=self.rounds,
        )

    def _seed(self, index: int) -> int:
        # groups draw apart: a stride that no small seeds share
        return (self.seed + index * GROUP_STRIDE) % 2**63

    def _exchange(self, index: int) -> Exchange:
        columns = self._columns(index)
        names = self.communicator.state_names
        return Exchange(
            layout=self._layouts[index],
            states={name: self.flat_state[name][:, columns] for name in names},
            seed=self._seed(index),
            number=self.rounds,
            squares=self._squares[index],
        )

    def _advance(self, norm: torch.Tensor) -> None:
        self._gossip(None, norm)

    def _check_held(self, index: int, held: Mapping[str, Any]) -> None:
        together = self.communicator.state_names
        missing = [name for name in together if name not in held]
        if missing and together[0] in held:
            raise ValueError(
                f"state {together[0]} of parameter {index} must come with {', '.join(missing)}, "
                f"got {', '.join(held)}"
            )


def as_choco(compressor: Compressor | Choco | None) -> Choco:
    """What `compressor=` means; raises ValueError where it is none of its types."""
    if isinstance(compressor, Choco):
        return compressor
    return Choco(Identity() if compressor is None else compressor)


def communicator_of(topology: Topology | None, consensus_step: float, choco: Choco) -> Communicator:
    """Models sent whole where nothing is compressed, or nobody listens; CHOCO gossip otherwise."""
    if topology is None or choco == Choco(Identity()):
        return Stacked(topology, consensus_step)
    return CompressedGossip(topology, consensus_step, choco)
