"""Exact diffusion (Yuan et al. 2017, arXiv:1702.05122): gossip without the bias of heterogeneous data.

    psi_i = x_i - lr g_i
    phi_i = psi_i + x_i - psi_i of the step before        (phi = psi at first)
    x_i   = sum_j ((I + W) / 2)_ij phi_j

x - psi of the step before is kept, as a correction that starts at zero. Differences are mixed instead of rows: what one
agent gives another takes, so that corrections sum to zero however they are rounded.

    fs.Optimizer(stack.parameters(), lr=0.1, rule=ExactDiffusion(), communicator=fs.comm.Gossip("ring"))
"""

import fastsaddle as fs


class ExactDiffusion(fs.rules.Rule):
    label = "exact diffusion"
    states = (fs.rules.State("correction"),)

    def step(self, rows, comm):
        psi, correction = rows.x - rows.lr * rows.g, rows.states["correction"]
        correction.add_(0.5 * comm.differences(psi + correction))
        rows.x.copy_(psi + correction)
