"""All tables of one machine's report, those that it has figures for."""

from typing import Any

from reporting.figures import figures_table
from reporting.gpu_tables import (
    choice_table,
    launch_table,
    memory_table,
    op_tables,
    shape_table,
    training_table,
)
from reporting.tables import Row, bandwidth_table, comparison, machine, tax_tables

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
    infos = [row["extra_info"] for row in report["benchmarks"]]
    return "\n".join([machine(report), tables(report), *figures_table(infos, on_gpu(report))])


def tables(report: dict[str, Any]) -> str:
    """All tables of what was measured, figures to reach left out; on a GPU ops are laid out by agents and by size."""
    rows = report["benchmarks"]
    special = {key: [r["extra_info"] for r in rows if key in r["extra_info"]] for key in SPECIAL}
    moved = [r for r in timed(report) if not (is_op(r) and on_gpu(report))]
    ops = [r["extra_info"] for r in timed(report) if is_op(r) and on_gpu(report)]
    tax = [r for r in rows if "stacking_tax" in r["extra_info"]]
    parts: list[str] = []
    if moved:
        parts += ["", *bandwidth_table(moved), *comparison(moved)]
    if ops:
        parts += op_tables(ops)
    parts += tax_tables(tax)
    for key, table in SPECIAL.items():
        if special[key]:
            parts += table(special[key])
    return "\n".join(parts)


def timed(report: dict[str, Any]) -> list[Row]:
    """Rows with a percentage of the copy bandwidth, block shapes left out."""
    infos = ((row, row["extra_info"]) for row in report["benchmarks"])
    return [
        row
        for row, info in infos
        if "percent_of_copy" in info and not {"shape_of", "choice"} & {*info}
    ]


def is_op(row: Row) -> bool:
    """Whether a row timed an op by itself."""
    return row["name"].startswith("test_op[")


def on_gpu(report: dict[str, Any]) -> bool:
    return report["machine_info"]["device"] != "cpu"
