"""The model of kernels on GPUs that are not here: its parts by hand-made listings, and two kernels by the command."""

import dataclasses
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NO_TRITON = importlib.util.find_spec("triton") is None
pytestmark = pytest.mark.skipif(NO_TRITON, reason="Triton is not installed")

# a loop over blocks of 128 rows with one over neighbors inside, and a branch that the last program takes
TTIR = """
#loc = loc("kernel.py":1:0)
#loc1 = loc("kernel.py":10:5)
#loc2 = loc("kernel.py":12:5)
#loc3 = loc("kernel.py":20:5)
#loc4 = loc("value"(#loc2))
module {
  tt.func public @kernel(%x_ptr: !tt.ptr<f32>, %rows: i32, %width: i32, %table_ptr: !tt.ptr<i32>) {
    %c0_i32 = arith.constant 0 : i32 loc(#loc)
    %c1_i32 = arith.constant 1 : i32 loc(#loc)
    %c128_i32 = arith.constant 128 : i32 loc(#loc)
    %p = tt.addptr %table_ptr, %c1_i32 : !tt.ptr<i32>, i32 loc(#loc)
    %end = tt.load %p : !tt.ptr<i32> loc(#loc)
    scf.for %begin = %c0_i32 to %rows step %c128_i32  : i32 {
      %a = tt.splat %x_ptr : !tt.ptr<f32> -> tensor<128x16x!tt.ptr<f32>> loc(#loc1)
      %v = tt.load %a : tensor<128x16x!tt.ptr<f32>> loc(#loc1)
      %m = scf.for %k = %c0_i32 to %width step %c1_i32 iter_args(%q = %a) -> (tensor<128x16x!tt.ptr<f32>>)  : i32 {
        %w = tt.load %q : tensor<128x16x!tt.ptr<f32>> loc(#loc4)
        scf.yield %q : tensor<128x16x!tt.ptr<f32>> loc(#loc)
      } loc(#loc)
    } loc(#loc)
    scf.for %j = %c0_i32 to %end step %c1_i32  : i32 {
      tt.store %x_ptr, %v : !tt.ptr<f32> loc(#loc3)
    } loc(#loc)
    %ticket = tt.atomic_rmw add, acq_rel, gpu, %table_ptr, %c1_i32 : (!tt.ptr<i32>, i32) -> i32 loc(#loc)
    %last = arith.cmpi eq, %ticket, %c1_i32 : i32 loc(#loc)
    scf.if %last {
      tt.store %x_ptr, %v : !tt.ptr<f32> loc(#loc3)
    } loc(#loc)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
# the same by hand: 64 threads, the inner loop unrolled twice
SASS = """
.text.kernel:
	//## File "kernel.py", line 9
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
	//## File "kernel.py", line 10
        /*0010*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   LDG.E.128 R8, desc[UR4][R2.64+0x10] ;
        /*0030*/                   FADD R5, R5, R9 ;
.L_x_1:
	//## File "kernel.py", line 13
        /*0040*/                   LDG.E.128 R12, desc[UR4][R2.64] ;
        /*0050*/                   LDG.E.128 R16, desc[UR4][R2.64] ;
        /*0060*/                   LDG.E.128 R20, desc[UR4][R2.64] ;
        /*0070*/                   LDG.E.128 R24, desc[UR4][R2.64] ;
	//## File "kernel.py", line 14
        /*0080*/                   FADD R4, R4, R24 ;
        /*0090*/               @P0 BRA `(.L_x_1) ;
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00b0*/               @P1 BRA `(.L_x_0) ;
        /*00c0*/                   EXIT ;
