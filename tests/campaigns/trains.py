"""`train` under torchrun, disturbed at random moments: what goes on from it ends with the files of one calm process.

A rank is killed, stopped for a while or for longer than the others wait, or the launcher gets SIGINT or SIGTERM. The
run goes on by the command that was printed, on another number of ranks.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastsaddle.sim.run import checkpoint, spread_checkpoint
from fastsaddle.sim.run.directory_lock import LOCK
from tests.campaigns import forked, kills
from tests.campaigns.campaign import Campaign, Counts, Draw

MOST_RANKS = 4
# disturbances of one run, which is then left alone
MOST = 2
DONE = {
    "kill": "rank killed",
    "pause": "rank stopped for a while",
    "stop": "rank stopped for too long",
    "interrupt": "launcher interrupted",
    "terminate": "launcher terminated",
}
HOWS = ("kill", "kill", "kill", "pause", "stop", "interrupt", "terminate")
SIGNALS = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
# seconds: of a start and a run together, that others wait for a stopped rank, and that it is stopped for
LENGTH, TIMEOUT, TOO_LONG, PAUSE = 12.0, 8.0, 14.0, 1.0
# torchrun kills its processes 30 seconds after it has told them to stop
PATIENCE = 150.0
METHODS: tuple[tuple[str, ...], ...] = (
    ("--algorithm", "qsaddle"),
    ("--algorithm", "qsaddle", "--compressor", "stochastic-quantizer:8"),
    ("--algorithm", "qgm", "--compressor", "stochastic-quantizer:8", "--topology", "exponential"),
    ("--algorithm", "dppf"),
    ("--algorithm", "gradient-tracking"),
    ("--algorithm", "nsaddle"),
    ("--algorithm", "nsaddle", "--compressor", "top-k:0.3", "--consensus-step", "0.3"),
    ("--algorithm", "relay-sgd", "--topology", "chain"),
    ("--algorithm", "local-sgd"),
    ("--algorithm", "qg-adam"),
)
NAMED = re.compile(r"^PeerError: step \d+: nothing from .*?\(rank (\d+)", re.MULTILINE)
AGAIN = re.compile(r"torchrun --nproc-per-node \d+ -m fastsaddle train --resume (\S+)")
STOPPED = re.compile(r"stopped at step (\d+); go on with:")


@dataclass(frozen=True)
class Launch:
    """How one call of torchrun ended.

    Attributes:
        status: its exit status.
        said: what each rank wrote, to both of its streams.
        victim: the rank that was disturbed, -1 where none was.
        is_sent: whether the disturbance came before the end.
        hung: whether it was killed because its time was over.
    """

    status: int
    said: tuple[str, ...]
    victim: int
    is_sent: bool
    hung: bool


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    options = small_run(draw)
    counts = Counts()
    whole, run = place / "whole", place / "run"
    calm = forked.call(forked.command("train", *options, "--out", str(whole)), place, PATIENCE)
    if calm.status != 0:
        counts.losses.append(f"{options} alone: {calm.last}")
        return counts
    done: list[str] = []
    for number in range(MOST):
        ranks, how = draw.randint(2, MOST_RANKS), draw.choice(HOWS)
        begun = (run / "config.json").exists()
        arguments = ["--resume", str(run)] if begun else [*options, "--out", str(run)]
        arguments += ["--timeout", f"{TIMEOUT if how == 'stop' else 60.0}"]
        ended = launch(draw, place / f"logs{number}", ranks, arguments, run, how)
        counts.tried += 1
        told = " and named" if any(map(NAMED.search, ended.said)) else ""
        counts.ended[f"{DONE[how]}{told}" if ended.is_sent else "too late"] += 1
        done.append(f"{DONE[how]} of {ranks}" if ended.is_sent else f"{ranks} ranks")
        judge(ended, how, run, counts, f"{options}, {done}")
        if counts.findings:
            return counts
    begun = (run / "config.json").exists()
    arguments = ["--resume", str(run)] if begun else [*options, "--out", str(run)]
    last = launch(draw, place / "logs", draw.randint(1, MOST_RANKS), arguments, run, "")
    judge(last, "", run, counts, f"{options}, {done}, and calm")
    if not counts.findings:
        counts.losses += [f"{options}, {done}: {text}" for text in unlike(run, whole)]
    return counts


def small_run(draw: Draw) -> list[str]:
    """Options of a run of a few seconds."""
    steps = draw.randint(150, 500)
    options = {
        "agents": draw.randint(6, 8),
        "model": f"mlp:{draw.choice([8, 50])}",
        "batch-size": 8,
        "steps": steps,
        "lr": 0.05,
        "seed": draw.randrange(1000),
        "eval-every": draw.randint(20, 100),
        "checkpoint-every": draw.randint(3, 40),
        "threads": 1,
    }
    pairs = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*draw.choice(METHODS), *pairs]


def launch(draw: Draw, logs: Path, ranks: int, arguments: list[str], run: Path, how: str) -> Launch:
    """One call of torchrun, disturbed at a drawn moment; no process of it is left at the end."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program += [f"--nproc-per-node={ranks}", "--redirects=3", f"--log-dir={logs}"]
    program += ["-m", "fastsaddle", "train", *arguments]
    victim = draw.randrange(ranks) if how in ("kill", "pause", "stop") else -1
    is_due = kills.moment(draw, run, LENGTH)
    logs.mkdir()
    with (logs / "launcher").open("w") as text:
        process = subprocess.Popen(program, cwd=kills.ROOT, stdout=text, stderr=text)
    deadline = time.monotonic() + PATIENCE
    pids: dict[int, int] = {}
    is_sent = False
    wakes = float("inf")
    while process.poll() is None and time.monotonic() < deadline:
        if len(pids) < ranks:
            pids |= workers(process.pid)
        if how and not is_sent and is_due():
            is_sent = disturb(process, pids.get(victim), how)
            if is_sent and how in ("pause", "stop"):
                wakes = time.monotonic() + (PAUSE if how == "pause" else TOO_LONG)
        if time.monotonic() > wakes:
            wakes = float("inf")
            send(pids[victim], signal.SIGCONT)
        time.sleep(0.005)
    hung = process.poll() is None
    if hung:
        process.kill()
    status = process.wait()
    # a launcher that is told to end while it starts them may leave some, which miss the others soon
    patient = time.monotonic() + 3 * TIMEOUT
    while time.monotonic() < patient and any(map(runs, pids.values())):
        time.sleep(0.1)
    for pid in pids.values():
        hung = hung or runs(pid)
        send(pid, signal.SIGKILL)
    folders = sorted(logs.glob("*/attempt_0/[0-9]"), key=lambda folder: int(folder.name))
    said = tuple(
        "".join((folder / f"{name}.log").read_text("utf-8", "replace") for name in STREAMS)
        for folder in folders
    )
    return Launch(status, said, victim, is_sent, hung)


