"""Agents as rows of one matrix, gradients row by row, gossip as a product with the dense mixing matrix."""

import torch
from _turns import TURNS
from _work import LR, MOMENTUM, CountedLoss, agents, data, network
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def ring(count: int) -> torch.Tensor:
    """The dense mixing matrix of a ring, `[agents, agents]`."""
    one = torch.eye(count)
    return (one + one.roll(1, 0) + one.roll(-1, 0)) / 3


def main() -> None:
    inputs, labels = data(agents())
    model = network()
    parameters = list(model.parameters())
    rows = parameters_to_vector(parameters).detach().repeat(len(inputs), 1)
    momentum, W = torch.zeros_like(rows), ring(len(inputs))
    loss_function = CountedLoss()
    TURNS.begin()
    while True:
        for row, buffer, batch, target in zip(rows, momentum, inputs, labels, strict=True):
            vector_to_parameters(row, parameters)
            loss = loss_function(model(batch), target)
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
            buffer.mul_(MOMENTUM).add_(gradient)
        rows = W @ (rows - LR * momentum)
        TURNS.end_round()


if __name__ == "__main__":
    main()
