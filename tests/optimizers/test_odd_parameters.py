"""Parameters that are unlike a module's: as torch.optim takes them, or one clear error before anything has changed."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fastsaddle as fs
from fastsaddle.optimizer.memory import refuse_overlaps
from tests.optimizers.test_every_optimizer import METHODS, NEEDS

pytestmark = pytest.mark.usefixtures("one_thread")


# what is given -> the parameters, and what is said
REFUSED: dict[str, tuple[Callable[[], list[torch.Tensor]], str]] = {
    "meta": (
        lambda: [nn.Parameter(torch.empty(3, 2, device="meta"))],
        "must have values, got parameter 0 on meta",
    ),
    "lazy": (
        lambda: [nn.Parameter(torch.randn(3)), *nn.LazyLinear(4).parameters()],
        "must have values, got parameter 1 uninitialized",
    ),
    "expanded": (
        lambda: [nn.Parameter(torch.randn(1).expand(4))],
        "must not share memory, but elements of 0 do among themselves",
    ),
    "expanded far": (
        lambda: [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(1, 5).expand(2**20, 5))],
        "elements of 1 do among themselves",
    ),
    "overlapping strides": (
        lambda: [nn.Parameter(torch.randn(6).as_strided((3, 2), (1, 1)))],
        "elements of 0 do among themselves",
    ),
    "overlapping windows": (
        lambda: (lambda x: [nn.Parameter(x[:, :3]), nn.Parameter(x[:, 2:])])(torch.randn(4, 5)),
        "must not share memory, but 0 and 1 do",
    ),
    "a column of a matrix": (
        lambda: (lambda x: [nn.Parameter(x), nn.Parameter(x[:, 4])])(torch.randn(4, 5)),
        "must not share memory",
    ),
    "a transpose": (
        lambda: (lambda x: [nn.Parameter(x), nn.Parameter(x.T)])(torch.randn(4, 5)),
        "must not share memory",
    ),
    "not a leaf": (lambda: [torch.randn(3, requires_grad=True) * 2], "non-leaf"),
    "complex": (
        lambda: [nn.Parameter(torch.randn(3, dtype=torch.complex64))],
        "must be float32 or bfloat16, got torch.complex64",
    ),
    "sparse": (lambda: [nn.Parameter(torch.eye(3).to_sparse())], "must be dense, got .*sparse_coo"),
    "sparse rows": (
        lambda: [nn.Parameter(torch.eye(3).to_sparse_csr())],
        "must be dense, got .*csr",
    ),
    "another layout": (
        lambda: [nn.Parameter(torch.randn(3).to_mkldnn())],
        "must be dense, got .*mkldnn",
    ),
    "in two groups": (
        lambda: (lambda p: [{"params": [p]}, {"params": [p]}])(nn.Parameter(torch.randn(3))),
        "more than one parameter group",
    ),
    "shared": (
        lambda: [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3).share_memory_())],
        r"must not lie in shared memory, got parameter 1 .* private copy .*Hogwild",
    ),
}


def test_sharded_ones_are_refused() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        layer = nn.Linear(8, 4)
        fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match="must be dense, got DTensor for parameter 0"):
            fs.QGM(layer.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("method", [fs.DSGD, fs.QSADDLe])
def test_refused_before_anything_has_changed(case: str, method: Any) -> None:
    build, message = REFUSED[case]
    given = build()
    flat = [p for g in given for p in (g["params"] if isinstance(g, dict) else [g])]
    storages = [p.untyped_storage().data_ptr() if is_plain(p) else None for p in flat]
    with pytest.raises(ValueError, match=message):
        method(given, lr=0.1)
    assert storages == [p.untyped_storage().data_ptr() if is_plain(p) else None for p in flat]
    assert all(p.grad is None for p in flat if p.is_leaf)


def is_plain(p: torch.Tensor) -> bool:
    return p.layout == torch.strided and not nn.parameter.is_lazy(p)


@pytest.mark.filterwarnings("ignore:.*quantize")
def test_frozen_ones_may_be_anything(seed: int) -> None:
    """As for torch.optim, which leaves parameters without gradients alone."""
    torch.manual_seed(seed)
    values = [
        torch.arange(3),
        torch.ones(3) > 0,
        torch.empty(3, device="meta"),
        torch.randn(1).expand(4),
        torch.randn(3).share_memory_(),
        torch.randn(3, dtype=torch.complex64),
        torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        torch.randn(3).to_mkldnn(),
        torch.eye(3).to_sparse(),
    ]
    p = nn.Parameter(torch.randn(5))
    before = p.detach().clone()
    given = [p, *(nn.Parameter(value, requires_grad=False) for value in values)]
    optimizer = fs.DSGD(given, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
    assert torch.allclose(p.detach(), before - 0.2)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("meta", "on one device, got cpu and meta"),
        ("shared", "shared memory, got parameter 2"),
        ("expanded", "elements of 1 do among themselves"),
        ("overlapping windows", "but 1 and 2 do"),
    ],
)
def test_refused_in_a_group_that_is_added(case: str, message: str, seed: int) -> None:
    torch.manual_seed(seed)
    p = nn.Parameter(torch.randn(5))
    optimizer = fs.QGM([p], lr=0.1)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": REFUSED[case][0]()})
    p.sum().backward()
    optimizer.step()
    assert torch.allclose(p.detach(), before - 0.1) and len(optimizer.param_groups) == 1


def strange(seed: int) -> list[nn.Parameter]:
    """What a module may have: nothing, a number, slices, transposes, interleaved ones, a memory-mapped file's."""
    draw = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(4, 6, 8, generator=draw) for _ in range(2))
    return [
        nn.Parameter(torch.empty(4, 0)),
        nn.Parameter(torch.randn(4, generator=draw)),
        nn.Parameter(x[:, :2]),
        nn.Parameter(x[:, 2:]),
        nn.Parameter(y.transpose(1, 2)[:, ::2]),
        nn.Parameter(y.transpose(1, 2)[:, 1::2]),
        nn.Parameter(torch.randn(4, 3, 2, 5, 5, generator=draw)[:, :, 0].contiguous()),
        nn.Parameter(torch.randn(4, 3, 2, generator=draw).permute(0, 2, 1)),
        nn.Parameter(torch.empty(4, 3, 0, 2)),
    ]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("compressed", [False, True])
