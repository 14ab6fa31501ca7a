"""Children forked after threads were used: their kernels must not wait for threads that were not forked."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import os, sys, torch, fastsaddle as fs
torch.set_num_threads(2)
torch.manual_seed(int(sys.argv[1]))
backend = None if sys.argv[2] == "any" else sys.argv[2]
"""
MODEL = """
start = torch.randn(8, 40_000)
gradient = torch.randn(8, 40_000)
def trained(steps):
    p = torch.nn.Parameter(start.clone())
    optimizer = fs.QSADDLe([p], lr=0.1, rho=0.05, topology="ring", backend=backend)
    return p, optimizer, stepped(p, optimizer, steps)
def stepped(p, optimizer, steps):
    for _ in range(steps):
        p.grad.copy_(gradient)
        optimizer.perturb(zero_grad=True)
        p.grad.copy_(gradient)
        optimizer.step()
    return p.detach().clone()
"""
CHILD = """
child = os.fork()
if not child:
    os._exit(0 if run() else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(body: str, seed: int, backend: str, timeout: float = 100) -> None:
    """Run a script that forks; one that waits for ever fails, and is ended with its children."""
    script = BEGIN + textwrap.dedent(body) + CHILD
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(seed), backend],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        pytest.fail("the forked child waits for ever")
    assert process.returncode == 0, said


# plain PyTorch runs where nothing was compiled
each = pytest.mark.parametrize("backend", ["any", "reference"])


@each
@pytest.mark.parametrize("seed", [3, 4])
def test_a_forked_child_goes_on_with_its_parents_optimizer(seed: int, backend: str) -> None:
    body = """
    _, _, expected = trained(5)
    p, optimizer, _ = trained(3)
    def run():
        return torch.get_num_threads() == 1 and torch.equal(stepped(p, optimizer, 2), expected)
    """
    run(MODEL + textwrap.dedent(body), seed, backend)


@each
def test_a_forked_child_makes_an_optimizer_of_its_own(backend: str) -> None:
    body = """
    expected = trained(2)[2]
    def run():
        return torch.equal(trained(2)[2], expected)
    """
    run(MODEL + textwrap.dedent(body), 5, backend)


@each
def test_kernels_in_a_forked_child_do_not_wait_for_threads_that_torch_used(backend: str) -> None:
    """The parent has used no kernel of ours, and the child's tensors are too small for torch's own threads."""
    body = """
    big = torch.randn(2_000_000)
    big = (big * big).exp()
    start, gradient = torch.randn(4, 700), torch.randn(4, 700)
    expected = fs.topology.ring(4).W.float() @ (start - 0.5 * gradient)
    def run():
        p = torch.nn.Parameter(start.clone())
        optimizer = fs.DSGD([p], lr=0.5, topology="ring", backend=backend)
        p.grad.copy_(gradient)
        optimizer.step()
        return torch.allclose(p.detach(), expected, atol=1e-6)
    """
    run(body, 6, backend)


@each
def test_a_forked_child_of_a_forked_child_steps_too(backend: str) -> None:
    body = """
    _, _, expected = trained(3)
    p, optimizer, _ = trained(1)
    def run():
        stepped(p, optimizer, 1)
        child = os.fork()
        if not child:
            os._exit(0 if torch.equal(stepped(p, optimizer, 1), expected) else 3)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    run(MODEL + textwrap.dedent(body), 7, backend)
