"""The table of block shapes: what it refuses, what it answers, and that all shapes give the reference's bits."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastsaddle.kernels._shared.shapes import devices, table
from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
from fastsaddle.kernels.op import ops, use_backend
from tests.kernels.test_ops import DEVICE, INTERPRETING, called, fresh, guard, is_rows

MEASURED = "measured: NVIDIA H200, torch 2.11.0, triton 3.6.0, 2026-11-29"
# op -> the kernel that it launches, agents and columns: one block and several, of rows and of columns
CASES = {
    "gossip_step": ("gossip_step", ((65, 32), (130, 96), (257, 32))),
    "quantize": ("quantize", ((1, 32), (17, 96), (65, 32), (3, 2080))),
    "compress_ef": ("quantize", ((1, 96), (17, 96), (3, 2080))),
    "choco_step": ("choco_step", ((1, 544), (17, 96), (48, 32))),
    "mix_dense": ("mix_dense", ((1, 96), (17, 96), (65, 160), (130, 32))),
}
# of many examples, so many at each size: those of the ops' contract run all of them with the table's own choice
VARIANTS = 3


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def package() -> Any:
    return json.loads(table.PATH.read_text())


def test_the_package_s_file_is_right() -> None:
    read = table.read(table.PATH)
    assert set(read["default"]) == set(ALTERNATIVES)
    for line in table.origins():
        assert line.startswith(("model: ", "measured: "))


def change(content: Any, what: str) -> Any:
    """A table with one fault."""
    entries = content["default"]["gossip_step"]
    match what:
        case "kind":
            content["H200"] = {}
        case "kernel":
            content["default"]["gosip_step"] = entries
        case "missing":
            del content["default"]["quantize"]
        case "entries":
            content["default"]["quantize"] = []
        case "keys":
            entries[0]["warps"] = 4
        case "shape":
            entries[0]["shape"] = "96 rows"
        case "from":
            entries[0]["from"] = "measured"
        case "agents":
            entries[-1]["agents"] = 4096
        case "order":
            entries.insert(0, {**entries[0], "agents": 10_000})
        case "list":
            return []
    return content


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("list", "must be an object by kind of device"),
        ("kind", "a kind must be default, sm_NUMBER or gfxNUMBER, got 'H200'"),
        ("kernel", "a kernel must be one of gossip_step, "),
        ("missing", "default must name every kernel, quantize too"),
        ("entries", "quantize on default must be a list of entries"),
        ("keys", "entries of gossip_step on default must have agents, from, shape"),
        ("shape", "shape of gossip_step on default must be one of 64 rows, "),
        ("from", "from of gossip_step on default must be model or measured: DEVICE, "),
        ("agents", "agents of gossip_step on default must grow from entry to entry and end with"),
        ("order", "agents of gossip_step on default must grow from entry to entry and end with"),
    ],
)
def test_a_wrong_file_is_refused(what: str, rule: str, tmp_path: Path) -> None:
    path = written(tmp_path / "chosen.json", change(copy.deepcopy(package()), what))
    with pytest.raises(ValueError) as raised:
        table.read(path)
    assert str(path) in str(raised.value) and rule in str(raised.value)


@pytest.mark.parametrize("text", ["{", None])
def test_an_unreadable_file_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="must be a readable file of JSON") as raised:
        table.read(path)
    assert str(path) in str(raised.value)


def test_an_entry_is_found_by_device_and_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = package()
    content["sm_90"] = {
        "gossip_step": [
            {"agents": 100, "shape": "128 rows", "from": MEASURED},
            {"agents": None, "shape": "64 rows", "from": "model"},
        ]
    }
    read = table.read(written(tmp_path / "chosen.json", content))
    found = {
        agents: table.entry(read, "gossip_step", agents, "sm_90")["shape"]
        for agents in (65, 100, 101)
    }
    assert found == {65: "128 rows", 100: "128 rows", 101: "64 rows"}
    assert table.entry(read, "quantize", 16, "sm_90") == read["default"]["quantize"][0]
    assert table.entry(read, "gossip_step", 65, "gfx942") == read["default"]["gossip_step"][0]
    # as a launcher asks
    monkeypatch.setattr(table, "table", lambda: read)
    table._constants.cache_clear()
    try:
        asked = table.shape("gossip_step", 101, torch.device("cpu"))
        chosen = table.entry(read, "gossip_step", 101, "default")["shape"]
        assert asked == ALTERNATIVES["gossip_step"][chosen]
        monkeypatch.setattr(devices, "STAND_IN", [devices.Device("sm_90", 132, 50 * 2**20)])
        asked = table.shape("gossip_step", 101, torch.device("meta"))
        assert asked == ALTERNATIVES["gossip_step"]["64 rows"]
        assert table.origins()[-1] == f"{MEASURED}: gossip_step on sm_90"
    finally:
        table._constants.cache_clear()


def test_a_forced_shape_is_forced_for_as_long_as_it_is() -> None:
    cpu, before = torch.device("cpu"), table.shape("gossip_step", 65, torch.device("cpu"))
    for name, constants in ALTERNATIVES["gossip_step"].items():
        with table.forced("gossip_step", name):
            assert table.shape("gossip_step", 65, cpu) == constants
    assert table.shape("gossip_step", 65, cpu) == before


def test_about_as_many_programs_walk_as_l2_holds_the_slices_of() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    slices = importlib.import_module("fastsaddle.kernels.gossip_step.slices_triton")
    h100 = devices.Device("sm_90", 132, 50 * 2**20)

    def programs(agents: int, resident: int) -> int:
        # x, the momentum and h of 16 columns
        return slices.programs_at_once(h100, resident, agents * 16 * 12)

    assert programs(65, 6) == 6 * 132 and programs(65, 3) == 3 * 132
    assert programs(512, 6) == 4 * 132 and programs(1024, 6) == 2 * 132
    # each has at least one
    assert programs(100_000, 6) == 132
    # 1.97 on each
    a100 = devices.Device("sm_80", 108, 40 * 2**20)
    assert slices.programs_at_once(a100, 6, 1024 * 16 * 12) == 2 * 108


def test_reciprocals_divide_exactly(seed: int) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    reciprocals = importlib.import_module("fastsaddle.kernels._shared.rows.reciprocal_triton")
    most = 2**31 - 1
    drawn = torch.randint(1, most, (200,), generator=torch.Generator().manual_seed(seed)).tolist()
    for divisor in (1, 2, 3, 5, 7, 31, 32, 641, 65_535, 2**30, 2**30 + 1, most, *drawn):
        multiplier, shift = reciprocals.reciprocal(divisor)
        assert 2**31 <= multiplier < 2**32
        near = {k * divisor + d for k in (0, 1, 2, most // divisor) for d in (-1, 0, 1)}
        for number in {n for n in (*near, *drawn, most) if 0 <= n <= most}:
            assert 2 * number < 2**32
            assert 2 * number * multiplier >> 32 + shift == number // divisor


@pytest.mark.skipif(not (INTERPRETING or DEVICE == "cuda"), reason="needs a GPU or the interpreter")
@pytest.mark.parametrize(
    ("name", "alternative"),
    [(op, shape) for op, (kernel, _) in CASES.items() for shape in ALTERNATIVES[kernel]],
)
def test_triton_gives_the_same_bits_with_every_shape(
    name: str, alternative: str, seed: int
) -> None:
    op, (kernel, sizes) = ops()[name], CASES[name]
    if "triton" in op.unavailable(DEVICE):
        pytest.skip(op.unavailable(DEVICE)["triton"])
    for agents, columns in sizes:
        generator = torch.Generator().manual_seed(seed + agents + columns)
        examples = op.examples(agents, columns, generator)
        step = max(1, len(examples) // VARIANTS)
        for variant in [*examples][seed % step :: step]:
            expected = fresh(examples[variant], "cpu", op.overwrites)
            with use_backend("reference"):
                expected = called(op, expected)
            got = fresh(examples[variant], DEVICE, op.overwrites)
            with use_backend("triton"), table.forced(kernel, alternative):
                got = called(op, got)
            for part, value in got.items():
                if isinstance(value, torch.Tensor):
                    told = (variant, agents, columns, part)
                    assert op.agrees(part, examples[variant], value, expected[part]), told
                    assert not is_rows(part, value) or guard(value).isnan().all(), told
