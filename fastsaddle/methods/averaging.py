"""Methods whose agents take local steps alone and meet in an average of all of them now and then."""

from typing import Any, Literal

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.average import Average, Elastic
from fastsaddle.comm.period import QSR
from fastsaddle.optimizer.shell import Optimizer
from fastsaddle.ranks.placement import Placement
from fastsaddle.rules.any_torch import Local, Torch
from fastsaddle.rules.base import Rule
from fastsaddle.rules.momentum import Momentum


class LocalSGD(Optimizer):
    """`period` local steps, then every model becomes the agents' mean.

        x_i = x_i - lr sgd(g_i)                   each step
        x_i = (1/n) sum_j x_j                     each `period` steps

    Stich 2018 (arXiv:1805.09767); McMahan et al. 2016 (arXiv:1602.05629) call it federated averaging. Momentum buffers
    stay each agent's own. A meeting is an all-reduce: 2 (n - 1) models are sent by all n agents together, as in its
    ring algorithm. `synchronize()` brings agents together at once. State: `momentum_buffer`; parameter groups remember
    `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters, `[agents, ...]` float32 each.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        agents: how many; the leading dimension of every parameter.
        period: steps between meetings, >= 1, or `fs.QSR(...)`, which lengthens them as lr falls.
        momentum: beta, in [0, 1), of the local steps: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: a callable from one agent's parameters to the torch optimizer that takes its local steps instead of SGD,
            such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`; its lr follows this one's, its state is saved
            with this one's.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" leaves such agents' local
            step out, while their models still take part in the averages.
        maximize: ascend instead of descending.
        backend: "reference", "native" or "triton"; None chooses by device.
        placement: who holds which agents, `fs.place(agents)`, where they are spread over processes; parameters are
            those of the agents here. None: all are here.
        process_group: short for `fs.place(process_group=...)`: one agent a rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
        period: int | QSR = 4,
        momentum: float | torch.Tensor = 0.9,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        local: Local | None = None,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rule_of(local, momentum, nesterov),
            communicator=Average(agents, period),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            placement=placement,
            process_group=process_group,
        )


class DPPF(Optimizer):
    """Distributed pull-push force: `period` local steps, then pull and push along the line to the mean.

        D_i = x_i - mean
        x_i = mean + (1 - pull + push / ||D_i||) D_i              one norm over the whole model of each agent

    Dimlioglu and Choromanska 2025 (arXiv:2507.20424). The update is a reconstruction: no public code was found and the
    paper's algorithm could not be read; it has the published law that the distance to the mean settles at push / pull,
    the width of the valley. push = 0 and pull = 1 is LocalSGD, bit for bit. The model to evaluate is the mean. The push
    costs no communication. State: `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters, `[agents, ...]` float32 each.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        agents: how many; the leading dimension of every parameter.
        pull: alpha, in [0, 1].
        push: lambda, >= 0. Both are read from the parameter groups at every meeting, for schedules, and must be equal
            in all of them.
        period: steps between meetings, >= 1, or `fs.QSR(...)`, which lengthens them as lr falls.
        momentum: beta, in [0, 1), of the local steps: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: a callable from one agent's parameters to the torch optimizer that takes its local steps instead of SGD,
            such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`; its lr follows this one's, its state is saved
            with this one's.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" leaves such agents' local
            step out, while their models still take part in the averages.
        maximize: ascend instead of descending.
        backend: "reference", "native" or "triton"; None chooses by device.
        placement: who holds which agents, `fs.place(agents)`, where they are spread over processes; parameters are
            those of the agents here. None: all are here.
        process_group: short for `fs.place(process_group=...)`: one agent a rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
        pull: float | torch.Tensor = 0.1,
        push: float | torch.Tensor = 0.5,
        period: int | QSR = 4,
        momentum: float | torch.Tensor = 0.9,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        local: Local | None = None,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rule_of(local, momentum, nesterov),
            communicator=Average(agents, period, pull, push),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            placement=placement,
            process_group=process_group,
        )


class EASGD(Optimizer):
    """Elastic averaging: `period` local steps, then agents and a center pull at each other.

        x_i    = (1 - pull / n) x_i + (pull / n) center
        center = (1 - pull) center + pull (1/n) sum_j x_j         with the models before they were pulled

    Zhang, Choromanska and LeCun 2015 (arXiv:1412.6651), equations 5 and 6, synchronous, with the strengths of the code
    of arXiv:2403.04206. The center starts at the agents' mean and is the model to evaluate. State: `center` `[1, ...]`,
    `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters, `[agents, ...]` float32 each.
        lr: learning rate, >= 0, a float or a tensor, 0-d or `[agents]`; read at every step.
        agents: how many; the leading dimension of every parameter.
        pull: c, in [0, 1]; equal in all parameter groups.
        period: steps between meetings, >= 1, or `fs.QSR(...)`, which lengthens them as lr falls.
        momentum: beta, in [0, 1), of the local steps: heavy ball, or Nesterov's form.
        nesterov: use Nesterov's form, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: a callable from one agent's parameters to the torch optimizer that takes its local steps instead of SGD,
            such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`; its lr follows this one's, its state is saved
            with this one's.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" leaves such agents' local
            step out, while their models still take part in the averages.
        maximize: ascend instead of descending.
        backend: "reference", "native" or "triton"; None chooses by device.
        placement: who holds which agents, `fs.place(agents)`, where they are spread over processes; parameters are
            those of the agents here. None: all are here.
        process_group: short for `fs.place(process_group=...)`: one agent a rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        agents: int,
        pull: float | torch.Tensor = 0.1,
        period: int | QSR = 4,
        momentum: float | torch.Tensor = 0.9,
        nesterov: bool = False,
        weight_decay: float | torch.Tensor = 0.0,
        local: Local | None = None,
        nonfinite: Literal["raise", "skip"] = "raise",
        maximize: bool = False,
        backend: str | None = None,
        placement: Placement | None = None,
        process_group: Any = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            rule=rule_of(local, momentum, nesterov),
            communicator=Elastic(agents, period, pull),
            weight_decay=weight_decay,
            nonfinite=nonfinite,
            maximize=maximize,
            backend=backend,
            placement=placement,
            process_group=process_group,
        )


def rule_of(local: Local | None, momentum: float | torch.Tensor, nesterov: bool) -> Rule:
    """SGD with each agent's own momentum, or any torch optimizer."""
    if local is None:
        return Momentum("local", momentum, nesterov=nesterov)
    rule = Torch(local)
    # groups have had these entries with `local` too, which reads none of them
    rule.defaults |= {"momentum": momentum, "nesterov": nesterov}
    return rule
