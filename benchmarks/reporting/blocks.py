"""Every text that pages hold between marks, by the name in the mark."""

from collections.abc import Callable
from typing import Any

from benchmarks.reporting import comparisons
from benchmarks.reporting.bandwidth import bandwidth_table, comparison
from benchmarks.reporting.campaigns import campaigns
from benchmarks.reporting.figures import figures_table
from benchmarks.reporting.graphs import graphs
from benchmarks.reporting.growth import growth
from benchmarks.reporting.machines import machine
from benchmarks.reporting.markdown import folded, paragraphs
from benchmarks.reporting.model import model
from benchmarks.reporting.peers import peers
from benchmarks.reporting.ranks import ranks
from benchmarks.reporting.readme import few
from benchmarks.reporting.remarks import remarks
from benchmarks.reporting.render import render
from benchmarks.reporting.results import Results
from benchmarks.reporting.rows import infos, timed
from benchmarks.reporting.stacking import tax_tables
from benchmarks.reporting.summary import summary

# of `fastsaddle compare`, by grid
COMPARISONS = (
    *("fashion_mnist", "all_systems", "changing_graphs", "changing_graphs_lenet5", "compression"),
    *("trade_offs", "rho_sweep"),
)


def kernels(results: Results) -> str:
    """Ops, compressors and optimizers' steps on a CPU."""
    if results.cpu is None:
        return "Not measured on a CPU."
    rows = timed(results.cpu)
    return paragraphs(
        f"{machine(results.cpu)}.",
        remarks(results.cpu),
        comparison(rows),
        figures_table(infos(results.cpu), is_gpu=False),
        folded(f"All {len(rows)} rows", bandwidth_table(rows)),
    )


def stacking(results: Results) -> str:
    return tax_tables(infos(results.cpu)) if results.cpu else "Not measured on a CPU."


def gpus(results: Results) -> str:
    """A section for each file."""
    found = [f"On a GPU: {render(report)}" for report in results.gpus]
    return paragraphs(*found) or "Not measured on a GPU: no figure for one is claimed."


def measured(name: str, write: Callable[[Any], str]) -> Callable[[Results], str]:
    """What the results of this name say, where there are some."""

    def block(results: Results) -> str:
        content = getattr(results, name)
        return write(content) if content else "Not measured."

    return block


def compared(name: str, write: Callable[[list[comparisons.Row]], str]) -> Callable[[Results], str]:
    """What the table of a grid says, where there is one."""

    def block(results: Results) -> str:
        rows = results.comparison(name)
        return write(rows) if rows else "Not run."

    return block


BLOCKS: dict[str, Callable[[Results], str]] = {
    "few": few,
    "summary": summary,
    "kernels": kernels,
    "stacking": stacking,
    "graphs": measured("graphs", graphs),
    "peers": measured("peers", peers),
    "growth": measured("growth", growth),
    "ranks": measured("ranks", ranks),
    "gpus": gpus,
    "campaigns": measured("campaigns", campaigns),
    "model": measured("model", model),
    "accuracies": compared("fashion_mnist", comparisons.accuracies),
    **{name: compared(name, getattr(comparisons, name)) for name in COMPARISONS},
}