.L_x_2:
        /*00d0*/                   BRA `(.L_x_2) ;
$__internal_0_$__cuda_division:
        /*00e0*/                   MUFU.RCP R0, R1 ;
"""


@pytest.fixture(autouse=True)
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


def part(name: str) -> Any:
    return importlib.import_module(f"benchmarks.modeling.{name}")


def read(rows: int = 512, width: int = 3) -> Any:
    arguments = {"x_ptr": None, "rows": rows, "width": width, "table_ptr": None}
    return part("triton_ir").read(TTIR, arguments, 1, {"table_ptr": (0, 7)})


def test_loops_and_accesses_of_a_listing() -> None:
    source = read()
    assert [loop.trips for loop in source.loops] == [4, 3, 7]
    assert source.loops[1].outer is source.loops[0] and source.loops[1].times() == 12
    rows = [a for a in source.accesses if a.buffer == "x_ptr"]
    assert [(a.line, a.elements, a.stores, a.rare) for a in rows] == [
        (10, 2048, False, False),
        (12, 2048, False, False),
        (20, 1, True, False),
        (20, 1, True, True),
    ]
    assert [a.moved() for a in rows] == [4 * 8192, 12 * 8192, 7 * 4, 0]
    assert [loop.trips for loop in read(rows=513, width=0).loops] == [5, 0, 7]


def test_a_warp_is_followed() -> None:
    source = read()
    first = {access: access.line == 10 for access in source.accesses}
    warp = part("sass").walk(SASS, source, 1024, first)
    # 2048 numbers by 1024 threads are half an instruction of 128 bits, so that each loop looks unrolled: 4 and 8 times
    assert warp.barriers == 1 and warp.rounds == {"memory": 1, "cache": 3 / 8}
    warp = part("sass").walk(SASS, source, 256, first)
    assert warp.barriers == 4 and warp.rounds == {"memory": 4, "cache": 4 * 1.5}
    assert warp.units["float32"] == 4 + 6 and warp.units["load/store"] == 4 * 2 + 6 * 4
    assert warp.widths == {128: 16 * (8 + 24)} and "special" not in warp.units


# slices of which each takes two loops, the second with one inside; both walk over lines 10 of a function that they call
NESTED_TTIR = """
#loc = loc("kernel.py":1:0)
#loc1 = loc("kernel.py":10:5)
#loc2 = loc("kernel.py":40:5)
module {
  tt.func public @kernel(%x_ptr: !tt.ptr<f32>, %slices: i32, %rows: i32, %width: i32) {
    %c0_i32 = arith.constant 0 : i32 loc(#loc)
    %c1_i32 = arith.constant 1 : i32 loc(#loc)
    %a = tt.splat %x_ptr : !tt.ptr<f32> -> tensor<256x!tt.ptr<f32>> loc(#loc)
    scf.for %s = %c0_i32 to %slices step %c1_i32  : i32 {
      scf.for %i = %c0_i32 to %rows step %c1_i32  : i32 {
        %v = tt.load %a evictionPolicy = evict_first : tensor<256x!tt.ptr<f32>> loc(#loc1)
      } loc(#loc)
      scf.for %j = %c0_i32 to %rows step %c1_i32  : i32 {
        %w = tt.load %a : tensor<256x!tt.ptr<f32>> loc(#loc1)
        scf.for %k = %c0_i32 to %width step %c1_i32  : i32 {
          %u = tt.load %a : tensor<256x!tt.ptr<f32>> loc(#loc2)
        } loc(#loc)
      } loc(#loc)
    } loc(#loc)
    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
NESTED_SASS = """
.L_x_0:
	//## File "kernel.py", line 5
        /*0000*/                   IADD R0, R0, R1 ;
.L_x_1:
	//## File "kernel.py", line 10
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_1) ;
.L_x_2:
        /*0030*/                   LDG.E.128 R8, desc[UR4][R2.64] ;
.L_x_3:
	//## File "kernel.py", line 40
        /*0040*/                   LDG.E.128 R12, desc[UR4][R2.64] ;
        /*0050*/               @P0 BRA `(.L_x_3) ;
        /*0060*/               @P0 BRA `(.L_x_2) ;
        /*0070*/               @P0 BRA `(.L_x_0) ;
