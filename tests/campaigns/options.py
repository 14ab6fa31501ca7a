"""Random sets of options for `train`: each runs, or is refused in one line before anything is written.

Values are drawn from those that the help names, and, more rarely, from ones that no option or hardly one can have.
"""

import json
from pathlib import Path
from typing import Any

from fastsaddle.sim import methods
from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.campaigns.forked import Ended, call, command, warm_up

# share of the values that are drawn from HOSTILE, of sets that need not fit together
BAD = 0.08
# share of the sets in which each option is one that the others have use for
FITTING = 0.6
PATIENCE = 120.0
HOSTILE = (
    *("nan", "inf", "-inf", "-1", "0", "0.0", "1e308", "1e-320", "-0.5", "1.5", "999999999999"),
    *("99999999999999999999999", "None", "null", "", " ", "x", "é", "%s", "--", "a:b:c", "mlp:"),
    *("ring:", ":", "../..", "/dev/null", "/", "missing.py:Name", "a" * 3000, "1,2", "[1]", "{}"),
    *("mlp:1000000000", "mlp:0", "top-k:0", "top-k:2", "stochastic-quantizer:3", "torus:0x4"),
    *("torus:4x4x4", "random-regular:99", "erdos-renyi:-1", "looksam:0", "esam:2:2", "step:2"),
    *("qsr:0:0", "cuda", "cuda:99", "meta", "dirichlet:1:2", "classes:0", "shards:999999"),
)
FLOATS = ("0", "0.01", "0.05", "0.1", "0.5", "0.9", "1")
COUNTS = ("1", "2", "3", "5", "7", "100")
VALUES: dict[str, tuple[str, ...]] = {
    "algorithm": (
        *("dsgd", "dsgdm", "qgm", "dsaddle", "qsaddle", "ngm", "nsaddle", "gradient-tracking"),
        *("momentum-tracking", "d2", "gut", "relay-sgd", "qg-adam", "local-sgd", "dppf", "easgd"),
        *("gradienttracking", "qgadam", "relay_sgd"),
    ),
    "gradient": ("auto", "plain", "sam"),
    "option": ("momentum=0.8", "lr=0.1", "rho=1", "momentum", "=", "a=b,c=d", "seed=3"),
    "dataset": ("digits", "mnist", "fashion-mnist", "cifar10", "npz"),
    "evaluate-on": ("test", "validation"),
    "model": (
        *("mlp", "mlp:8", "mlp:8:8", "lenet5", "cnn5", "transformer", "resnet20", "resnet20:qgm"),
        *("resnet20:groupnorm", "vgg11", "mobilenet-v2", "resnet18"),
    ),
    "agents": ("1", "2", "3", "4", "5", "8", "16", "33"),
    "topology": (
        *("ring", "torus:2x2", "torus:4x4", "fully-connected", "exponential", "star", "chain"),
        *("binary-tree", "dyck", "social-network", "random-regular:3", "random-regular:2:7"),
        *("erdos-renyi:0.5", "erdos-renyi:0.9:3"),
    ),
    "partition": (
        *("dirichlet", "dirichlet-raw", "iid", "sorted", "shards:2", "classes:2", "quantity"),
    ),
    "alpha": ("0.01", "0.1", "1", "100", "1e-6", "1e6"),
    "feature-skew": ("rotation:180", "color:0.3", "noise:0.5", "rotation"),
    "augment": ("none", "crop", "flip", "crop-flip"),
    "steps": COUNTS,
    "epochs": ("0.01", "0.1", "1", "2"),
    "batch-size": ("1", "2", "8", "32", "500"),
    "lr": ("0.001", "0.01", "0.1", "1", "10", "1e10"),
    "schedule": ("constant", "cosine", "step", "step:0.3:0.6:0.9"),
    "lr-decay": FLOATS,
    "warmup": FLOATS,
    "rho": FLOATS,
    "adaptive": ("",),
    "sam": ("full", "looksam:2:0.7", "looksam", "momentum", "esam:0.6:0.5", "esam"),
    "perturb": ("all", "self"),
    "cross-gradients": ("data", "model"),
    "mixed-self-gradient": ("",),
    "momentum": FLOATS,
    "qg-momentum": FLOATS,
    "quasi-global": ("second", "both"),
    "tracking": FLOATS,
    "period": ("1", "2", "4", "qsr:2:0.0175", "qsr"),
    "pull": FLOATS,
    "push": FLOATS,
    "pull-schedule": ("constant", "rising", "falling"),
    "push-schedule": ("constant", "rising", "falling"),
    "weight-decay": FLOATS,
    "norm-decay": ("",),
    "nesterov": ("",),
    "ccl-model": FLOATS,
    "ccl-data": FLOATS,
    "consensus-step": ("0.1", "0.3", "0.5", "1"),
    "compressor": (
        *("none", "identity", "sign", "top-k:0.1", "random-k:0.1", "stochastic-quantizer:8"),
        *("stochastic-quantizer:4", "stochastic-quantizer:2:biased=true", "top-k"),
    ),
    "gossip-order": ("compress-then-mix", "mix-then-compress"),
    "running-sum": ("",),
    "adaptive-gossip": ("",),
    "state-dtype": ("float32", "bfloat16"),
    "init": ("same", "independent"),
    "seed": ("0", "1", "12345"),
    "split-seed": ("0", "7"),
    "device": ("auto", "cpu", "cuda"),
    "engine": ("auto", "vmap", "unfold", "implicit", "loop", "threads", "batched", "lanes"),
    "precision": ("float32", "tf32", "bfloat16"),
    "chunk": COUNTS,
    "cuda-graph": ("auto", "on", "off"),
    "threads": ("1",),
    "eval-every": COUNTS,
    "checkpoint-every": COUNTS,
    "minutes": ("0.01", "0.1"),
}
# options that decide what a run is: nearly always drawn
CORE = ("algorithm", "agents", "topology", "partition", "compressor")
OF_COMPRESSION = ("gossip-order", "running-sum", "adaptive-gossip")
# what acts through another option, with a value of that
NEEDS = {
    **dict.fromkeys(OF_COMPRESSION, ("compressor", "sign")),
    "lr-decay": ("schedule", "step"),
    "norm-decay": ("weight-decay", "0.1"),
    "nesterov": ("momentum", "0.9"),
    "chunk": ("engine", "vmap"),
}
# what fits any number of agents and this machine
ANYWHERE = {
    "dataset": ("digits",),
    "topology": ("ring", "fully-connected", "exponential", "star", "erdos-renyi:0.9:3"),
    "partition": ("iid", "dirichlet", "dirichlet-raw", "sorted", "quantity"),
    "device": ("cpu", "auto"),
    "engine": ("auto", "vmap", "unfold", "loop", "threads"),
    "precision": ("float32", "bfloat16"),
    "cuda-graph": ("auto", "off"),
    "lr": ("0.001", "0.01", "0.1"),
}
# each run has its end: of its own, by its steps or by the clock
SMALL = {"model": "mlp:8", "steps": "4", "batch-size": "8", "minutes": "0.1", "threads": "1"}


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    counts = Counts(tried=1)
    run = place / "run"
    arguments = draw_options(draw)
    words = [word for name, value in arguments.items() for word in spelled(name, value)]
    ended = call(command("train", *words, "--out", str(run)), place, PATIENCE)
    said = f"train {' '.join(word if word else repr('') for word in words)[:600]}"
    if ended.hung:
        counts.hangs.append(said)
    elif ended.has_traceback or ended.status not in ENDS:
        counts.tracebacks.append(f"{said}: status {ended.status}, {ended.last}")
    elif wrong := ENDS[ended.status](ended, run):
        counts.losses.append(f"{said}: {wrong}")
    else:
        counts.ended[NAMES[ended.status]] += 1
    return counts


