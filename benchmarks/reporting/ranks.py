"""What agents over processes cost, from what benchmarks/ranks.py measured: figures to reach, and what bounds them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.over_ranks.engines import ONE, PEER, SPREAD
from benchmarks.over_ranks.turns import spread
from benchmarks.reporting.figures import Figure
from benchmarks.reporting.machines import machines
from benchmarks.reporting.markdown import paragraphs, table

Turn = dict[str, float]
# the ratios to reach
EXCHANGE, CODES, PROCESSOR, RATE = 1.15, 0.5, 1.25, 3.0
STEP = {1: 1.6, 4: 1.3}
OVERLAP = 1.2


@dataclass(frozen=True)
class Measured(Figure):
    """A figure whose value is the median of several turns' ratios.

    Attributes:
        quartiles: of the ratios; None where it is no ratio of times.
        processor: the same ratio of processor time.
    """

    quartiles: tuple[float, float] | None = None
    processor: float | None = None

    def cells(self) -> tuple[str, ...]:
        if self.worst is None:
            return self.what, self.bound, self.verdict, "", "", ""
        among = "" if self.quartiles is None else "{:.2f} to {:.2f}".format(*self.quartiles)
        processor = "" if self.processor is None else f"{self.processor:.2f}"
        value = f"{self.worst:.2f}" if self.quartiles else f"{self.worst:g}"
        return self.what, self.bound, value, among, processor, self.reached


def ranks(content: dict[str, Any]) -> str:
    """The machine, the table, what bounds what is missed."""
    parts = content["parts"]
    head = ("what", "figure", "measured", "quartiles", "by processor time", "reached")
    return paragraphs(
        "\n".join(machines(parts, "one thread a process")),
        "Gloo over loopback, rows of 1,000,000 parameters. Each figure is the median of the ratios of turns in one "
        "run, of wall time where nothing else is said.",
        table(head, "llrrrl", [figure.cells() for figure in figures(parts)]),
        " ".join(remarks(parts)),
    )


def figures(parts: dict[str, Any]) -> Iterator[Figure]:
    """All of them; those of parts that were not measured have no value."""
    for row in rows_of(parts, "exchange"):
        what = f"exchange with both neighbors, {row['case']}, {row['ranks']} ranks / `batch_isend_irecv`"
        yield measured(what, EXCHANGE, row)
    for row in rows_of(parts, "step"):
        count = row["agents_a_rank"]
        agents = "one agent" if count == 1 else f"{count} agents"
        what = f"`gossip_step_` less its exchange, {agents} a rank / their share of the stack's"
        yield measured(what, STEP[count], row)
    for row in rows_of(parts, "compressed"):
        what = f"encode, exchange and decode 8 bits, {row['ranks']} ranks / exchange of rows"
        yield measured(what, CODES, row)
    for row in rows_of(parts, "overlap"):
        what = f"step with overlap, {case_of(row)} / the longer of computing and messages"
        yield measured(what, OVERLAP, row)
    wire = rows_of(parts, "wire")
    if wire:
        cases = ", ".join(dict.fromkeys(row["case"] for row in wire))
        what = f"bytes on the wire besides payload + 128 a message ({cases})"
        yield Measured(what, 0, max(row["measured"] for row in wire), True)
    yield from training(rows_of(parts, "training"))


def case_of(row: dict[str, Any]) -> str:
    """Which step it is that overlaps, over what."""
    link = (
        "loopback" if row["megabits"] is None else f"an emulated link of {row['megabits']:,} Mbit/s"
    )
    return f"{row['case']}, {row['ranks']} ranks, {link}"


def measured(what: str, limit: float, row: dict[str, Any]) -> Figure:
    """A ratio of times that is to be at most `limit`."""
    return Measured(what, limit, row["measured"], True, row["quartiles"], row["processor"])


def training(results: list[dict[str, Any]]) -> Iterator[Figure]:
    """Processor time and speed of whole runs in two processes."""
    for network in dict.fromkeys(r["network"] for r in results):
        mine = [r for r in results if r["network"] == network]
        turns = {r["engine"]: r.get("turns", []) for r in mine}
        run = f"`train`, {mine[0]['agents']} agents, {network}, in 2 processes"
        if turns.get(SPREAD) and turns.get(ONE):
            cost = spread(ratios(turns[SPREAD], turns[ONE], processor))
            what = f"processor time of {run} / in one process"
            yield Measured(what, PROCESSOR, cost["measured"], True, cost["quartiles"])
        if turns.get(SPREAD) and turns.get(PEER):
            rate = spread(ratios(turns[SPREAD], turns[PEER], speed))
            # in so much processor time as many steps
            of_cpu = spread(ratios(turns[PEER], turns[SPREAD], processor))["measured"]
            what = f"steps a second of {run} / decent-dp on all cores"
            yield Measured(what, RATE, rate["measured"], False, rate["quartiles"], of_cpu)


def speed(turn: Turn) -> float:
    """Agent-steps a second."""
    return turn["steps"] / turn["wall"]


def processor(turn: Turn) -> float:
    """Processor seconds of an agent-step."""
    return turn["cpu"] / turn["steps"]


def ratios(over: list[Turn], under: list[Turn], value: Callable[[Turn], float]) -> list[float]:
    """One for each pair of turns."""
    return [value(a) / value(b) for a, b in zip(over, under, strict=True)]


def remarks(parts: dict[str, Any]) -> list[str]:
    """What bounds what is missed, by numbers of the same run."""
    said = []
    if rows_of(parts, "step"):
        said.append(
            "A step in two halves, around its exchange, moves nine rows an agent where one kernel moves five (1.8)."
        )
    of_row = {r["ranks"]: r["of_row"] for r in rows_of(parts, "exchange") if r["case"] == "8 bits"}
    said += [
        f"The bytes of 8-bit codes alone take {of_row[row['ranks']]:.2f} of the time of rows over loopback; the rest "
        "of their exchange is encoding and decoding, the own copy and those of both neighbors. Loopback moves bytes "
        "about as fast as that; a network that is slower than it gains more."
        for row in rows_of(parts, "compressed")
        if row["ranks"] in of_row
    ]
    gains = [f"{row['of_off']:.2f} ({case_of(row)})" for row in rows_of(parts, "overlap")]
    if gains:
        said.append(
            f"Of the time of a step without overlap one with it takes {', '.join(gains)}. Computing is a step without "
            "its messages, so a compressor's work counts as such. Messages over loopback take processor time "
            "themselves, which overlap cannot hide on cores that are all busy."
        )
    shares = []
    for result in rows_of(parts, "training"):
        if result["engine"] == SPREAD and result.get("turns"):
            turns = result["turns"]
            share = sum(t["carrying"] for t in turns) / sum(t["cpu"] for t in turns)
            shares.append(f"{100 * share:.0f} % with {result['network']}")
    if shares:
        said.append(
            f"Of the processor time of `train` in two processes gloo's own threads take {' and '.join(shares)}."
        )
        said.append(
            "The kernels for LeNet-5 take the agents of one process together, and take more for eight than half of "
            "what they take for sixteen. Where other programs use the cores too, messages wait for their turn, as "
            "gloo's threads do: that slows processes down more than a single one, so measure on an idle machine."
        )
    return said


def rows_of(parts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return parts.get(name, {}).get("rows", [])
