"""pfl: federated averaging of all agents through a server, one local step each; no gossip."""
# pyright: reportMissingImports=false

import asyncio
from typing import Any

import torch
from _turns import TURNS
from _work import BATCH, LR, MOMENTUM, CountedLoss, agents, data, network
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.criterion = network(), CountedLoss()

    def loss(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.layers(inputs), labels)

    def metrics(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Asked for in the first iteration only, which is in the turn that warms up."""
        return {"nothing": Weighted(0.0, len(labels))}


class Rounds(TrainingProcessCallback):
    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        TURNS.end_round()
        return False, Metrics()


def main() -> None:
    count = agents()
    # pfl takes its event loop from a call that newer Python versions answer only where one was set
    asyncio.set_event_loop(asyncio.new_event_loop())
    inputs, labels = data(count)
    model = Network()
    users = FederatedDataset(
        lambda user: Dataset([inputs[user], labels[user]]),
        get_user_sampler("minimize_reuse", range(count)),
    )
    trained = PyTorchModel(
        model,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM),
        torch.optim.SGD(model.parameters(), lr=1.0),
    )
    TURNS.begin()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=10**9,
            evaluation_frequency=10**9,
            train_cohort_size=count,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        trained,
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=LR),
        callbacks=[Rounds()],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