def draw_options(draw: Draw) -> dict[str, str]:
    """Options with values, in any order; some are no options of `train`, and some values no values."""
    chosen = {**SMALL}
    wanted = [name for name in CORE if draw.random() < 0.6]
    wanted += draw.sample([*VALUES], draw.randint(0, 7))
    if draw.random() < FITTING:
        chosen |= fitting(draw, wanted)
    else:
        for name in wanted:
            chosen[name] = draw.choice(HOSTILE if draw.random() < BAD else VALUES[name])
        if draw.random() < 0.02:
            chosen[draw.choice(["bogus", "Agents", "lr_", "resume"])] = draw.choice(HOSTILE)
    if "epochs" in chosen:
        del chosen["steps"]
    return dict(draw.sample([*chosen.items()], len(chosen)))


def fitting(draw: Draw, wanted: list[str]) -> dict[str, str]:
    """Values for those of the options that an algorithm has use for, and for what they need."""
    algorithm = draw.choice(VALUES["algorithm"])
    chosen = {"algorithm": algorithm}
    for name in wanted:
        able = methods.takes(algorithm, name.replace("-", "_")) and name not in (
            "option",
            "algorithm",
        )
        if name in ("compressor", *OF_COMPRESSION):
            able = able and "compressor" in methods.find(algorithm).names()
        if able:
            chosen[name] = draw.choice(ANYWHERE.get(name, VALUES[name]))
    for name, (other, value) in NEEDS.items():
        if name in chosen and chosen.get(other, "none") in (
            "none",
            "0",
            "constant",
            "auto",
            "loop",
        ):
            chosen[other] = value
    return chosen


