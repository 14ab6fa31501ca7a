"""Gradients agent after agent on plain modules whose parameters are rows of the stack, or several side by side."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engine import Engine
from fastsaddle.sim.engines._agent_threads import AgentThreads, draws
from fastsaddle.sim.engines._features import returning_features
from fastsaddle.sim.engines._joining import joined
from fastsaddle.sim.engines._precision import in_float32
from fastsaddle.sim.engines._replica import Replica, settled


class AgentLoop(Engine):
    """Every agent's model as a module of its own.

    Side by side, an agent's gradient has the same bits whatever the number of threads, as long as there are as many
    agents; with fewer, and where a network draws random numbers (a first pass tells: threads would draw in any
    order), agents follow each other and share all threads.

    Attributes:
        side_by_side: take as many agents at once as torch has threads.
    """

    one_by_one = True
    reads_host = ("whose",)
    side_by_side: ClassVar[bool]

    def __init__(
        self, stack: AgentStack, chunk: int | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(stack, chunk, precision)
        self._replicas: list[Replica] = []
        # the stack's buffers that they were made for, and the modes of their layers
        self._laid_out: list[int] = []
        self._modes: list[bool] = []
        self._is_random: dict[bool, bool] = {}
        self._threads: AgentThreads | None = None

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        replicas = self._models()
        still = self.stack.buffers_rest

        def forward(model: nn.Module, agent: int) -> Any:
            with self.casting(), returning_features(model, features):
                outputs = in_float32(model(inputs[agent]))
                return loss(outputs, tree_map(lambda t: t[agent], targets))

        def backward(agent: int) -> Any:
            with torch.enable_grad():
                found = forward(replicas[agent].module, agent)
                (found[0] if isinstance(found, tuple) else found).backward()
            return tree_map(Tensor.detach, found)

        threads = self._free_threads(lambda: forward(self.stack.agent(0), 0))
        self.stack.g.zero_()
        with settled(replicas, list(self.stack.buffers.values()) if still else None):
            if threads is None:
                found = [backward(agent) for agent in range(self.stack.agents)]
            else:
                found = threads.run(backward, self.stack.agents)
        return joined(torch.stack, found)

    def outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        replicas = self._models()
        agents = range(self.stack.agents) if whose is None else whose.tolist()
        found = []
        for agent, batch in zip(agents, inputs, strict=True):
            replica = replicas[agent]
            features_too = returning_features(replica.module, features)
            with settled([replica], replica.rows), self.casting(), features_too:
                found.append(replica.module(batch))
        return joined(torch.stack, found)

    def _models(self) -> list[Replica]:
        """Every agent's plain module, in the stack's mode."""
        rows = [self.stack.rows.version, *map(id, self.stack.buffers.values())]
        modes = [layer.training for layer in self.stack.template.modules()]
        if self._laid_out != rows:
            self._replicas = [Replica(self.stack, agent) for agent in range(self.stack.agents)]
        elif self._modes != modes:
            for replica in self._replicas:
                replica.take_modes(modes)
        self._laid_out, self._modes = rows, modes
        return self._replicas

    def _free_threads(self, forward: Callable[[], Any]) -> AgentThreads | None:
        """Threads to take agents side by side, None where they are to follow each other."""
        threads = torch.get_num_threads()
        if not self.side_by_side or threads == 1 or self.stack.agents < threads:
            return None
        if self.stack.training not in self._is_random:
            self._is_random[self.stack.training] = draws(forward)
        if self._is_random[self.stack.training]:
            return None
        if self._threads is None or self._threads.threads != threads:
            self._threads = AgentThreads(threads)
        return self._threads
