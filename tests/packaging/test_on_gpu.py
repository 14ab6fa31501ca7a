"""What benchmarks/on_gpu.sh runs, tried on the CPU: the script, its parts, and the baselines that it times."""

import importlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import fastsaddle as fs
from benchmarks.reporting.gpu_page import gpu_page
from benchmarks.reporting.shapes import chosen
from fastsaddle.kernels._shared.shapes.alternatives import ALTERNATIVES
from fastsaddle.kernels._shared.shapes.table import entry, read, table

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"


def on_gpu(*words: str) -> subprocess.CompletedProcess[str]:
    """The script with this Python, where no GPU is to be seen."""
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    # benchmarks that a test starts are not those of its worker, which times nothing
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def part(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def test_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    usage = on_gpu()
    assert usage.returncode == 2 and "usage: bash benchmarks/on_gpu.sh [--tiny] DIR" in usage.stderr
    unknown = on_gpu(str(folder), "ops", "op")
    assert unknown.returncode == 2 and not folder.exists()
    assert "a part must be one of tests sanitizer" in unknown.stderr and "got op" in unknown.stderr
    none = on_gpu(str(folder), "ops")
    assert none.returncode == 1 and list(folder.iterdir()) == []
    assert "no GPU: torch" in none.stderr and "nothing was measured" in none.stderr


def test_parts_are_kept_and_merged(tmp_path: Path) -> None:
    first = on_gpu("--tiny", str(tmp_path), "shapes")
    assert first.returncode == 0, first.stdout + first.stderr
    log = (tmp_path / "shapes.log").read_text()
    # a line for each case, then the copy's bandwidth and a table
    case = r" *\d+/\d+  \d+:\d\d  shape\[.*\]: [\d.e+]+ ms, (\d\d+|\d\.\d) % of copy\n"
    assert len(re.findall(f"^{case}", log, re.M)) == 4
    alternative = case.replace("shape", "alternative")
    # the first and the last of each kernel's
    assert len(re.findall(f"^{alternative}", log, re.M)) == 2 * len(table()["default"])
    # nothing was measured: the table stays what it is
    assert json.loads((tmp_path / "chosen.json").read_text()) == table()
    assert re.search(
        r"^copy_ [\d.]+ GB/s \(read \+ write, median of the run\); .*\nwhat ", log, re.M
    )
    row = (
        r"^sam_perturb, 512 columns, 4 warps +triton +2 x 1,100 +[\d.e+-]+ +[\d.]+ +(\d\d+|\d\.\d)$"
    )
    assert len(re.findall(row, log, re.M)) == 1
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# On a GPU: 0 met, 0 missed, 12 not measured") and page in first.stdout
    assert "This was a trial on a CPU" in page and "* shapes passed" in page
    # a later call with the same folder adds its part
    second = on_gpu("--tiny", str(tmp_path), "training")
    assert second.returncode == 0, second.stdout + second.stderr
    assert (
        "| sam_perturb, 2 x 1,100 |" in second.stdout
        and "| mlp:3 | qsaddle | 16 |" in second.stdout
    )
    rows = json.loads((tmp_path / "gpu.json").read_text())["benchmarks"]
    kept = [row["extra_info"] for row in rows]
    shapes = {(info["columns"], info["warps"]) for info in kept if "shape_of" in info}
    assert shapes == {(512, 4), (4096, 8)}
    (speed,) = [info["steps_per_second"] for info in kept if "training" in info]
    assert speed > 0
    assert "* shapes passed\n* training passed\n" in (tmp_path / "page.md").read_text()


def test_a_gpu_s_figures_choose_the_fastest_shapes(tmp_path: Path) -> None:
    info = {"device": "NVIDIA H200", "torch": "2.11.0", "triton": "3.6.0", "kind": "sm_90"}
    rows = [
        {"choice": kernel, "to_agents": one["agents"], "alternative": name, "percent_of_copy": n}
        for kernel in ("gossip_step", "mix_dense")
        for one in table()["default"][kernel]
        for n, name in enumerate(ALTERNATIVES[kernel])
    ]
    # one alternative of the last entry was not measured
    rows = [{"extra_info": row} for row in rows[:-1]]
    report = {"machine_info": info, "datetime": "2026-11-29T10:00:00", "benchmarks": rows}
    content = chosen(report, table(), ALTERNATIVES)
    path = tmp_path / "chosen.json"
    path.write_text(json.dumps(content))
    written = read(path)
    assert written["default"] == table()["default"] and set(written["sm_90"]) == {
        "gossip_step",
        "mix_dense",
    }
    origin = "measured: NVIDIA H200, torch 2.11.0, triton 3.6.0, 2026-11-29"
    last = [*ALTERNATIVES["gossip_step"]][-1]
    for agents in (65, 1000):
        found = entry(written, "gossip_step", agents, "sm_90")
        assert (found["shape"], found["from"]) == (last, origin)
    assert entry(written, "mix_dense", 16, "sm_90")["from"] == origin
    assert entry(written, "mix_dense", 1000, "sm_90") == table()["default"]["mix_dense"][-1]
    on_a_cpu = {**report, "machine_info": {**info, "device": "cpu"}}
    assert chosen(on_a_cpu, table(), ALTERNATIVES) == table()


def test_a_script_that_is_ended_writes_its_page(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(SCRIPT), "--tiny", str(tmp_path), "training", "ops"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as script:
        assert script.stdout is not None
        lines = iter(script.stdout.readline, "")
        assert any(line == "== ops\n" for line in lines)
        script.terminate()
        rest = script.stdout.read()
    assert script.returncode == 143 and "ended by a signal" in rest
    page = (tmp_path / "page.md").read_text()
    assert "* ops did not end\n* training passed\n" in page and "| mlp:3 | qsaddle |" in page


def test_a_file_that_was_cut_off_keeps_no_others_out(tmp_path: Path) -> None:
    (tmp_path / "ops.json").write_text('{"machine_info": {')
    (tmp_path / "ops.status").write_text("ops ran out of its 220 s\n")
    run = on_gpu("--tiny", str(tmp_path), "collect", "launches")
    assert run.returncode == 1, run.stdout + run.stderr
    assert json.loads((tmp_path / "gpu.json").read_text())["benchmarks"]
    assert (tmp_path / "ops.broken").exists() and not (tmp_path / "ops.json").exists()
    page = (tmp_path / "page.md").read_text()
    assert "| collect_gradients and norms |" in page and "* collect passed\n" in page
    assert "* ops ran out of its 220 s, figures cannot be read\n" in page
    # on a CPU it is left to a GPU altogether
    assert "* launches passed, no figures\n" in page


def test_a_page_says_what_is_met(tmp_path: Path) -> None:
    nothing = gpu_page(tmp_path)
    assert nothing.startswith("# On a GPU: 0 met, 0 missed, 12 not measured")
    assert "Nothing was measured." in nothing and "No part ran." in nothing

    def op(name: str, agents: int, percent: float) -> dict[str, Any]:
        speeds = {"percent_of_copy": percent, "gb_per_s": 4e3, "copy_gb_per_s": 4.3e3}
        shape = {"agents": agents, "dim": 2**26 // agents, "bytes": 2**28, "passes": 5}
        return {"op": name, "implementation": "triton", **shape, **speeds}

    def trained(agents: int, graph: str, steps_per_second: float) -> dict[str, Any]:
        found = {"training": "resnet20", "algorithm": "qsaddle", "agents": agents, "graph": graph}
        return {**found, "steps_per_second": steps_per_second, "peak_bytes": agents * 10**7}

    infos = [
        *(op("gossip_step", agents, percent) for agents, percent in ((16, 91), (1024, 69))),
        *(trained(agents, "off", 320 / agents) for agents in (16, 1024)),
    ]
    info = {"device": "NVIDIA H200", "threads": 8, "torch": "2.11.0", "triton": "3.6.0"}
    machine = {**info, "python_version": "3.12.3", "system": "Linux", "machine": "x86_64"}
    stats = dict.fromkeys(("min", "median", "max", "rounds"), 1)
    rows = [{"name": f"test_op[{n}]", "extra_info": i, "stats": stats} for n, i in enumerate(infos)]
    report = {"machine_info": {**machine, "cuda": "13.0", "cpu": {}}, "benchmarks": rows}
    (tmp_path / "gpu.json").write_text(json.dumps({"datetime": "2026-11-29", **report}))
    (tmp_path / "tests.status").write_text("tests ran out of its 210 s\n")
    page = gpu_page(tmp_path)
    assert page.startswith("# On a GPU: 3 met, 2 missed, 7 not measured\n\nNVIDIA H200, ")
    assert "torch 2.11.0, 2026-11-29" in page and "triton 3.6.0, cuda 13.0, python 3.12.3." in page
    assert "1 to 128 agents | at least 85 | 91 | met |" in page
    assert "1,024 agents | at least 70 | 69 | missed |" in page
    assert "| runs that trained in a CUDA graph | at least 1 | 0 | missed |" in page
    assert "* tests ran out of its 210 s" in page


def test_a_run_out_of_time_keeps_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("conftest.py", "progress.py"):
        shutil.copy(ROOT / "benchmarks" / name, folder / name)
    (folder / "test_interrupted.py").write_text(
        "import os, signal, time\n"
        "def test_first(benchmark):\n    benchmark.pedantic(int, rounds=3)\n"
        "def test_second(benchmark):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(30)\n"
        "def test_third(benchmark):\n    benchmark.pedantic(int, rounds=3)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--benchmark-only",
        "--benchmark-json=out.json",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout
    rows = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert [row["name"] for row in rows] == ["test_first"]


def test_grid_of_a_gpu() -> None:
    ops = part("kernels.test_ops")
    for name in ("agent_norm", "sam_perturb", "gossip_step"):
        found = ops.sizes(name, "cuda")
        assert len(set(found)) == len(found) == 17
        assert {agents for agents, _ in found} == {1, 16, 64, 128, 256, 1024, 4096}
        sizes = {4 * agents * dim for agents, dim in found}
        assert sizes == {2**20, 2**24, 2**26, 2**28, 2**30, 2**33}
    assert {4 * a * d for a, d in ops.sizes("consensus", "cuda")} == {2**28}
    assert ops.sizes("consensus", "cpu") == ((16, 1_000_000), (256, 62_500))


def test_rows_that_nobody_waits_for() -> None:
    tax, seen = part("steps.test_stacking_tax"), []

    def cases(**given: Any) -> list[tuple[str, str]]:
        options = {"--device": "cpu", "--tiny": False, "--all-rows": False, **given}
        config = SimpleNamespace(getoption=options.__getitem__)
        metafunc = SimpleNamespace(config=config, parametrize=lambda *words: seen.append(words[1]))
        tax.pytest_generate_tests(metafunc)
        return seen[-1]

    quick = cases()
    assert set(quick) < set(tax.CASES) and ("resnet20", "auto") in quick
    left_out = set(tax.CASES) - set(quick)
    assert {network for network, _ in left_out} == {"resnet20"}
    for given in ({"--all-rows": True}, {"--tiny": True}, {"--device": "cuda"}):
        assert cases(**given) == tax.CASES


def test_launches_are_counted_from_a_profile(seed: int) -> None:
    launches = part("kernels.test_launches")

    def event(kind: str, name: str, is_user_annotation: bool = False) -> SimpleNamespace:
        device = SimpleNamespace(name=kind)
        return SimpleNamespace(device_type=device, name=name, is_user_annotation=is_user_annotation)

    events = [
        event("CPU", "aten::add"),
        event("CPU", "cudaLaunchKernel"),
        event("CUDA", "gossip_step_kernel"),
        event("CUDA", "void at::native::vectorized_elementwise_kernel<4>"),
        event("CUDA", "Memcpy DtoD (Device -> Device)"),
        event("CUDA", "Memset (Device)"),
        event("CUDA", "agent_norm_kernel"),
        event("CUDA", "Optimizer.step", is_user_annotation=True),
    ]
    random.Random(seed).shuffle(events)
    assert launches.counted(events) == (3, 2)
    # events of a real profile have these fields too
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.ones(3).add_(1)
    assert len(list(profile.events() or ())) > 0
    assert launches.counted(profile.events() or ()) == (0, 0)


def test_speed_leaves_the_warm_up_out() -> None:
    rows = [
        {"step": step, "step_seconds": seconds}
        for step, seconds in ((0, 0.0), (30, 99.5), (60, 107.0))
    ]
    assert part("steps.test_training").speed(rows) == 4.0


@pytest.mark.parametrize("implementation", ["eager, shifted rows", "eager, dense W"])
def test_plain_qsaddle_is_ours(implementation: str, seed: int) -> None:
    memory, baselines = part("steps.test_step_memory"), part("baselines")
    source = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(7, 37, generator=source) for _ in range(2))
    p = nn.Parameter(x.clone())
    rates = {"lr": baselines.LR, "weight_decay": baselines.WEIGHT_DECAY}
    optimizer = fs.QSADDLe([p], topology="ring", rho=0.05, momentum=baselines.BETA, **rates)
    assert p.grad is not None
    p.grad.copy_(g)
    step = memory.plain(implementation, x, g)
    for _ in range(3):
        step()
        optimizer.perturb()
        optimizer.step()
    assert torch.allclose(x, p.detach(), rtol=0, atol=1e-5)


def test_sgd_for_each_agent_is_ours(seed: int) -> None:
    memory, baselines = part("steps.test_step_memory"), part("baselines")
    source = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(7, 37, generator=source) for _ in range(2))
    p = nn.Parameter(x.clone())
    rates = {"lr": baselines.LR, "weight_decay": baselines.WEIGHT_DECAY}
    optimizer = fs.DSGDm([p], topology="ring", momentum=baselines.BETA, **rates)
    assert p.grad is not None
    p.grad.copy_(g)
    step = memory.plain("torch.optim.SGD, dense W", x, g)
    for _ in range(3):
        step()
        optimizer.step()
    assert torch.allclose(x, p.detach(), rtol=0, atol=1e-5)


def test_memory_of_every_implementation() -> None:
    """All cases but the compiled one, which takes long to start, in this process."""
    memory = part("steps.test_step_memory")
    calls: list[str] = []
    for method, implementation in memory.CASES:
        if implementation != "torch.compile":
            benchmark = SimpleNamespace(
                pedantic=lambda step, rounds: [step() for _ in range(rounds)],
                stats=SimpleNamespace(stats=SimpleNamespace(median=0.5)),
                extra_info={},
            )
            memory.test_step_memory(method, implementation, benchmark, "cpu", True)
            calls.append(f"{method}, {implementation}: {benchmark.extra_info['step_milliseconds']}")
            assert benchmark.extra_info["row_bytes"] == 20 * benchmark.extra_info["dim"]
            assert benchmark.extra_info["peak_bytes"] is None
    assert len(calls) == 5 and calls[0] == "QSADDLe, fastsaddle: 500.0"
