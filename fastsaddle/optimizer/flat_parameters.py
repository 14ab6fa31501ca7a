"""Re-points parameters and their gradients into flat buffers, and notices when somebody moves them away."""

import os
import re
import warnings
import weakref
from collections.abc import Sequence

import torch
from torch.nn import Parameter
from torch.utils.dlpack import from_dlpack, to_dlpack
from torch.utils.weak import WeakTensorKeyDictionary

from fastsaddle.optimizer.commit import Commit
from fastsaddle.optimizer.flat_layout import FlatLayout
from fastsaddle.optimizer.memory import check_memory, is_shared, refuse_overlaps, refuse_shared
from fastsaddle.optimizer.phase import Phase
from fastsaddle.optimizer.rounded_parameters import RoundedParameters, check_dtype, is_rounded
from fastsaddle.optimizer.squares import Squares

# parameter -> weak reference to its buffers; an attribute would be pickled along with the parameter
_OWNERS = WeakTensorKeyDictionary()


class FlatParameters:
    """Parameters of all agents in one buffer `x`, their gradients in another, `g`; both `[agents, stride]`.

    Parameters become views of `x` and their `.grad` views of `g`, which autograd accumulates into. bfloat16 parameters
    get rows of their own, of which `x` and `g` are the float32 master copy: see `RoundedParameters`.

    Attributes:
        agents: rows of the buffers.
        stacked: whether parameters are `[agents, ...]`; otherwise they are ordinary ones of a single agent.
        layout: where each parameter lies.
        wants_squares: whether engines are to add up the squares of what they write, see `Squares`.
        squares: what the last one added up; None where none did.
        at: rows that engines take gradients at: `x`, but during SAM's second pass of an `AtRows` closure.
        rounded: the bfloat16 parameters, None where there are none.
        version: counts how often the buffers were laid out anew; state laid out like them must follow.
        second_pass: whether gradients are being taken at a perturbed model (BatchNorm statistics rest).
        pinned: whether somebody else (an AgentStack) works on the buffers, so that parameters must stay in them.
        deserted: whether parameters have moved into other buffers, those of a later optimizer.
        renewals: counts how often all gradients were written anew, whatever they were.
        phase: of the optimizer whose parameters these are; None where there is none.
        process: number of the process that laid them out.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Parameter]],
        agents: int,
        stacked: bool,
        device: torch.device,
    ) -> None:
        check_parameters(groups, agents, stacked)
        self.agents, self.stacked = agents, stacked
        # of rows without parameters: frozen ones may begin to move
        self._device = device
        self.pinned = self.deserted = False
        self.version = 0
        self.second_pass = False
        self.renewals = 0
        self.wants_squares = False
        self.squares: Squares | None = None
        self.phase: Phase | None = None
        self._lay_out(groups)

    @classmethod
    def over(
        cls,
        groups: Sequence[Sequence[Parameter]],
        agents: int,
        stacked: bool,
        device: torch.device,
    ) -> "FlatParameters":
        """The buffers that hold `groups` as their first column ranges: those they already lie in, or new ones.

        `device` is where rows lie that hold no parameter.

        Raises:
            ValueError: the parameters do not fit together, or would have to leave an AgentStack's buffers.
        """
        given = [p for group in groups for p in group]
        check_memory(given)
        if any(is_foreign(owner_of(p)) for p in given):
            # those that were laid out here, and sent elsewhere since, are followed
            refuse_shared(given)
        owners = {id(owner): owner for owner in map(owner_of, given)}
        alone = next(iter(owners.values())) if len(owners) == 1 else None
        if alone is not None and alone.fits(agents, stacked):
            alone.arrange(groups)
            return alone
        for owner in owners.values():
            if owner is not None and owner.pinned:
                raise ValueError(
                    "an AgentStack's parameters need an optimizer of their own, got others among them"
                    if stacked
                    else f"an AgentStack of {owner.agents} agents needs a topology of as many, got None"
                )
        return cls(groups, agents, stacked, device)

    def fits(self, agents: int, stacked: bool) -> bool:
        """Whether such an optimizer can work here: a stack of one agent is as good as an ordinary module."""
        return not self.deserted and self.agents == agents and (self.stacked or not stacked)

    def arrange(self, groups: Sequence[Sequence[Parameter]]) -> None:
        """Make `groups` the first column ranges, other parameters the last; copies only if the order changes."""
        wanted = [list(group) for group in groups]
        named = {id(p) for group in wanted for p in group}
        rest = [p for p in self.parameters if id(p) not in named]
        wanted += [rest] if rest else []
        if [[id(p) for p in g] for g in wanted] != [[id(p) for p in g] for g in self.groups]:
            check_parameters(wanted, self.agents, self.stacked)
            self._lay_out(wanted)

    def parts(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each parameter's part of `rows` `[agents, stride]`, in the parameter's own shape."""
        return self._parts(self.layout, rows)

    def _parts(self, layout: FlatLayout, rows: torch.Tensor) -> list[torch.Tensor]:
        views = layout.views(rows)
        return views if self.stacked else [view[0] for view in views]

    @property
    def gradient_buffers(self) -> tuple[torch.Tensor, ...]:
        """What `.grad` of the parameters are views of, each with a counter of what is written into it."""
        return (self.g,) if self._rounded_g is None else (self.g, self._rounded_g)

    @property
    def written(self) -> tuple[tuple[int, int], ...]:
        """Changes whenever something is written into gradients."""
        return tuple((rows.data_ptr(), rows._version) for rows in self.gradient_buffers)

    def models(self) -> torch.Tensor:
        """`x`, but the models themselves where parameters are elsewhere: perturbed, or at others' models."""
        self.verify()
        if self.phase is None or self.phase.home is None:
            return self.x
        columns = slice(0, self.phase.end)
        models = self.x.clone()
        models[:, columns] = self.phase.home[:, columns]
        return models

    def verify(self) -> None:
        """Lay the buffers out anew where a parameter was moved (`.to()`, an assigned `.data`).

        Raises:
            ValueError: the moved parameters have another shape, a dtype that is not taken, or lie on several devices.
        """
        if any(place(p) != at for p, at in zip(self.parameters, self._places, strict=True)):
            self._notice_sharing()
            for p, gradient in zip(self.parameters, self._gradients, strict=True):
                if p.shape != gradient.shape:
                    raise ValueError(
                        f"parameters must keep their shape, got {tuple(p.shape)} "
                        f"for one that was {tuple(gradient.shape)}"
                    )
            check_parameters(self.groups, self.agents, self.stacked)
            self._lay_out(self.groups)

    def _notice_sharing(self) -> None:
        """Refuse shared memory in a forked child; warn where parameters were merely sent to another process."""
        if is_foreign(self):
            refuse_shared(self.parameters)
        elif any(map(is_shared, self.parameters)):
            warnings.warn(
                "parameters were moved into shared memory, as sending a model to another process does: training goes "
                "on in this process's memory, others keep the values that they have",
                RuntimeWarning,
                stacklevel=2,
            )

    def collect_gradients(self) -> None:
        """Bring every gradient into `g`: one assigned from outside is copied, a missing one counts as zero.

        Raises:
            ValueError: a gradient is sparse.
        """
        for p, view in zip(self.parameters, self._gradients, strict=True):
            grad = p.grad
            if grad is view:
                continue
            if grad is None:
                view.zero_()
            elif grad.layout != torch.strided:
                raise ValueError(f"gradients must be dense, got {grad.layout}")
            elif grad.data_ptr() != view.data_ptr() or grad.stride() != view.stride():
                view.copy_(grad)
            attach(p, view)
        if self.rounded is not None:
            self.rounded.collect()

    def published(self) -> None:
        """Tell parameters, and autograd of each, that `x` was written."""
        if self.rounded is not None:
            self.rounded.publish()
        # each has a counter of its own
        torch.autograd.graph.increment_version(self.parameters)

    def zero_gradients(self, groups: int | None = None) -> None:
        """Zero the gradients of the first `groups` groups (of all by default) and attach their views again."""
        ranges = self.layout.ranges[:groups]
        if ranges:
            columns = slice(ranges[0][0], ranges[-1][1])
            self.g[:, columns].zero_()
            if self._rounded_g is not None:
                self._rounded_g[:, columns].zero_()
        count = sum(len(group) for group in self.groups[:groups])
        for p, view in zip(self.parameters[:count], self._gradients, strict=False):
            attach(p, view)

    def _lay_out(self, groups: Sequence[Sequence[Parameter]]) -> None:
        parameters = [p for group in groups for p in group]
        shapes = [[p.shape[1:] if self.stacked else p.shape for p in group] for group in groups]
        layout = FlatLayout.pack(shapes)
        device = parameters[0].device if parameters else self._device
        x, g = layout.allocate(self.agents, device), layout.allocate(self.agents, device)
        masters, gradients = self._parts(layout, x), self._parts(layout, g)
        values, value_gradients, rounded, rounded_g = masters, gradients, None, None
        if any(map(is_rounded, parameters)):
            rounded_x, rounded_g = (
                layout.allocate(self.agents, device, torch.bfloat16) for _ in (x, g)
            )
            values, value_gradients = (
                [
                    half if is_rounded(p) else whole
                    for p, half, whole in zip(parameters, *both, strict=True)
                ]
                for both in (
                    (self._parts(layout, rounded_x), masters),
                    (self._parts(layout, rounded_g), gradients),
                )
            )
            buffers = (masters, gradients, values, value_gradients)
            which = [k for k, p in enumerate(parameters) if is_rounded(p)]
            rounded = (
                # whole rows at once where they hold nothing else
                RoundedParameters([x], [g], [rounded_x], [rounded_g])
                if len(which) == len(parameters)
                else RoundedParameters(*([buffer[k] for k in which] for buffer in buffers))
            )
        for p, master, value, gradient in zip(
            parameters, masters, values, value_gradients, strict=True
        ):
            value.copy_(p.detach())
            if value is not master:
                master.copy_(value)
            if p.grad is not None:
                gradient.copy_(p.grad)
        # from here on nothing can fail: the parameters change owner together
        with Commit():
            for p, value, gradient in zip(
                parameters, map(own_storage, values), value_gradients, strict=True
            ):
                p.grad = None
                p.data = value
                attach(p, gradient)
                former = owner_of(p)
                if former is not None and former is not self:
                    former.deserted = True
                _OWNERS[p] = weakref.ref(self)
            self.layout = layout
            self.groups = [list(group) for group in groups]
            self.parameters, self.x, self.g = parameters, x, g
            self.at = x
            self._gradients, self._rounded_g = value_gradients, rounded_g
            self._places = [place(p) for p in parameters]
            self.rounded, self.process = rounded, os.getpid()
            self.version += 1
        if self.agents > 1:
            silence_layout_warning(layout.stride)


