"""Chains of linear layers for all agents at once: batched products, with the backward pass written out.

A perceptron under vmap or autograd spends half of its time around its products, in dispatch and bookkeeping. Here only
the loss and the elementwise layers know autograd, and every layer's gradients go into the flat buffer as they arise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from fastsaddle.agents import AgentStack

# element by element, or by samples: the same function whatever dimensions come first
ELEMENTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    *(nn.Identity, nn.Dropout),
)


def is_known(layer: nn.Module) -> bool:
    """Whether a `LayerChain` knows the layer: Linear, Flatten (of whole samples) or a function of single elements."""
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return type(layer) in (nn.Linear, *ELEMENTWISE)


def is_altered(layer: nn.Module) -> bool:
    """Whether this one does other than its class says: it has hooks, or a `forward` of its own."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or "forward" in layer.__dict__
    )


def is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether it is a Sequential or of a class of the user's that is one and does no more."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def first_layer(module: nn.Module, name: str | None) -> str | None:
    """The layer that gets what `name` gets: the first one of a Sequential; None of None."""
    while name is not None and is_sequence(layer := module.get_submodule(name)) and len(layer):
        name = within(name, next(n for n, _ in layer.named_children()))
    return name


def unknown_layer(
    module: nn.Module,
    rule: str = "a chain must be a Sequential of Linear, Flatten and elementwise layers",
    is_known: Callable[[nn.Module], bool] = is_known,
) -> str | None:
    """What makes the module no chain, in one line; None where it is one: nested Sequentials of layers that are known.

    A layer that stands twice, or one with hooks, is not known.

    Args:
        module: of the template.
        rule: what a chain must be, for the line.
        is_known: whether a layer that is no Sequential is known.
    """
    layers: list[nn.Module] = []
    for name, layer in module.named_modules(remove_duplicate=False):
        kind = type(layer).__name__
        at = f"{name} ({kind})" if name else kind
        if not is_sequence(layer) and not is_known(layer):
            return f"{rule}, got {at}"
        if is_altered(layer):
            return f"{rule} without hooks or a forward of its own, {at} has some"
        if not is_sequence(layer):
            layers.append(layer)
    parameters = [p for _, p in module.named_parameters(remove_duplicate=False)]
    for what, all_ in (("layers", layers), ("parameters", parameters)):
        if len(set(map(id, all_))) < len(all_):
            return f"{rule}, each with {what} of its own, some are shared"
    has_linear = any(type(layer) is nn.Linear for layer in layers)
    return None if has_linear else f"{rule}, it has no Linear"


def layers_of(module: nn.Module) -> dict[str, nn.Module] | None:
    """The layers of a chain by name, in order; None where the module is no chain."""
    if unknown_layer(module) is not None:
        return None
    return {n: layer for n, layer in module.named_modules() if not is_sequence(layer)}


class Step(NamedTuple):
    """A layer on the agents of one part: its rows of the parameters and gradients, None where it has none."""

    name: str
    layer: nn.Module
    weight: Tensor | None = None
    bias: Tensor | None = None
    weight_gradient: Tensor | None = None
    bias_gradient: Tensor | None = None


