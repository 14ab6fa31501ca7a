"""The way of samples in lanes through a path of layers, and back."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastsaddle.kernels._shared.lanes.blocks import BLOCK, to_samples
from fastsaddle.kernels.lane_convolution import (
    Layer,
    lane_convolution,
    lane_convolution_backward,
)
from fastsaddle.kernels.lane_evonorm import lane_evonorm, lane_evonorm_backward
from fastsaddle.sim.engines._lane_path import POOLINGS, Path, Residual, Stage, stages_of
from fastsaddle.sim.engines._layer_chain import applied, within
from fastsaddle.sim.networks._norms import EvoNormHardSwish


class Passed(NamedTuple):
    """What a stage got and gave, in blocks, and what else its way back needs."""

    stage: Stage
    got: Tensor
    gave: Tensor
    kept: Any = None


class Way:
    """One way through paths and back, in blocks.

    Args:
        rows: each parameter by name, `[agents, *shape]`.
        batch: samples of an agent.
        features: name of a layer whose input is wanted.
        keeps: whether the way back will be taken.
        is_inner: whether the gradient of what goes in is wanted; else a first convolution takes none.

    Attributes:
        found: the features, of samples; None where no layer so far has that name.
    """

    def __init__(
        self,
        rows: Mapping[str, Tensor],
        batch: int,
        features: str | None,
        keeps: bool,
        is_inner: bool = False,
    ) -> None:
        self.rows, self.batch, self.features = rows, batch, features
        self.keeps, self.is_inner = keeps, is_inner
        self.found: Tensor | None = None
        self._passed: list[Passed] = []

    def forward(self, path: Path, h: Tensor) -> Tensor:
        """What the path gives."""
        for stage in stages_of(path, self.features):
            if stage.name == self.features:
                self.found = to_samples(h, self.batch)
            if isinstance(stage.layer, Residual):
                passed = self._residual(stage, stage.layer, h)
            elif type(stage.layer) is nn.Conv2d:
                passed = self._convolved(stage, h)
            elif isinstance(stage.layer, EvoNormHardSwish):
                passed = self._normalized(stage, h)
            else:
                passed = self._applied(stage, h)
            self._passed.append(passed)
            h = passed.gave.detach()
        return h

    def backward(self, gradient: Any, views: Mapping[str, Tensor], further: Tensor | None) -> Any:
        """The gradient of what went in, those of parameters into `views`; `further` is that of the features.

        None behind a first convolution whose is not wanted.
        """
        while self._passed:
            passed = self._passed.pop()
            stage = passed.stage
            if isinstance(stage.layer, Residual):
                through = [one.backward(gradient, views, further) for one in passed.kept]
                gradient = through[0] + through[1]
            elif type(stage.layer) is nn.Conv2d:
                is_wanted = self.is_inner or bool(self._passed)
                gradient = self._convolved_back(passed, gradient, views, is_wanted)
            elif isinstance(stage.layer, EvoNormHardSwish):
                gradient = self._normalized_back(passed, gradient, views)
            else:
                (gradient,) = torch.autograd.grad(passed.gave, passed.got, gradient)
            if stage.name == self.features and further is not None and gradient is not None:
                gradient = gradient + further
        return gradient

    def _residual(self, stage: Stage, residual: Residual, x: Tensor) -> Passed:
        ways = [Way(self.rows, self.batch, self.features, self.keeps, True) for _ in residual]
        found = [way.forward(path, x) for way, path in zip(ways, residual, strict=True)]
        for way in ways:
            self.found = way.found if self.found is None else self.found
        return Passed(stage, x, found[0] + found[1], ways)

    def _convolved(self, stage: Stage, x: Tensor) -> Passed:
        layer: Any = stage.layer
        sizes = Layer(
            *(layer.in_channels, (x.shape[3], x.shape[4]), layer.out_channels),
            *(layer.kernel_size, layer.stride, layer.padding, layer.dilation),
            *(stage.relu, stage.pool),
        )
        sizes.check()
        x = x if x[0].is_contiguous() else x.contiguous()
        bias = self.rows.get(within(stage.name, "bias"))
        out = x.new_empty(*x.shape[:2], sizes.outputs, *sizes.result, BLOCK)
        has_codes = self.keeps and (stage.relu or stage.pool)
        codes = torch.empty_like(out, dtype=torch.uint8) if has_codes else None
        lane_convolution(x, self.rows[within(stage.name, "weight")], bias, out, codes, *sizes.how)
        return Passed(stage, x, out, (sizes, codes))

    def _convolved_back(
        self, passed: Passed, gradient: Tensor, views: Mapping[str, Tensor], is_wanted: bool
    ) -> Tensor | None:
        stage, got, _, (sizes, codes) = passed
        weight, bias = (within(stage.name, kind) for kind in ("weight", "bias"))
        for_got = torch.empty_like(got) if is_wanted else None
        lane_convolution_backward(
            *(gradient.contiguous(), codes, got, self.rows[weight]),
            *(for_got, views.get(weight), views.get(bias), *sizes.how),
        )
        return for_got

    def _normalized(self, stage: Stage, x: Tensor) -> Passed:
        layer: Any = stage.layer
        x = x.contiguous()
        weight, bias = (self.rows[within(stage.name, kind)] for kind in ("weight", "bias"))
        out, means = torch.empty_like(x), x.new_empty(*x.shape[:2], layer.groups, BLOCK)
        inverses = torch.empty_like(means)
        rows = weight.flatten(1), bias.flatten(1)
        lane_evonorm(x, *rows, layer.groups, layer.eps, out, means, inverses)
        return Passed(stage, x, out, (rows[0], means, inverses))

    def _normalized_back(
        self, passed: Passed, gradient: Tensor, views: Mapping[str, Tensor]
    ) -> Tensor:
        stage, got, _, kept = passed
        wanted = (views.get(within(stage.name, kind)) for kind in ("weight", "bias"))
        rows = [None if view is None else view.flatten(1) for view in wanted]
        for_got = torch.empty_like(got)
        lane_evonorm_backward(gradient.contiguous(), got, *kept, for_got, *rows)
        return for_got

    def _applied(self, stage: Stage, x: Tensor) -> Passed:
        layer: Any = stage.layer
        got = x.detach().requires_grad_(self.keeps)
        with torch.set_grad_enabled(self.keeps):
            if type(layer) not in POOLINGS:
                return Passed(stage, got, applied(layer, got))
            # samples are channels here, which poolings do not look at
            images = got.flatten(0, 2).permute(0, 3, 1, 2)
            pooled = layer(images).permute(0, 2, 3, 1).unflatten(0, x.shape[:3])
            return Passed(stage, got, pooled.contiguous())
