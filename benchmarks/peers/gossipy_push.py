"""gossipy-dfl: each agent pushes its model to one random neighbor; who receives merges and takes a step."""
# pyright: reportMissingImports=false

import networkx as nx
import torch
from _torchvision import stub_where_broken
from _turns import TURNS
from _work import BATCH, CLASSES, INPUTS, LR, MOMENTUM, CountedLoss, agents, data, network

NOTE = stub_where_broken()

from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork  # noqa: E402
from gossipy.data import DataDispatcher  # noqa: E402
from gossipy.data.handler import ClassificationDataHandler  # noqa: E402
from gossipy.model import TorchModel  # noqa: E402
from gossipy.model.handler import TorchModelHandler  # noqa: E402
from gossipy.node import GossipNode  # noqa: E402
from gossipy.simul import GossipSimulator, SimulationEventReceiver  # noqa: E402


class Network(TorchModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def init_weights(self) -> None:
        """Weights stay as torch drew them."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


class Rounds(SimulationEventReceiver):
    def update_timestep(self, t: int) -> None:
        TURNS.end_round()

    def update_message(self, failed: bool, msg: object = None) -> None:
        pass

    def update_end(self) -> None:
        pass


def main() -> None:
    count = agents()
    inputs, labels = data(count)
    handler = ClassificationDataHandler(inputs.reshape(-1, INPUTS), labels.flatten(), test_size=0.0)
    assert handler.n_classes == CLASSES
    dispatcher = DataDispatcher(handler, n=count, eval_on_user=False)
    learner = TorchModelHandler(
        net=Network(),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": LR, "momentum": MOMENTUM},
        criterion=CountedLoss(),
        local_epochs=1,
        batch_size=BATCH,
        create_model_mode=CreateModelMode.MERGE_UPDATE,
    )
    ring = StaticP2PNetwork(count, nx.to_numpy_array(nx.cycle_graph(count)))
    # rounds of one time step: longer ones only look more often at who is due
    nodes = GossipNode.generate(dispatcher, ring, learner, round_len=1, sync=True)
    simulator = GossipSimulator(nodes, dispatcher, 1, AntiEntropyProtocol.PUSH)
    simulator.init_nodes()
    simulator.add_receiver(Rounds())
    TURNS.begin(NOTE)
    simulator.start(n_rounds=10**9)


if __name__ == "__main__":
    main()
