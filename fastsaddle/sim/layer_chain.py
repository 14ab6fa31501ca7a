"""Chains of linear layers for all agents at once: batched products that write gradients where they belong.

A perceptron under vmap spends most of its time around its products: gradients are allocated, then copied into the flat
buffer, and every layer passes through several levels of dispatch. Here the products write into the buffer themselves.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack

# element by element, or by samples: the same function whatever dimensions come first
ELEMENTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Identity, nn.Dropout),
)


def layers_of(module: nn.Module) -> dict[str, nn.Module] | None:
    """The layers of nested Sequentials by name, in order; None where the module is something else.

    Linear, Flatten (of whole samples) and functions of single elements are known; a layer that stands twice, or one
    with hooks, is not.
    """
    found: dict[str, nn.Module] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if type(layer) is nn.Sequential:
            is_known = True
        elif type(layer) is nn.Flatten:
            is_known = (layer.start_dim, layer.end_dim) == (1, -1)
        else:
            is_known = type(layer) in (nn.Linear, *ELEMENTWISE)
        if not is_known or layer._forward_hooks or layer._forward_pre_hooks:
            return None
        if type(layer) is not nn.Sequential:
            found[name] = layer
    is_tied = len({id(layer) for layer in found.values()}) < len(found)
    parameters = [p for _, p in module.named_parameters(remove_duplicate=False)]
    is_tied |= len({id(p) for p in parameters}) < len(parameters)
    has_linear = any(type(layer) is nn.Linear for layer in found.values())
    return found if has_linear and not is_tied else None


class LayerChain:
    """The template of a stack, layer by layer on `[agents, batch, ...]`.

    Args:
        stack: agents of a module that `layers_of` knows.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, stack: AgentStack) -> None:
        layers = layers_of(stack.template)
        if layers is None:
            raise ValueError(
                "a chain must be a Sequential of Linear, Flatten and elementwise layers, "
                f"got {stack.template}"
            )
        self.stack, self.layers = stack, layers

    def outputs(self, part: slice, inputs: Tensor, features: str | None = None) -> Any:
        """Outputs of the agents of `part`; with `features`, the name of a layer, (outputs, that layer's input).

        Their backward pass overwrites the linear layers' gradients in the stack's buffer; those of parameters that
        want none are zeroed now.
        """
        parameters = dict(self.stack.named_parameters())
        gradients = dict(self.stack.named_gradients())
        for name, view in gradients.items():
            if not parameters[name].requires_grad:
                view[part].zero_()
        found, h = None, inputs
        for name, layer in self.layers.items():
            found = h if name == features else found
            if type(layer) is nn.Linear:
                weight = parameters[f"{name}.weight"]
                bias = parameters.get(f"{name}.bias")
                views = (
                    gradients[f"{name}.weight"][part],
                    _part(gradients.get(f"{name}.bias"), part),
                )
                h = _StackedLinear.apply(h, weight[part], _part(bias, part), *views)
            elif type(layer) is nn.Flatten:
                h = h.flatten(2)
            else:
                h = layer(h)
        return h if features is None else (h, found)


def _part(rows: Tensor | None, part: slice) -> Tensor | None:
    return None if rows is None else rows[part]


class _StackedLinear(torch.autograd.Function):
    """x W^T + b for every agent; the gradients of W and b go into the views that come along."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        weight_gradient: Tensor,
        bias_gradient: Tensor | None,
    ) -> Tensor:
        shape = x.shape
        x = x.flatten(1, -2)
        ctx.save_for_backward(x, weight)
        ctx.gradients = weight_gradient, bias_gradient
        ctx.shape = shape
        turned = weight.mT
        out = torch.bmm(x, turned) if bias is None else torch.baddbmm(bias[:, None], x, turned)
        return out.view(*shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        gradient = gradient.reshape(*x.shape[:2], -1)
        weight_gradient, bias_gradient = ctx.gradients
        if ctx.needs_input_grad[1]:
            torch.bmm(gradient.mT, x, out=weight_gradient)
        if bias_gradient is not None and ctx.needs_input_grad[2]:
            torch.sum(gradient, 1, out=bias_gradient)
        passed = None
        if ctx.needs_input_grad[0]:
            passed = torch.bmm(gradient, weight).view(ctx.shape)
        return passed, None, None, None, None
