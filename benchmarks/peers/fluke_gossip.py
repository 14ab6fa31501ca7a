"""fluke-fl's GossipDFL: each agent sends its model to one random neighbor; who received any averages and steps."""
# pyright: reportMissingImports=false

import networkx as nx
from _torchvision import stub_where_broken
from _turns import TURNS
from _work import BATCH, CLASSES, LR, MOMENTUM, CountedLoss, agents, data, network

NOTE = stub_where_broken()

from fluke import DDict, FlukeENV  # noqa: E402
from fluke.algorithms.decentralized import GossipClient, GossipDFL, Topology  # noqa: E402
from fluke.config import OptimizerConfigurator  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.utils import FederationObserver  # noqa: E402


class Rounds(FederationObserver):
    def end_round(self, round: int) -> None:
        TURNS.end_round()


def main() -> None:
    count = agents()
    inputs, labels = data(count)
    ring = Topology(nx.cycle_graph(count))
    environment = FlukeENV()
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
    environment.set_inmemory(True)
    clients = [
        GossipClient(
            index=agent,
            model=network(),
            neighbours=ring[agent],
            train_set=FastDataLoader(
                inputs[agent], labels[agent], num_labels=CLASSES, batch_size=BATCH, shuffle=True
            ),
            test_set=None,
            optimizer_cfg=OptimizerConfigurator(DDict(name="SGD", lr=LR, momentum=MOMENTUM)),
            loss_fn=CountedLoss(),
            local_epochs=1,
            policy="aggregate",
        )
        for agent in range(count)
    ]
    federation = GossipDFL(count, None, {}, topology=ring, clients=clients)
    federation.set_callbacks([Rounds()])
    TURNS.begin(NOTE)
    federation.run(10**9)


if __name__ == "__main__":
    main()
