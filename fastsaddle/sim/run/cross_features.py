"""The cross-feature contrastive loss: agents draw what they know of a sample to what their neighbors know of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsaddle.comm.lists import MixingLists
from fastsaddle.gradients.cross import sources_of
from fastsaddle.graphs.topology import Topology
from fastsaddle.sim.engines._features import last_linear
from fastsaddle.sim.gradient_engine import GradientEngine
from fastsaddle.sim.run.sharp_samples import sample_losses

Targets = dict[str, Tensor]


class CrossFeatures:
    """Loss terms on phi(x; d), the features that model x finds in samples d: the input of its last Linear layer.

        loss_i = cross entropy
                 + model_weight * sum_{j in N_i} MSE(phi(x_i; d_i), phi(x_j; d_i))
                 + data_weight * MSE(phi(x_i; d_i), z_i[labels])

    z_i[c] is the mean of phi(x_i; d) over all samples of class c in the batches of agent i and of its neighbors. No
    gradient flows into phi(x_j; d_i) and z_i, which are found once, at the models that a step begins with, and serve
    all of its gradient evaluations. Aketi and Roy 2023 (arXiv:2310.15890) and the authors' code, whose defaults are 0.1
    for both weights.

    Their code takes the agent's own features at its mixed model, and its neighbors' at the models that were sent, not
    yet mixed, with layers in evaluation mode; here all are at the models x of one step, with layers in training mode
    and running statistics at rest.

    Args:
        engine: evaluates the features: for each neighbor one forward pass, and one at the own models for z.
        topology: who is whose neighbor.
        classes: number of classes.
        model_weight, data_weight: >= 0.
        models_are_sent: whether the algorithm's own messages are the models x. Otherwise (D-PSGD, QGM and the like send
            them before mixing) they travel for this loss alone, and are counted.

    Attributes:
        layer: name of that Linear layer.
        nbytes: bytes that all agents together send for it in a step: models where they are not sent anyway, and with
            a data_weight the sums and counts of each class.

    Raises:
        ValueError: a network without a Linear layer.
    """

    def __init__(
        self,
        engine: GradientEngine,
        topology: Topology,
        classes: int,
        model_weight: float,
        data_weight: float,
        models_are_sent: bool = False,
    ) -> None:
        template = engine.stack.template
        self.engine, self.classes = engine, classes
        self.model_weight, self.data_weight = model_weight, data_weight
        self.layer = last_linear(template)
        linear = template.get_submodule(self.layer)
        assert isinstance(linear, nn.Linear)
        self.features = linear.in_features
        self._lists = MixingLists(topology).on(engine.stack.device)
        self._neighbors = self._lists.neighbors.long()
        self._sources = sources_of(self._lists, by_neighbors=True).long()
        floats = 0 if models_are_sent else engine.stack.layout.dim
        if data_weight:
            floats += classes * (self.features + 1)
        self.nbytes = 4 * topology.messages * floats

    @torch.no_grad()
    def targets(self, inputs: Tensor, labels: Tensor) -> Targets:
        """What the loss draws each sample's features to, `[agents, batch, ...]`, at the models as they are now.

        Args:
            inputs: `[agents, batch, ...]`.
            labels: `[agents, batch]` int64.

        Raises:
            ValueError: the last Linear layer is given anything but `[batch, features]`.
        """
        found = {"labels": labels}
        own = 0 if self.data_weight else 1
        passes = [self._features(inputs, slot) for slot in range(own, self._neighbors.shape[1])]
        if self.model_weight:
            found |= self._of_models(passes[1 - own :], labels)
        if self.data_weight:
            found["center"] = self._centers(passes, labels)
        return found

    def losses(self, outputs: tuple[Tensor, Tensor], targets: Targets) -> Tensor:
        """Of one agent's samples, `[batch]`, for (outputs, features) and its part of the targets."""
        scores, phi = outputs
        loss = sample_losses(scores, targets["labels"])
        if self.model_weight:
            away = targets["degree"] * _square(phi - targets["mean"])
            loss = loss + self.model_weight * (away + targets["spread"])
        if self.data_weight:
            loss = loss + self.data_weight * _square(phi - targets["center"])
        return loss

    def mean(self, outputs: tuple[Tensor, Tensor], targets: Targets) -> Tensor:
        """The mean loss of one agent's samples."""
        return self.losses(outputs, targets).mean()

    def gradients(self, inputs: Tensor, targets: Targets) -> Tensor:
        """Leave every agent's gradient in the stack; its losses `[agents]`."""
        return self.engine.gradients(inputs, targets, self.mean, self.layer)

    def _features(self, inputs: Tensor, slot: int) -> Tensor:
        """Of every agent's samples in the model of the agent at `slot` of its list, itself where there is none."""
        whose = self._lists.whose(slot)
        _, phi = self.engine.outputs(inputs, whose, self.layer)
        if phi.shape != (*inputs.shape[:2], self.features):
            raise ValueError(
                f"the last Linear layer must be given [batch, features], got {tuple(phi.shape[1:])}"
            )
        return phi

    def _of_models(self, passes: list[Tensor], labels: Tensor) -> Targets:
        """The neighbors' features of each sample as their mean, number and squared distances to the mean.

        The sum over j of (phi - phi_j)^2 is degree (phi - mean)^2 + spread, whatever phi is.
        """
        agents, batch = labels.shape
        degree = torch.zeros(agents, 1, 1, device=labels.device)
        mean = torch.zeros(agents, batch, self.features, device=labels.device)
        spread = torch.zeros(agents, batch, device=labels.device)
        for phi, listed in zip(passes, self._neighbors.T[1:], strict=True):
            here = (listed >= 0)[:, None, None]
            degree = degree + here
            before = phi - mean
            mean = torch.where(here, mean + before / degree.clamp(min=1), mean)
            spread = spread + torch.where(here, before * (phi - mean), 0).mean(2)
        return {"mean": mean, "spread": spread, "degree": degree[:, :, 0].expand(agents, batch)}

    def _centers(self, passes: list[Tensor], labels: Tensor) -> Tensor:
        """z of each sample's class, `[agents, batch, features]`."""
        members = F.one_hot(labels, self.classes).to(passes[0])
        # each agent sums for itself and for the owners of the models that it was sent
        told = torch.cat([members.transpose(1, 2) @ phi for phi in passes])
        sums, counts = torch.zeros_like(told[: len(labels)]), torch.zeros_like(members[:, 0])
        for source, listed in zip(self._sources.T, self._neighbors.T, strict=True):
            here = (listed >= 0)[:, None]
            sums += torch.where(here[:, None], told[source.clamp(min=0)], 0)
            counts += torch.where(here, members.sum(1)[listed.clamp(min=0)], 0)
        centers = sums / counts.clamp(min=1)[:, :, None]
        return centers.gather(1, labels[:, :, None].expand(*labels.shape, self.features))


def _square(differences: Tensor) -> Tensor:
    """Mean squares of rows."""
    return differences.square().mean(-1)
