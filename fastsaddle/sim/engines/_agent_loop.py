"""Gradients agent after agent on plain modules whose parameters are rows of the stack, or several side by side."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engine import Engine
from fastsaddle.sim.engines._agent_threads import AgentThreads
from fastsaddle.sim.engines._features import returning_features
from fastsaddle.sim.engines._joining import joined
from fastsaddle.sim.engines._precision import in_float32


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
        self._replicas: list[nn.Module] = []
        self._version = -1
        self._is_random: dict[bool, bool] = {}
        self._threads: AgentThreads | None = None

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        models = self._models()

        def forward(model: nn.Module, agent: int) -> Any:
            with self.casting(), returning_features(model, features):
                outputs = in_float32(model(inputs[agent]))
                return loss(outputs, tree_map(lambda t: t[agent], targets))

        def backward(agent: int) -> Any:
            with torch.enable_grad():
                found = forward(models[agent], agent)
                (found[0] if isinstance(found, tuple) else found).backward()
            return tree_map(Tensor.detach, found)

        threads = self._free_threads(lambda: forward(self.stack.agent(0), 0))
        still = self.stack.rows.second_pass
        kept = {n: b.clone() for n, b in self.stack.buffers.items()} if still else {}
        self.stack.g.zero_()
        try:
            if threads is None:
                found = [backward(agent) for agent in range(self.stack.agents)]
            else:
                found = threads.run(backward, self.stack.agents)
        finally:
            for name, value in kept.items():
                self.stack.buffers[name].copy_(value)
        return joined(torch.stack, found)

    def outputs(self, inputs: Tensor, whose: Tensor | None, features: str | None) -> Any:
        models = self._models()
        kept = {n: b.clone() for n, b in self.stack.buffers.items()}
        agents = range(self.stack.agents) if whose is None else whose.tolist()
        found = []
        try:
            for agent, batch in zip(agents, inputs, strict=True):
                with self.casting(), returning_features(models[agent], features):
                    found.append(models[agent](batch))
        finally:
            for name, value in kept.items():
                self.stack.buffers[name].copy_(value)
        return joined(torch.stack, found)

    def _models(self) -> list[nn.Module]:
        """Every agent's plain module, in the stack's mode."""
        if self._version != self.stack.rows.version:
            self._replicas = replicas(self.stack)
            self._version = self.stack.rows.version
        return [model.train(self.stack.training) for model in self._replicas]

    def _free_threads(self, forward: Callable[[], Any]) -> AgentThreads | None:
        """Threads to take agents side by side, None where they are to follow each other."""
        threads = torch.get_num_threads()
        if not self.side_by_side or threads == 1 or self.stack.agents < threads:
            return None
        if self.stack.training not in self._is_random:
            self._is_random[self.stack.training] = _draws(forward)
        if self._is_random[self.stack.training]:
            return None
        if self._threads is None or self._threads.threads != threads:
            self._threads = AgentThreads(threads)
        return self._threads


@torch.no_grad()
def _draws(work: Callable[[], Any]) -> bool:
    """Whether `work` draws from torch's global generator, which is left as it was."""
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        work()
        return not torch.equal(before, torch.get_rng_state())


def replicas(stack: AgentStack) -> list[nn.Module]:
    """Plain modules, one an agent, whose parameters, gradients and buffers are that agent's rows of the stack."""
    parameters, gradients = dict(stack.named_parameters()), dict(stack.named_gradients())
    models = []
    for agent in range(stack.agents):
        model = copy.deepcopy(stack.template)
        for name, p in model.named_parameters():
            p.data = parameters[name].detach()[agent]
            p.grad = gradients[name][agent] if p.requires_grad else None
        for name, b in model.named_buffers():
            b.data = stack.buffers[name][agent]
        models.append(model)
    return models