def test_strange_ones_step_like_plain_ones(name: str, compressed: bool, seed: int) -> None:
    """Bit for bit as contiguous parameters without the empty ones, whose draws lie in the same places."""
    own = NEEDS.get(name, {"topology": "ring"})
    options = {"lr": 0.05, **own}
    if compressed:
        options |= {"compressor": fs.compressors.StochasticQuantizer(8)}
    given = strange(seed)
    plain = [
        nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
        for p in given
        if p.numel()
    ]
    try:
        twin = METHODS[name](plain, **options)
    except (TypeError, ValueError) as error:
        # methods without compressors
        assert compressed and "compressor" in str(error)
        return
    optimizer = METHODS[name](given, **options)
    mine = [p for p in given if p.numel()]

    def closure_over(optimizer: Any, parameters: list[nn.Parameter]) -> Callable[[], torch.Tensor]:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            pulls = [
                (p - torch.arange(p.numel()).view(p.shape).cos()).cosh().log().sum()
                for p in parameters
            ]
            loss = torch.stack(pulls).sum()
            loss.backward()
            return loss

        return closure

    for _ in range(4):
        optimizer.step(closure_over(optimizer, mine))
        twin.step(closure_over(twin, plain))
    assert all(torch.equal(a, b) for a, b in zip(mine, plain, strict=True))
    assert optimizer.bytes_sent == twin.bytes_sent


@pytest.mark.parametrize("name", METHODS)
def test_none_but_empty_ones_step(name: str) -> None:
    given = [nn.Parameter(torch.empty(4, 0)), nn.Parameter(torch.empty(4, 3, 0))]
    optimizer = METHODS[name](given, lr=0.05, **NEEDS.get(name, {"topology": "ring"}))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum(p.sum() for p in given)
        loss.backward()
        return loss

    for _ in range(4):
        assert not optimizer.step(closure)
    if optimizer.communicator.averages:
        optimizer.synchronize()
    other = METHODS[name](given, lr=0.05, **NEEDS.get(name, {"topology": "ring"}))
    other.load_state_dict(optimizer.state_dict())
    later = nn.Parameter(torch.ones(4, 2))
    optimizer.add_param_group({"params": [later]})
    assert optimizer.dim == 2


def test_strided_ones_follow_sgd(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 7, generator=draw)
    pairs = [
        (nn.Parameter(v.T[1:, ::3]), nn.Parameter(v.T[1:, ::3])) for v in (values.clone(), values)
    ]
    (mine, _), (theirs, _) = pairs
    ours, reference = fs.DSGD([mine], lr=0.1), torch.optim.SGD([theirs], lr=0.1)
    for _ in range(3):
        for p, optimizer in ((mine, ours), (theirs, reference)):
            optimizer.zero_grad()
            p.square().sum().backward()
            optimizer.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_overlaps_are_found_exactly(seed: int) -> None:
    """Against the addresses themselves, for random strided windows of one memory."""
    draw = torch.Generator().manual_seed(seed)

    def number(most: int) -> int:
        return int(torch.randint(most, (), generator=draw))

    memory, found = torch.randn(400), {True: 0, False: 0}
    for _ in range(300):
        windows = []
        for _ in range(1 + number(3)):
            shape = tuple(1 + number(4) for _ in range(1 + number(3)))
            stride = tuple(number(14) for _ in shape)
            windows.append(nn.Parameter(memory.as_strided(shape, stride, number(120))))
        places = torch.arange(400)
        touched = torch.cat(
            [places.as_strided(w.shape, w.stride(), w.storage_offset()).flatten() for w in windows]
        )
        overlaps = len(touched.unique()) < len(touched)
        found[overlaps] += 1
        if overlaps:
            with pytest.raises(ValueError, match="must not share memory"):
                refuse_overlaps(windows)
        else:
            refuse_overlaps(windows)
    assert min(found.values()) > 10


