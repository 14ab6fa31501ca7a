"""D2: the displacement that gossip caused is given back in the next step."""

import warnings

import torch
from torch.optim.optimizer import ParamsT

from fastsaddle.comm.choco import Choco
from fastsaddle.graphs.topology import Topology
from fastsaddle.rules.tracking_optimizer import Rows, TrackingOptimizer

# D2 needs eigenvalues above this
LEAST = -1 / 3


class D2(TrackingOptimizer):
    """D2, free of the bias of heterogeneous data, one row sent to each neighbor a step.

        h_i = x_i - lr sgd(g_i)
        c_i = c_i + sum_j W_ij ((h_j + c_j) - (h_i + c_i))        (c_i = 0 at first)
        x_i = h_i + c_i                                           which is sum_j W_ij (h_j + c_j)

    Tang et al. 2018 (arXiv:1803.07068), in the form of the code of arXiv:2110.04175: at constant lr without momentum it
    is the paper's 2 x_t - x_{t-1} - lr (g_t - g_{t-1}); after a change of lr the old gradient keeps the rate that it
    was taken with. Differences are mixed, not models: what one agent gives the other takes, so that rounding leaves the
    sum of c at zero. State: `correction` (c), `momentum_buffer`.

    W's smallest eigenvalue must be above -1/3. A ring of an even number of agents has exactly -1/3: it is warned of
    there, and `consensus_step=0.5`, which mixes by (W + I) / 2, is what others use.

    Args:
        momentum: beta in [0, 1), of the local step: heavy ball, or Nesterov's form; the paper has none.
        nesterov: use Nesterov's form.
        consensus_step: gamma; W is replaced by (1 - gamma) I + gamma W.
        nonfinite: "raise" refuses NaN and infinite gradients before anything changes; "skip" counts them as zero.

    Other arguments and errors: as in `DSGD`, and

    Raises:
        ValueError: the smallest eigenvalue of the mixing matrix is below -1/3.
    """

    buffers = ("correction", "momentum_buffer")

    def __init__(
        self,
        params: ParamsT,
        lr: float | torch.Tensor = 0.1,
        *,
        topology: Topology | str | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        consensus_step: float = 1.0,
        nonfinite: str = "raise",
        maximize: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            topology=topology,
            consensus_step=consensus_step,
            nonfinite=nonfinite,
            backend=backend,
        )

    def _connect(  # type: ignore[override]
        self, topology: Topology | str | None, consensus_step: float, choco: Choco
    ) -> tuple[int, bool]:
        connected = super()._connect(topology, consensus_step, choco)
        if self.topology is not None:
            least = (
                1
                - consensus_step
                + consensus_step * float(torch.linalg.eigvalsh(self.topology.W)[0])
            )
            remedy = "consensus_step=0.5 mixes by (W + I) / 2"
            if least < LEAST - 1e-9:
                raise ValueError(
                    "D2 needs a mixing matrix whose eigenvalues are above -1/3, "
                    f"got {least:.4f} for {self.topology}: {remedy}"
                )
            if least < LEAST + 1e-9:
                warnings.warn(
                    f"D2 may oscillate: {self.topology} has the eigenvalue -1/3; {remedy}",
                    RuntimeWarning,
                    stacklevel=4,
                )
        return connected

    def box(self, rows: Rows) -> None:
        c = rows.states["correction"]
        h = rows.descended(rows.x, rows.g)
        c.add_(rows.communicator.differences(h + c))
        torch.add(h, c, out=rows.x)