STREAMS = ("stdout", "stderr")


def workers(launcher: int) -> dict[int, int]:
    """The processes that torchrun has started, by their ranks."""
    found = {}
    for path in Path(f"/proc/{launcher}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            try:
                settings = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found |= {int(s[5:]): int(child) for s in settings if s.startswith(b"RANK=")}
    return found


def disturb(process: subprocess.Popen[bytes], pid: int | None, how: str) -> bool:
    """Do it; whether there was somebody to do it to."""
    if how in SIGNALS:
        process.send_signal(SIGNALS[how])
        return True
    return pid is not None and send(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)


def runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has asked about since has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def judge(ended: Launch, how: str, run: Path, counts: Counts, what: str) -> None:
    """Count what may not be in how a launch ended."""
    everything = "\n".join(ended.said)
    if ended.hung:
        counts.hangs.append(f"{what}: {last_of(everything)}")
        return
    if "Traceback (most recent call last)" in everything:
        counts.tracebacks.append(f"{what}: {last_of(everything)}")
    # a rank that was stopped for too long finds the others gone
    elsewhere = [text for rank, text in enumerate(ended.said) if rank != ended.victim]
    named = {int(rank) for text in elsewhere for rank in NAMED.findall(text)}
    fails = how in ("kill", "stop") and ended.is_sent
    if named - ({ended.victim} if fails else set()):
        counts.losses.append(f"{what}: rank {ended.victim}, but {sorted(named)} named")
    if not fails and not (how in SIGNALS and ended.is_sent) and ended.status != 0:
        counts.losses.append(f"{what}: status {ended.status}, {last_of(everything)}")
    if any(len(re.findall("^PeerError", text, re.MULTILINE)) > 1 for text in ended.said):
        counts.losses.append(f"{what}: a rank says it twice")
    for path in AGAIN.findall(everything):
        if Path(path).resolve() != run.resolve() and (run / "config.json").exists():
            counts.losses.append(f"{what}: told to go on with {path}")
    stopped = STOPPED.search(everything)
    kept = [step for step, _ in checkpoint.find(run)]
    # before the first step there is nothing but options to go on from
    if stopped and int(stopped[1]) not in (kept or [0])[:1]:
        counts.losses.append(f"{what}: stopped at {stopped[1]}, with checkpoints {kept}")


def last_of(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])[-500:]


def unlike(run: Path, whole: Path) -> list[str]:
    """What is not as in a run that was left alone."""
    found = []
    for name in ("metrics.jsonl", "config.json", "partition.json"):
        one, other = told(run / name), told(whole / name)
        if one != other:
            found.append(f"other {name}")
    mine, wanted = dict(checkpoint.find(run)), dict(checkpoint.find(whole))
    if max(mine) != max(wanted) or len(mine) > checkpoint.KEPT:
        found.append(f"checkpoints {sorted(mine)} for {sorted(wanted)}")
    for step in mine.keys() & wanted.keys():
        tensors, _, numbers = checkpoint.load(mine[step])
        others, _, counted = checkpoint.load(wanted[step])
        if numbers != counted or tensors.keys() != others.keys():
            found.append(f"other counters or names at step {step}")
        elif differing := [n for n in others if not torch.equal(tensors[n], others[n])]:
            found.append(f"other {differing} at step {step}")
    pictures = {"classes.png", "curves.png"}
    files = {LOCK, "metrics.jsonl", "config.json", "partition.json", *pictures}
    extra = {p.name for p in run.iterdir()} ^ {*files, *(path.name for path in mine.values())}
    parts = {
        p.name
        for path in mine.values()
        if path.is_dir()
        for p in path.iterdir()
        if p.name != spread_checkpoint.MANIFEST and not re.fullmatch(PART, p.name)
    }
    if extra | parts:
        found.append(f"files {sorted(extra | parts)}")
    return found


PART = r"agents-\d+-\d+\.safetensors"


def told(path: Path) -> Any:
    """A file's content, but for seconds and what says how many processes there were."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
    content = json.loads(path.read_text())
    content.pop("bits", None)
    return content


campaign = Campaign("disturbances", 40, attempt, forked.warm_up)