def test_a_private_file_mapping_is_no_shared_memory(tmp_path: Any, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    loaded = nn.Linear(3, 2)
    loaded.load_state_dict(
        torch.load(tmp_path / "model.pt", mmap=True, weights_only=True), assign=True
    )
    optimizer = fs.DSGD(loaded.parameters(), lr=0.5)
    loaded(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.allclose(loaded.weight, model.weight - 0.5)


def test_a_shared_model_may_be_copied_into_a_stack(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2).share_memory()
    stack = fs.AgentStack(model, 4)
    optimizer = fs.DSGD(stack.parameters(), lr=0.1, topology="ring")
    stack(torch.randn(4, 5, 3)).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="shared memory"):
        fs.DSGD(model.parameters(), lr=0.1)


def test_sent_to_another_process_training_goes_on(seed: int) -> None:
    """Sending moves parameters into shared memory: what was sent stays, and a warning says so."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = fs.DSGD(model.parameters(), lr=0.1)
    sent = {name: value for name, value in model.state_dict().items()}
    for value in sent.values():
        value.share_memory_()
    before = {name: value.clone() for name, value in sent.items()}
    model(torch.ones(1, 3)).sum().backward()
    with pytest.warns(RuntimeWarning, match="moved into shared memory"):
        optimizer.step()
    assert torch.allclose(model.weight, before["weight"] - 0.1)
    assert all(torch.equal(sent[name], value) for name, value in before.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
        optimizer.step()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_train_a_private_copy(seed: int) -> None:
    """Shared after the optimizer was made: the child says so, at its first step or at an optimizer of its own."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = fs.DSGD(model.parameters(), lr=0.1)
    model.share_memory()
    child = os.fork()
    if not child:
        said = []
        for attempt in (optimizer.step, lambda: fs.DSGD(model.parameters(), lr=0.1)):
            try:
                attempt()
            except ValueError as error:
                said.append("must not lie in shared memory" in str(error))
        os._exit(0 if said == [True, True] else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def ordinary() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize(
    "made",
    [
        lambda p: fs.QGM(p, topology="ring"),
        lambda p: fs.QGM(p, topology=fs.topology.ring(16)),
        lambda p: fs.RelaySGD(p, topology="chain"),
        lambda p: fs.LocalSGD(p, agents=4),
        lambda p: fs.EASGD(p, agents=4),
        lambda p: fs.Optimizer(p, communicator=fs.comm.Average()),
    ],
)
def test_an_ordinary_model_is_told_of_stacks(made: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"stacked as .*fs\.AgentStack\(model, ") as told:
        made(ordinary().parameters())
    # its layers' widths are no agents
    assert "32 agents" not in str(told.value) and "topology" not in str(told.value)


def test_a_stack_of_other_agents_than_the_graph_is_told_so() -> None:
    stack = fs.AgentStack(ordinary(), 4)
    with pytest.raises(
        ValueError, match=r"ring has 16 agents, but 4 are needed .*AgentStack\(model, 16\)"
    ):
        fs.QGM(stack.parameters(), topology=fs.topology.ring(16))


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (nx.cycle_graph(4), r"a networkx Graph: fs\.topology\.from_networkx"),
        (nx.DiGraph([(0, 1)]), r"a networkx DiGraph: fs\.topology\.from_networkx"),
        (torch.eye(4), r"a matrix \(Tensor\): fs\.topology\.from_matrix"),
        (torch.eye(4).numpy(), r"a matrix \(ndarray\): fs\.topology\.from_matrix"),
        ([[1.0]], r"a matrix \(list\): fs\.topology\.from_matrix"),
        (fs.topology.ring, r"the callable ring: call it"),
        (4, "4$"),
    ],
)
def test_what_is_like_a_topology_names_what_makes_one(given: Any, remedy: str) -> None:
    for parameters in (ordinary().parameters(), fs.AgentStack(ordinary(), 4).parameters()):
        with pytest.raises(
            ValueError, match=f"topology must be a Schedule, a Topology or a string, got {remedy}"
        ):
            fs.QGM(parameters, topology=given)