class LayerChain:
    """The template of a stack, layer by layer on `[agents, batch, ...]`.

    Args:
        stack: agents of a module that `layers_of` knows.
        end: its last layers by name, each of which `is_known`: the chain is these alone, and what they are given is
            differentiated too; None: all of them.

    Raises:
        ValueError: `layers_of` does not know the module.
    """

    def __init__(self, stack: AgentStack, end: dict[str, nn.Module] | None = None) -> None:
        layers = layers_of(stack.template) if end is None else end
        if layers is None:
            raise ValueError(unknown_layer(stack.template))
        self.stack, self.layers = stack, layers
        # the first layer that is differentiated; of the layers before it nothing is
        linear = (i for i, kind in enumerate(map(type, layers.values())) if kind is nn.Linear)
        self._first = next(linear) if end is None else 0
        self._passes_on = end is not None
        self._steps: dict[tuple[int, int, int], list[Step]] = {}
        self._version = -1

    @torch.no_grad()
    def gradients(
        self,
        part: slice,
        inputs: Tensor,
        loss: Callable[[Any], tuple[Any, list[Tensor | None]]],
        features: str | None = None,
    ) -> tuple[Any, Tensor | None]:
        """Overwrite the gradients of the agents of `part` in the stack's buffer; zeros where none are wanted.

        Args:
            part: of the agents.
            inputs: `[agents of the part, batch, ...]`.
            loss: gets the outputs or, with `features`, (outputs, input of that layer); returns what is to be returned
                and the gradients with respect to what it got.
            features: name of a layer.

        Returns:
            What is to be returned and, of an end of the module, the gradient with respect to `inputs`.
        """
        steps = self._part(part)
        passed, outputs, found = self._forward(steps, inputs, features)
        returned, gradients = loss(outputs if features is None else (outputs, found))
        return returned, self._backward(steps, passed, gradients, features)

    @torch.no_grad()
    def outputs(
        self, rows: Mapping[str, Tensor], inputs: Tensor, features: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs `[agents, batch, ...]` of models whose parameters are given by name, and the features.

        Args:
            rows: each parameter, `[agents, *shape]`.
            inputs: `[agents, batch, ...]`.
            features: name of a layer.
        """
        _, outputs, found = self._forward(self._steps_of(rows, {}), inputs, features)
        return outputs, found

    def _part(self, part: slice) -> list[Step]:
        if self._version != self.stack.rows.version:
            self._steps, self._version = {}, self.stack.rows.version
        key = part.start, part.stop, self.stack.rows.at.data_ptr()
        if key not in self._steps:
            rows = {n: model[part] for n, model in self.stack.named_models()}
            views = {n: g[part] for n, g in self.stack.named_gradients()}
            self._steps[key] = self._steps_of(rows, views)
        return self._steps[key]

    def _steps_of(self, rows: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> list[Step]:
        return [
            Step(
                name,
                layer,
                *(
                    of.get(within(name, kind))
                    for of in (rows, views)
                    for kind in ("weight", "bias")
                ),
            )
            for name, layer in self.layers.items()
        ]

    def _forward(
        self, steps: list[Step], h: Tensor, features: str | None
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor | None]:
        """What each layer got and gave, the outputs, and the features."""
        passed, found = [], None
        for number, step in enumerate(steps):
            found = h if step.name == features else found
            if step.weight is not None:
                got = h.to(_product_dtype(step.weight))
                h = _linear(got, step.weight, step.bias)
            elif number < self._first or type(step.layer) is nn.Flatten:
                got = h
                h = h.flatten(2) if type(step.layer) is nn.Flatten else applied(step.layer, h)
            else:
                got = h.detach().requires_grad_()
                with torch.enable_grad():
                    h = applied(step.layer, got)
            passed.append((got, h))
            h = h.detach()
        return passed, h, found

    def _backward(
        self,
        steps: list[Step],
        passed: list[tuple[Tensor, Tensor]],
        gradients: list[Tensor | None],
        features: str | None,
    ) -> Tensor | None:
        gradient, further = gradients[0], gradients[-1] if features else None
        wanted = {name for name, p in self.stack.named_parameters() if p.requires_grad}
        for number in range(len(steps) - 1, self._first - 1, -1):
            step, (got, gave) = steps[number], passed[number]
            if gradient is None:
                gradient = torch.zeros_like(gave)
            if step.weight is not None:
                is_passed_on = number > self._first or self._passes_on
                gradient = _linear_backward(step, got, gradient, wanted, is_passed_on)
            elif type(step.layer) is nn.Flatten:
                gradient = gradient.reshape(got.shape)
            else:
                (gradient,) = torch.autograd.grad(gave, got, gradient.to(gave.dtype))
            if step.name == features and further is not None and gradient is not None:
                gradient = gradient + further
        return gradient if self._passes_on else None


def applied(layer: nn.Module, given: Tensor) -> Tensor:
    """What a layer makes of `given`, which others may still need: some layers would write into it."""
    return layer(given.clone() if getattr(layer, "inplace", False) else given)


def within(layer: str, parameter: str) -> str:
    """A parameter's whole name; the module may itself be the layer."""
    return f"{layer}.{parameter}" if layer else parameter


def _product_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b for every agent.

    The product has samples as columns, which took 223 us where x W^T took 263 (16 x 32 x 784 by 50, 2 threads).
    """
    columns, weight = x.flatten(1, -2).mT, weight.to(x.dtype)
    shift = None if bias is None else bias[..., None].to(x.dtype)
    out = weight.bmm(columns) if shift is None else shift.baddbmm(weight, columns)
    return out.mT.unflatten(1, x.shape[1:-1])


def _linear_backward(
    step: Step, x: Tensor, gradient: Tensor, wanted: set[str], is_passed_on: bool
) -> Tensor | None:
    shape, x = x.shape, x.flatten(1, -2)
    gradient = gradient.to(x.dtype).flatten(1, -2)
    if step.weight_gradient is not None:
        if within(step.name, "weight") in wanted:
            _write_product(gradient.mT, x, step.weight_gradient)
        else:
            step.weight_gradient.zero_()
    if step.bias_gradient is not None:
        if within(step.name, "bias") in wanted:
            torch.sum(gradient, 1, dtype=torch.float32, out=step.bias_gradient)
        else:
            step.bias_gradient.zero_()
    if not is_passed_on or step.weight is None:
        return None
    return torch.bmm(step.weight.mT.to(x.dtype), gradient.mT).mT.unflatten(1, shape[1:-1])


def _write_product(a: Tensor, b: Tensor, view: Tensor) -> None:
    """a b into rows of the flat buffer, which lie apart.

    A CPU multiplies into such rows agent by agent, its threads waiting for each other every time: 290 to 620 us with
    2 threads where the product into new memory and its copy took 240 to 310.
    """
    is_shared = a.device.type == "cpu" and torch.get_num_threads() > 1
    if is_shared or a.dtype != view.dtype:
        view.copy_(torch.bmm(a, b))
    else:
        torch.bmm(a, b, out=view)