def spelled(name: str, value: str) -> list[str]:
    if VALUES.get(name) == ("",):
        return [f"--{name}", *([value] if value else [])]
    # a value that begins with a hyphen would be an option
    return [f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value]


def finished(ended: Ended, run: Path) -> str:
    """What is wrong with a run that came to its end."""
    config = json.loads((run / "config.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if rows[-1]["step"] != config["steps"]:
        return f"the last line is of step {rows[-1]['step']} of {config['steps']}"
    return ""


def refused(ended: Ended, run: Path) -> str:
    """What is wrong with a refusal: it is one line or one frame, and leaves no run."""
    if run.exists():
        return f"refused ({ended.last}) when {sorted(path.name for path in run.iterdir())} were written"
    lines = errors(ended)
    is_frame = bool(lines) and lines[0].startswith("╭") and lines[-1].startswith("╰")
    is_line = len(lines) == 1 and lines[0].startswith("fastsaddle: error: ")
    # the command line's own parser draws a frame
    return "" if is_line or is_frame else f"refused in {len(lines)} lines: {ended.last}"


def failed(ended: Ended, run: Path) -> str:
    """What is wrong with a run that failed: divergence or want of memory may end one, and is told in a line."""
    lines = errors(ended)
    reasons = ("training diverged at step", "out of memory")
    is_told = len(lines) == 1 and any(reason in lines[0] for reason in reasons)
    return "" if is_told else f"failed: {ended.last}"


def errors(ended: Ended) -> list[str]:
    """What was said of errors: warnings, a line each, go before."""
    lines = ended.err.strip().splitlines()
    return [line for line in lines if not line.startswith("fastsaddle: warning: ")]


def out_of_time(ended: Ended, run: Path) -> str:
    """What is wrong with a run whose minutes were over: it must say how to go on."""
    return "" if "--resume" in ended.out else f"stopped without a word: {ended.last}"


ENDS = {0: finished, 2: refused, 1: failed, 75: out_of_time}
NAMES = {0: "finished", 2: "refused", 1: "diverged or out of memory", 75: "out of time"}
campaign = Campaign("option sets", 1_000, attempt, warm_up)