"""


def test_loops_in_one_another_turn_as_often_as_those_of_the_source() -> None:
    sass = part("sass")
    arguments = {"x_ptr": None, "slices": 5, "rows": 2, "width": 3}
    source = part("triton_ir").read(NESTED_TTIR, arguments, 1)
    assert [access.leaves for access in source.accesses] == [True, False, False]
    code = list(sass.steps(NESTED_SASS))
    origins = [sass.accesses_of(step, source, 64) for step in code]
    assert sass.repetitions(code, origins, source, 64) == [5, 10, 10, 10, 30, 30, 10, 5]


def test_l2_holds_a_buffer_once_and_not_what_leaves_first() -> None:
    estimate, launches, machines = part("estimate"), part("launches"), part("machines")
    h100 = next(m for m in machines.MACHINES if m.name == "H100")

    def memory(**changed: bool) -> float:
        size, fits = 40 * 2.0**20, 4 * 2.0**20
        read = launches.Buffer(size=size, first=size, again=size, name=1, leaves=False)
        written = launches.Buffer(size=size, first=size, name=1, leaves=False)
        other = launches.Buffer(size=size, first=size, name=2, **{"leaves": False, **changed})
        scratch = launches.Buffer(size=fits, first=fits, again=size, name=3, stays=True)
        scratch.leaves = False
        buffers = [read, written, other, scratch]
        warp = part("sass").Warp()
        launch = launches.Launch("k", "sm_90", 132, 128, 32, 0, 1, 1, warp, buffers)
        return (estimate.traffic(launch, h100)[0] - 3 * size - fits) / size

    # 40 MiB, 40 and 4 are more than 50: what is read again comes from memory, but for scratch that fits
    assert memory() == 1
    assert memory(leaves=True) == 0


def test_throughput_of_few_and_of_many() -> None:
    throughput = part("estimate").throughput
    assert throughput([3.0, 2.0], 5.0, 1) == pytest.approx(0.1)
    # the second finds half a customer there, on average
    assert throughput([1.0], 1.0, 2) == pytest.approx(2 / (1 + 1.5))
    assert throughput([3.0, 2.0], 50.0, 2000) == pytest.approx(1 / 3, rel=1e-6)


def test_one_program_alone_is_slower_than_several() -> None:
    estimate, launches, machines = part("estimate"), part("launches"), part("machines")
    units = part("sass").Warp().units
    units.update({"float32": 400, "load/store": 20})
    warp = dataclasses.replace(part("sass").Warp(), units=units, barriers=3)
    warp.rounds["memory"] = 2
    buffer = launches.Buffer(size=5 * 2.0**28, first=5 * 2.0**28)
    launch = launches.Launch("k", "sm_90", 16384, 512, 101, 0, 1, 1, warp, [buffer])
    h100 = next(m for m in machines.MACHINES if m.name == "H100")
    percents = [
        estimate.percent_of_copy(
            dataclasses.replace(launch, resident=resident), h100, estimate.Factors()
        )
        for resident in (1, 2, 3, 8)
    ]
    assert percents == sorted(percents) and percents[0] < 60 < 90 < percents[-1] < 100.001
    slow = estimate.percent_of_copy(launch, h100, estimate.Factors(waiting=2.0))
    assert slow < percents[0]


def test_programs_that_a_multiprocessor_holds() -> None:
    resident = part("machines").resident_programs
    assert resident("sm_90", 101, 512, 16384) == 1
    assert resident("sm_90", 34, 128, 0) == 12
    # 2,048 threads, shared memory
    assert resident("sm_80", 16, 1024, 0) == 2
    assert resident("sm_80", 32, 128, 80 * 1024) == 2


def figures(path: Path, **changed: Any) -> Path:
    """A file as on_gpu.sh writes it."""
    calibration = part("calibration")
    rows = [
        {"extra_info": {"op": op, "agents": agents, "implementation": "triton"}}
        for op, agents in calibration.ROWS
    ]
    for row, percent in zip(rows, (97.0, 96.0, 71.0, 70.0, 93.0), strict=True):
        info = row["extra_info"]
        info.update(percent_of_copy=percent, dim=calibration.ELEMENTS // info["agents"])
    machine = {"device": "NVIDIA H200", "torch": "2.11.0", "triton": "3.6.0"}
    content = {"machine_info": machine, "benchmarks": rows, **changed}
    path.write_text(json.dumps(content))
    return path


def test_figures_that_cannot_calibrate_are_refused(tmp_path: Path) -> None:
    read = part("calibration").read
    found = read(figures(tmp_path / "good.json"))
    assert found.device == "NVIDIA H200" and found.machine.name == "H200"
    assert len(found.percents) == 5
    path = tmp_path / "bad.json"
    for machine, match in (
        ({"device": "cpu", "torch": "", "triton": ""}, "must be of a GPU, got figures of a CPU"),
        ({"device": "NVIDIA H200"}, "must be figures that on_gpu.sh wrote"),
    ):
        with pytest.raises(ValueError, match=match):
            read(figures(path, machine_info=machine))
    with pytest.raises(ValueError, match="sam_perturb with 16 agents is missing"):
        read(figures(path, benchmarks=[]))
    machine = {"device": "NVIDIA GeForce", "torch": "", "triton": ""}
    with pytest.raises(ValueError, match="must be of one of A100, H100, H200, B200, got NVIDIA"):
        _ = read(figures(path, machine_info=machine)).machine


def model(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "model.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_and_calibrates(tmp_path: Path) -> None:
    kept = tmp_path / "rows.json"
    words = ("--op", "sam_perturb", "gossip_step", "--agents", "16", "--target", "sm_90")
    done = model(*words, "--json", str(kept))
    assert done.returncode == 0, done.stderr
    assert "no figure here was measured on a GPU" in done.stdout.splitlines()[0]
    rows = {row["op"]: row for row in json.loads(kept.read_text())}
    assert rows["sam_perturb"]["passes"] == pytest.approx(4, rel=1e-3)
    assert rows["gossip_step"]["passes"] == pytest.approx(5, rel=1e-3)
    for row in rows.values():
        assert row["resident"] >= 2 and row["bits"] == [128] and row["spilled"] == 0
        assert set(row["% of copy"]) == {"H100", "H200"}
        assert all(50 < percent < 100.001 for percent in row["% of copy"].values())
        assert f"| {row['kernel']} | {row['op']} | 16 | sm_90 | {row['registers']} |" in done.stdout
    measured = model(*words, "--calibration", str(figures(tmp_path / "calibration.json")))
    assert measured.returncode == 0, measured.stderr
    assert "calibrated on NVIDIA H200 (torch 2.11.0, Triton 3.6.0)" in measured.stdout
    assert len([line for line in measured.stdout.splitlines() if "* |" in line]) == 2


def test_the_commands_refusals(tmp_path: Path) -> None:
    for words, text in (
        (("--op", "gosip_step"), "--op must be of agent_norm, "),
        (("--agents", "0"), "--agents must be >= 1, got 0"),
        (("--calibration", str(tmp_path / "none.json")), "No such file"),
        (("--target", "sm_70"), "invalid choice: 'sm_70'"),
    ):
        done = model(*words)
        assert done.returncode and text in done.stderr and "Traceback" not in done.stderr
    assert model("--help").stdout.startswith("usage: model.py")
