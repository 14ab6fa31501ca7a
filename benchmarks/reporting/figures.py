"""The figures that this package holds itself to, each beside what one machine's report says of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.reporting.markdown import paragraphs, table
from benchmarks.reporting.rows import Info

STREAMING = ("agent_norm", "sam_perturb", "gossip_step")
# bytes of a buffer from which on a GPU's ops are judged
LARGE = 256 * 10**6
# agents that growth is judged at, at the least, and how far it may be from linear
MANY, LINEAR = 1024, 1.5


@dataclass(frozen=True)
class Figure:
    """One line: what it is, the limit, and the worst value found; None where it was not measured."""

    what: str
    limit: float
    worst: float | None
    is_ceiling: bool = False

    @property
    def bound(self) -> str:
        return f"{'at most' if self.is_ceiling else 'at least'} {self.limit:g}"

    @property
    def verdict(self) -> str:
        """met, missed, or not measured."""
        if self.worst is None:
            return "not measured"
        is_met = self.worst <= self.limit if self.is_ceiling else self.worst >= self.limit
        return "met" if is_met else "missed"

    @property
    def reached(self) -> str:
        return {"met": "yes", "missed": "no", "not measured": ""}[self.verdict]


def figures_table(infos: list[Info], is_gpu: bool) -> str:
    """All figures of this kind of machine; nothing where none of them was measured."""
    figures = of_gpu(infos) if is_gpu else of_cpu(infos)
    if all(figure.worst is None for figure in figures):
        return ""
    rows = [
        (f.what, f.bound, f.verdict if f.worst is None else f"{f.worst:.3g}", f.reached)
        for f in figures
    ]
    words = "Figures to reach, and the worst value of this run:"
    return paragraphs(words, table(("what", "figure", "measured", "reached"), "llrl", rows))


def of_cpu(infos: list[Info]) -> list[Figure]:
    def percents(*names: str) -> float | None:
        return least(i["percent_of_copy"] for i in ops(infos, names) if i["agents"] == 16)

    share = "% of copy bandwidth, 16 agents"
    return [
        Figure(f"`gossip_step`: {share}", 77, percents("gossip_step")),
        Figure(f"`agent_norm`, `sam_perturb`: {share}", 77, percents("agent_norm", "sam_perturb")),
        Figure(f"`quantize`, 8 bits: {share}", 29, percents("quantize")),
        Figure(f"`choco_step`: {share}", 50, percents("choco_step")),
        *(
            Figure(f"stacking tax, {network}, 16 agents", limit, tax(infos, 16, network), True)
            for network, limit in (("mlp", 1.1), ("lenet5", 0.7), ("resnet20", 0.6))
        ),
    ]


def of_gpu(infos: list[Info]) -> list[Figure]:
    large = [i for i in infos if 4 * i.get("dim", 0) * i.get("agents", 0) >= LARGE]

    def percents(names: tuple[str, ...], agents: range) -> float | None:
        return least(i["percent_of_copy"] for i in ops(large, names) if i["agents"] in agents)

    few, many = range(1, 129), range(1024, 1025)
    spoken = ", ".join(f"`{name}`" for name in STREAMING)
    steps = [i for i in infos if i.get("method") == "QSADDLe" and "launches" in i]
    held = [i for i in steps if i["agents"] <= 256]
    gathered = [i["percent_of_copy"] for i in ops(infos, ("gather_batch",))]
    an_agent = f"an agent, {MANY:,} or more agents over the fewest"
    return [
        Figure(f"{spoken}: % of copy bandwidth, 1 to 128 agents", 85, percents(STREAMING, few)),
        Figure(f"{spoken}: % of copy bandwidth, 1,024 agents", 70, percents(STREAMING, many)),
        Figure("`quantize`: % of copy bandwidth", 70, percents(("quantize",), range(1, 4097))),
        Figure("`choco_step`: % of copy bandwidth", 65, percents(("choco_step",), range(1, 4097))),
        Figure("launches of a QSADDLe step", 5, most(i["launches"] for i in held), True),
        Figure("waits of the host in a QSADDLe step", 0, most(i["waits"] for i in steps), True),
        Figure("stacking tax, 16 agents", 1.3, tax(infos, 16), True),
        Figure("stacking tax, 256 agents", 1.5, tax(infos, 256), True),
        Figure("runs that trained in a CUDA graph", 1, captured(infos)),
        Figure("`gather_batch`: % of copy bandwidth", 77, least(gathered)),
        Figure(f"time of a training step {an_agent}", LINEAR, growth(infos, seconds), True),
        Figure(f"memory of a training step {an_agent}", LINEAR, growth(infos, peak), True),
    ]


def seconds(info: Info) -> float:
    """Of a training step."""
    return float(1 / info["steps_per_second"])


def peak(info: Info) -> float:
    """Bytes on the GPU."""
    return float(info["peak_bytes"])


def captured(infos: list[Info]) -> float | None:
    """How many sizes were trained with a CUDA graph; None where none was trained at all."""
    trained = [i for i in infos if "training" in i]
    return float(sum(i["graph"] == "on" for i in trained)) if trained else None


def growth(infos: list[Info], value: Callable[[Info], float]) -> float | None:
    """What a training step takes an agent, with the most agents over the fewest; the worse of both kinds of step."""
    found = []
    for graph in ("off", "on"):
        rows = [i for i in infos if "training" in i and i["graph"] == graph]
        few = min(rows, key=lambda i: i["agents"], default=None)
        many = max(
            (i for i in rows if i["agents"] >= MANY), key=lambda i: i["agents"], default=None
        )
        if few is not None and many is not None and few is not many:
            found.append(value(many) / many["agents"] / (value(few) / few["agents"]))
    return most(found)


def ops(infos: list[Info], names: tuple[str, ...]) -> list[Info]:
    """Ops of these names by the implementation that runs there, block shapes left out."""
    kinds = ("native", "triton")
    mine = [i for i in infos if i.get("implementation") in kinds and "shape_of" not in i]
    return [i for i in mine if i.get("op") in names and "percent_of_copy" in i]


def tax(infos: list[Info], agents: int, network: str | None = None) -> float | None:
    """The worst stacking tax of the engine that is chosen."""
    chosen = [i for i in infos if i.get("asked") == "auto" and i["agents"] == agents]
    return most(i["stacking_tax"] for i in chosen if network in (None, i["network"]))


def least(values: Iterable[float]) -> float | None:
    return min(values, default=None)


def most(values: Iterable[float]) -> float | None:
    return max(values, default=None)
