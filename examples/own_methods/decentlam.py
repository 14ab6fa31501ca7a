"""DecentLaM (Yuan et al. 2021, arXiv:2104.11981): momentum of the direction that step and gossip have together.

    d_i = (x_i - sum_j W_ij (x_j - lr g_j)) / lr
    m_i = momentum m_i + d_i
    x_i = x_i - lr m_i

At rest m and d are zero, so that x = W (x - lr g): momentum adds nothing to the bias that DSGD has. lr must be > 0.

    fs.Optimizer(stack.parameters(), lr=0.1, rule=DecentLaM(momentum=0.8), communicator=fs.comm.Gossip("ring"))
"""

import fastsaddle as fs


class DecentLaM(fs.rules.Rule):
    hyperparameters = {"momentum": fs.rules.Range(0, 1, default=0.9)}
    states = (fs.rules.State("momentum_buffer"),)
    ascent_state = "momentum_buffer"

    def step(self, rows, comm):
        direction = (rows.x - comm.mixed(rows.x - rows.lr * rows.g)) / rows.lr
        m = rows.states["momentum_buffer"].mul_(rows["momentum"]).add_(direction)
        rows.x.sub_(rows.lr * m)
