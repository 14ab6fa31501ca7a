"""All tables of one machine's report, those that it has figures for."""

from typing import Any

from benchmarks.reporting.bandwidth import bandwidth_table, comparison
from benchmarks.reporting.figures import figures_table
from benchmarks.reporting.gpu_tables import (
    choice_table,
    launch_table,
    memory_table,
    op_tables,
    shape_table,
    training_table,
)
from benchmarks.reporting.machines import machine
from benchmarks.reporting.markdown import paragraphs
from benchmarks.reporting.rows import infos, is_op, on_gpu, timed
from benchmarks.reporting.stacking import tax_tables

# tables of figures that a row carries under this name
SPECIAL = {
    "launches": launch_table,
    "training": training_table,
    "kept_bytes": memory_table,
    "shape_of": shape_table,
    "choice": choice_table,
}


def render(report: dict[str, Any]) -> str:
    """The whole text for one machine."""
    goals = figures_table(infos(report), on_gpu(report))
    return paragraphs(machine(report), tables(report), goals)


def tables(report: dict[str, Any]) -> str:
    """All tables of what was measured, figures to reach left out; on a GPU ops are laid out by agents and by size."""
    found = infos(report)
    moved = [row for row in timed(report) if not (is_op(row) and on_gpu(report))]
    ops = [row["extra_info"] for row in timed(report) if is_op(row) and on_gpu(report)]
    special = {key: [info for info in found if key in info] for key in SPECIAL}
    return paragraphs(
        bandwidth_table(moved) if moved else "",
        comparison(moved),
        op_tables(ops) if ops else "",
        tax_tables(found),
        *(write(special[key]) for key, write in SPECIAL.items() if special[key]),
    )
