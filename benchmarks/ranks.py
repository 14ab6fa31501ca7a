"""What agents over processes cost, beside raw messages, one process and decent-dp: figures to reach, and ratios.

    python benchmarks/ranks.py [--turns 15] [--seconds 20] [--only PART...] [--out DIR] [--tiny]

Every ratio is of things that take turns in one run, one thread a process, over gloo and loopback: medians of the turns'
ratios. `train` is measured beside decent-dp where that is installed (`pip install decent-dp`). `--only` keeps what
ranks.json says of the other parts.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# before anything is imported that reads them
from peers_process import ONE_THREAD

os.environ.update(ONE_THREAD)

import machine
import peers
from over_ranks import overlap, work
from over_ranks.engines import ONE, PEER, SPREAD
from over_ranks.group import measured
from over_ranks.turns import ratio

import fastsaddle as fs

RESULTS = Path(__file__).resolve().parent / "results"
Rows = list[dict[str, Any]]
AGENTS, STEPS = 16, 5
# megabits a second, of an emulated link
LINK = 1_000
NETWORKS = {"784-50-10": "mlp", "LeNet-5": "lenet5"}


class Bench:
    """All parts, at the sizes asked for; each returns rows of figures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.turns, self.seconds, self.bound = options.turns, options.seconds, options.patience
        self.is_tiny = options.tiny
        self.dim = 1_000 if options.tiny else 1_000_000
        self.ranks = (2,) if options.tiny else (2, 4, 8)
        self.batch = 2 if options.tiny else 128
        self.most = self.ranks[-1] if options.tiny else 4

    def times(self, what: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
        return measured(what, ranks, *arguments, self.turns, self.calls, bound=self.bound)

    @property
    def calls(self) -> int:
        return 2 if self.is_tiny else 4

    def exchange(self) -> Rows:
        rows = []
        for ranks in self.ranks:
            found = self.times(work.exchanges, ranks, self.dim, (8, 4))
            for what in ("row", "8 bits", "4 bits"):
                case = {"case": what, "ranks": ranks, "dim": self.dim}
                # what so many bytes take, over a whole row
                of_row = ratio(found, what, "row")["measured"]
                rows.append({**case, **ratio(found, what, f"raw {what}"), "of_row": of_row})
        return rows

    def step(self) -> Rows:
        rows = []
        for count in (1, 4):
            found = self.times(work.steps, 1, self.dim, count, self.most)
            # the stack steps the agents of all ranks
            share = ratio(found, "ranks", "stack", self.most)
            rows.append({"agents_a_rank": count, "ranks": self.most, "dim": self.dim, **share})
        return rows

    def compressed(self) -> Rows:
        found = self.times(work.compressed, self.most, self.dim, 8)
        return [{"ranks": self.most, "dim": self.dim, **ratio(found, "codes", "row")}]

    def overlap(self) -> Rows:
        rows = []
        for name in overlap.METHODS:
            for megabits in (None, LINK):
                found = self.times(overlap.steps, self.ranks[0], name, self.batch, megabits)
                case = {
                    "case": name,
                    "ranks": self.ranks[0],
                    "megabits": megabits,
                    "batch": self.batch,
                }
                bound = ratio(found, "auto", ("compute", "exchange"))
                rows.append({**case, "of_off": ratio(found, "auto", "off")["measured"], **bound})
        return rows

    def wire(self) -> Rows:
        rows = []
        compressors = {
            "row": None,
            "8 bits": fs.compressors.StochasticQuantizer(8),
            "4 bits": fs.compressors.StochasticQuantizer(4),
            "top-k": fs.compressors.TopK(0.1),
            "sign": fs.compressors.Sign(),
        }
        for ranks, count in ((2, 8), (4, 1)) if not self.is_tiny else ((2, 2),):
            arguments = (1_000, count, compressors, STEPS)
            found = measured(work.wire, ranks, *arguments, bound=self.bound)
            for what in compressors:
                sent, due = (
                    sum(numbers) for numbers in zip(*(f[what] for f in found), strict=True)
                )
                case = {"case": what, "ranks": ranks, "agents_a_rank": count, "steps": STEPS}
                rows.append({**case, "sent": sent, "due": due, "measured": abs(sent - due)})
        return rows

    def training(self) -> Rows:
        rows = []
        for network, model in NETWORKS.items():
            one = replace(known(ONE), arguments=(model,))
            # the same options in one process and in two, which have a core each where there are two
            two = replace(one, name=SPREAD, script="fastsaddle_ranks.py", all_cores=True)
            engines = [one, two]
            # the peer's script trains the perceptron alone
            engines += [known(PEER)] if model == "mlp" else []
            agents = 4 if self.is_tiny else AGENTS
            results = peers.measure(agents, self.seconds, self.turns, self.bound, engines)
            rows += [{"network": network, **result} for result in results]
        return rows


def known(name: str) -> peers.Engine:
    """An engine of the benchmark beside peers."""
    return next(engine for engine in peers.ENGINES if engine.name == name)


PARTS = ("exchange", "step", "compressed", "overlap", "wire", "training")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=15, help="of each way to do a thing")
    parser.add_argument("--seconds", type=float, default=20, help="of training, all turns together")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds a measurement may take"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of ranks.json")
    parser.add_argument("--tiny", action="store_true", help="only check that everything runs")
    options = parser.parse_args()
    if options.tiny:
        options.turns, options.seconds = 2, 0.2
    path = options.out / "ranks.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    for part in options.only:
        facts = {**machine.facts(), "threads": 1, "fastsaddle": fs.__version__}
        if part == "training":
            facts["decent-dp"] = peers.version(known(PEER).package)
        content["parts"][part] = {"machine": facts, "turns": options.turns}
        content["parts"][part]["rows"] = getattr(bench, part)()
        # one that is new stands where it is measured, not at the end
        content["parts"] = {name: found for name in PARTS if (found := content["parts"].get(name))}
        # what was measured is kept, should a later part be interrupted
        path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"for the tables: python -m benchmarks.reporting show ranks --results {options.out}")


if __name__ == "__main__":
    main()
