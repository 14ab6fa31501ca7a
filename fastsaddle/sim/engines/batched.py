"""Chains of linear layers for all agents at once, by batched products instead of torch.vmap."""

import importlib
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from fastsaddle.agents import AgentStack
from fastsaddle.sim.engines._cross_entropy import is_mean_cross_entropy, mean_cross_entropy
from fastsaddle.sim.engines._joining import joined
from fastsaddle.sim.engines._layer_chain import LayerChain, first_layer, unknown_layer
from fastsaddle.sim.engines._mapped import Mapped
from fastsaddle.sim.engines._perceptron import Perceptron
from fastsaddle.sim.engines._precision import in_float32


class Batched(Mapped):
    """Gradients of a `Perceptron` where one is asked for, else of a `LayerChain`; outputs alone are mapped.

    Attributes:
        chain: what computes the network, made of a stack.
    """

    chain: ClassVar[Any] = LayerChain

    def __init__(
        self, stack: AgentStack, chunk: int | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(stack, chunk, precision)
        self._chain = self.chain(stack)
        self._perceptron = Perceptron(stack)
        if not self._perceptron.is_one:
            # torch imports it for its first gradient of more than one number: half a second that no step should take
            importlib.import_module("torch.fx.experimental.symbolic_shapes")

    @classmethod
    def can_run(
        cls, stack: AgentStack, precision: str = "float32", inputs: Tensor | None = None
    ) -> str | None:
        # every layer of a chain can be mapped: nothing is to be tried
        unknown = unknown_layer(stack.template)
        return None if unknown is None else f"cannot run: {unknown}"

    def gradients(self, inputs: Tensor, targets: Any, loss: Any, features: str | None) -> Any:
        if features is None and self._perceptron.takes(inputs, targets, loss, self.precision):
            return self._perceptron.gradients(inputs, targets)
        features = first_layer(self.stack.template, features)
        found = [self._part(part, inputs, targets, loss, features) for part in self.parts()]
        return joined(torch.cat, found)

    def _part(
        self, part: slice, inputs: Tensor, targets: Any, loss: Any, features: str | None
    ) -> Any:
        mine = tree_map(lambda t: t[part], targets)
        with self.casting():
            backwards = partial(_backwards, loss, mine)
            return self._chain.gradients(part, inputs[part], backwards, features)[0]


def _backwards(loss: Any, targets: Any, got: Any) -> tuple[Any, list[Tensor | None]]:
    """What the loss of all agents returns, and its gradients with respect to what it got."""
    if is_mean_cross_entropy(loss, got, targets):
        # one call for all agents instead of one under vmap
        return mean_cross_entropy(got, targets)
    leaves = tree_map(lambda t: t.detach().requires_grad_(), in_float32(got))
    with torch.enable_grad():
        found = torch.vmap(loss)(leaves, targets)
        total = (found[0] if isinstance(found, tuple) else found).sum()
    wanted = torch.autograd.grad(total, tree_leaves(leaves), allow_unused=True)
    return tree_map(Tensor.detach, found), list(wanted)