def owner_of(p: Parameter) -> FlatParameters | None:
    """The buffers that a parameter lies in, None where it was never laid out."""
    owner = _OWNERS.get(p)
    return None if owner is None else owner()


def is_foreign(owner: FlatParameters | None) -> bool:
    """Whether parameters were laid out by nobody yet, or by the process that this one was forked from."""
    return owner is None or owner.process != os.getpid()


def own_storage(part: torch.Tensor) -> torch.Tensor:
    """The same memory as a storage of its own, as tools expect that ask who shares one (safetensors, torch.save)."""
    return from_dlpack(to_dlpack(part)) if part.numel() else part


def place(p: Parameter) -> tuple[int, tuple[int, ...]]:
    """Address and strides: what changes where a parameter is moved, or turned over in place."""
    return p.data_ptr(), p.stride()


def attach(p: Parameter, gradient: torch.Tensor) -> None:
    """Make `gradient` the parameter's `.grad`, unless it wants none."""
    if p.requires_grad and p.grad is not gradient:
        p.grad = gradient


def silence_layout_warning(stride: int) -> None:
    """Silence torch's remark on strided gradients for rows of this stride: they are strided on purpose."""
    remark = re.escape("grad and param do not obey the gradient layout contract")
    warnings.filterwarnings("ignore", message=rf"(?s){remark}.*strides\(\) = \[{stride}[,\]]")


def check_parameters(groups: Sequence[Sequence[Parameter]], agents: int, stacked: bool) -> None:
    """Raise ValueError unless parameters are float32 or bfloat16, on one device, apart, and stacked as asked."""
    parameters = [p for group in groups for p in group]
    check_memory(parameters)
    for number, p in enumerate(parameters):
        check_dtype(p, number)
        if stacked and (p.dim() == 0 or p.shape[0] != agents):
            raise ValueError(
                f"for {agents} agents every parameter must be stacked as [{agents}, ...], as those of "
                f"fs.AgentStack(model, {agents}) are, got {tuple(p.shape)} for parameter {number}"
            )
    refuse_overlaps(parameters)
