"""Markdown of what is measured on GPUs alone: ops by agents and size, launches, training, memory, block shapes."""

from collections.abc import Callable
from typing import Any

from benchmarks.reporting.markdown import paragraphs, table
from benchmarks.reporting.rows import Info


def pivot(
    infos: list[Info],
    row_of: Callable[[Info], str],
    column_of: Callable[[Info], Any],
    text: Callable[[Any], str] = str,
) -> str:
    """Percents of the copy bandwidth as a table; a cell that was not measured stays empty."""
    columns = sorted({column_of(info) for info in infos})
    cells = {(row_of(info), column_of(info)): f"{info['percent_of_copy']:.0f}" for info in infos}
    names = dict.fromkeys(map(row_of, infos))
    rows = [(name, *(cells.get((name, column), "") for column in columns)) for name in names]
    return table(("", *map(text, columns)), "l" + "r" * len(columns), rows)


def op_tables(infos: list[Info]) -> str:
    """Ops by agents at the size that most were measured at, then those of a step by size of a buffer."""
    by_size: dict[int, list[Info]] = {}
    for info in infos:
        by_size.setdefault(size_of(info), []).append(info)
    common = max(by_size, key=lambda size: len(by_size[size]))
    by_op = sorted(by_size[common], key=lambda i: i["op"])
    parts = [
        f"Percent of the copy bandwidth with {size_text(common)} a buffer, by agents:",
        pivot(by_op, lambda i: f"{i['op']}, {i['implementation']}", lambda i: i["agents"]),
    ]
    repeated = {(i["op"], i["implementation"], i["agents"]) for i in infos if size_of(i) != common}
    varied = [i for i in infos if (i["op"], i["implementation"], i["agents"]) in repeated]
    if varied:
        varied.sort(key=lambda i: (i["op"], i["agents"]))
        parts += [
            "The same by size of a buffer:",
            pivot(varied, lambda i: f"{i['op']}, {i['agents']} agents", size_of, size_text),
        ]
    return paragraphs(*parts)


def size_of(info: Info) -> int:
    """Bytes of one float32 buffer of all agents."""
    return 4 * info["agents"] * info["dim"]


def size_text(size: int) -> str:
    """Bytes in binary units."""
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
    unit = next(name for name, least in units.items() if size >= least)
    return f"{size // units[unit]} {unit}"


def launch_table(infos: list[Info]) -> str:
    head = ("step", "agents", "kernels", "copies and fills", "waits of the host")
    rows = [
        (f"{i['method']}.step", f"{i['agents']:,}", f"{i['launches']:g}", f"{i['copies']:g}", i["waits"])
        for i in sorted(infos, key=lambda i: (i["method"], i["agents"]))
    ]  # fmt: skip
    words = "Sent to the GPU in one step outside the closures:"
    return paragraphs(words, table(head, "lrrrr", rows))


def training_table(infos: list[Info]) -> str:
    head = (
        "network",
        "algorithm",
        "agents",
        "CUDA graph",
        "steps/s",
        "agent-steps/s",
        "GB at the peak",
    )
    rows = [
        (
            i["training"],
            i["algorithm"],
            f"{i['agents']:,}",
            i["graph"],
            f"{i['steps_per_second']:.2f}",
            f"{i['steps_per_second'] * i['agents']:,.0f}",
            gigabytes(i["peak_bytes"]),
        )
        for i in sorted(infos, key=lambda i: (i["training"], i["agents"], i["graph"]))
    ]  # fmt: skip
    words = "`fastsaddle train`, batches of 32, pictures of 3x32x32:"
    return paragraphs(words, table(head, "llrlrrr", rows))


def memory_table(infos: list[Info]) -> str:
    first = infos[0]
    rows = [
        (
            f"{i['method']}.step",
            i["implementation"],
            f"{i['step_milliseconds']:.1f}",
            gigabytes(i["kept_bytes"]),
            gigabytes(i["peak_bytes"]),
        )
        for i in sorted(infos, key=lambda i: (i["method"], i["step_milliseconds"]))
    ]
    words = (
        f"One step of {first['agents']:,} agents with {first['network']} outside the closures "
        f"({first['row_bytes'] / 1e9:.2f} GB a buffer):"
    )
    head = ("step", "implementation", "ms", "GB kept", "GB at the peak")
    return paragraphs(words, table(head, "llrrr", rows))


def gigabytes(count: int | None) -> str:
    return "not measured" if count is None else f"{count / 1e9:.2f}"


def shape_table(infos: list[Info]) -> str:
    ordered = sorted(infos, key=lambda i: (i["shape_of"], i["agents"]))
    return paragraphs(
        "Percent of the copy bandwidth by block shape, columns x warps of a program:",
        pivot(
            ordered,
            lambda i: f"{i['shape_of']}, {i['agents']} x {i['dim']:,}",
            lambda i: (i["columns"], i["warps"]),
            lambda shape: f"{shape[0]} x {shape[1]}",
        ),
    )


def choice_table(infos: list[Info]) -> str:
    alike: dict[tuple[str, int, int], list[Info]] = {}
    for i in infos:
        alike.setdefault((i["choice"], i["agents"], i["dim"]), []).append(i)
    rows = []
    for (kernel, agents, dim), found in alike.items():
        found.sort(key=lambda i: -i["percent_of_copy"])
        shapes = ", ".join(f"{i['alternative']}: {i['percent_of_copy']:.0f}" for i in found)
        rows.append((kernel, f"{agents:,} x {dim:,}", shapes))
    words = "Percent of the copy bandwidth of the block shapes that the table of shapes may choose:"
    head = ("kernel", "agents x parameters", "shapes, the fastest first")
    return paragraphs(words, table(head, "lll", rows))
