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
    """Local SGD: `period` local steps, then every model becomes the mean of all models.

        x_i = x_i - lr sgd(g_i)                   each step
        x_i = (1/n) sum_j x_j                     each `period` steps

    Stich 2018 (arXiv:1805.09767); McMahan et al. 2016 (arXiv:1602.05629) call it federated averaging. Momentum buffers
    stay each agent's own. A meeting is an all-reduce: 2 (n - 1) models are sent by all n agents together, as in its
    ring algorithm. `synchronize()` brings agents together at once. State: `momentum_buffer`; parameter groups remember
    `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters or groups of them, each `[agents, ...]` float32, as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        agents: number of agents, the leading dimension of every parameter.
        period: steps from one meeting to the next, >= 1, or an `fs.QSR`, which lengthens the period as lr falls.
        momentum: beta, in [0, 1), of the local steps.
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: makes the torch optimizer that takes an agent's local steps in place of SGD, called with the agent's
            parameters, such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`. Its lr follows this optimizer's lr,
            and its state is saved with this optimizer's.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still averaged.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.LocalSGD(stack.parameters(), lr=0.1, agents=4, period=1)
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        96
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
    """DPPF: `period` local steps, then models are pulled toward their mean and pushed away from it.

        D_i = x_i - mean
        x_i = mean + (1 - pull + push / ||D_i||) D_i              one norm over the whole model of each agent

    Dimlioglu and Choromanska 2025 (arXiv:2507.20424). The update is a reconstruction: no public code was found and the
    paper's algorithm could not be read; it has the published law that the distance to the mean settles at push / pull,
    the width of the valley. push = 0 and pull = 1 is LocalSGD, bit for bit. The model to evaluate is the mean. The push
    costs no communication. State: `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters or groups of them, each `[agents, ...]` float32, as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        agents: number of agents, the leading dimension of every parameter.
        pull: alpha, in [0, 1].
        push: lambda, >= 0. Like `pull`, it is read from the parameter groups at every meeting, so schedules may change
            it, and must be equal in all groups.
        period: steps from one meeting to the next, >= 1, or an `fs.QSR`, which lengthens the period as lr falls.
        momentum: beta, in [0, 1), of the local steps.
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: makes the torch optimizer that takes an agent's local steps in place of SGD, called with the agent's
            parameters, such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`. Its lr follows this optimizer's lr,
            and its state is saved with this optimizer's.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still averaged.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.DPPF(stack.parameters(), lr=0.1, agents=4, period=1)
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        96
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
    """Elastic averaging SGD: `period` local steps, then the agents and a center pull at each other.

        x_i    = (1 - pull / n) x_i + (pull / n) center
        center = (1 - pull) center + pull (1/n) sum_j x_j         with the models before they were pulled

    Zhang, Choromanska and LeCun 2015 (arXiv:1412.6651), equations 5 and 6, synchronous, with the strengths of the code
    of arXiv:2403.04206. The center starts at the agents' mean and is the model to evaluate. State: `center` `[1, ...]`,
    `momentum_buffer`; groups remember `steps_done` and `next_synchronization`.

    Args:
        params: stacked parameters or groups of them, each `[agents, ...]` float32, as those of `fs.AgentStack` are.
        lr: learning rate, >= 0: a float, or a tensor, 0-d or `[agents]`. It is read at every step.
        agents: number of agents, the leading dimension of every parameter.
        pull: c, in [0, 1]; equal in all parameter groups.
        period: steps from one meeting to the next, >= 1, or an `fs.QSR`, which lengthens the period as lr falls.
        momentum: beta, in [0, 1), of the local steps.
        nesterov: use Nesterov's form instead of heavy ball, as in torch.optim.SGD.
        weight_decay: L2 coefficient, >= 0, added to the gradient.
        local: makes the torch optimizer that takes an agent's local steps in place of SGD, called with the agent's
            parameters, such as `lambda p: torch.optim.AdamW(p, weight_decay=0.01)`. Its lr follows this optimizer's lr,
            and its state is saved with this optimizer's.
        nonfinite: "raise" raises an error for NaN or infinite gradients before anything changes; with "skip" such
            agents skip their local step, and their models are still averaged.
        maximize: ascend the loss instead of descending it.
        backend: what computes the ops: "reference", "native" or "triton"; None chooses by device.
        placement: which process holds which agents, from `fs.place`; parameters are those of the agents of this
            process. None: all agents are here.
        process_group: short for `placement=fs.place(process_group=...)`: one agent per rank.

    Raises:
        ValueError: hyperparameters out of range, parameters that are not float32 on one device or not stacked for so
            many agents, a period below 1, `local` together with weight decay or maximize.

    Example:
        >>> import torch
        >>> import fastsaddle as fs
        >>> stack = fs.AgentStack(torch.nn.Linear(3, 1), agents=4)
        >>> optimizer = fs.EASGD(stack.parameters(), lr=0.1, agents=4, period=1)
        >>> inputs, targets = torch.randn(4, 8, 3), torch.randn(4, 8, 1)
        >>> stack.loss(torch.nn.functional.mse_loss, stack(inputs), targets).backward()
        >>> optimizer.step()
        >>> optimizer.bytes_sent
        96
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
