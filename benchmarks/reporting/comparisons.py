"""Accuracies of the tables that `fastsaddle compare` wrote for the grids of benchmarks/reproduction/."""

from benchmarks.reporting.markdown import table

Row = dict[str, str]
NAMES = {
    "dsgd": "DSGD",
    "dsgdm": "DSGDm",
    "qgm": "QGM",
    "qgadam": "QG-Adam",
    "gradienttracking": "gradient tracking",
    "momentumtracking": "momentum tracking",
    "d2": "D2, (W + I) / 2",
    "relaysgd": "RelaySGD, chain",
    "gut": "GUT",
    "dsaddle": "D-SADDLe",
    "qsaddle": "Q-SADDLe",
    "ngm": "NGM",
    "nsaddle": "N-SADDLe",
    "localsgd": "LocalSGD, every 4 steps",
    "easgd": "EASGD, every 4",
    "dppf": "DPPF, every 4",
}
SAM = {
    "looksam:5": "LookSAM 5, 0.7",
    "looksam:5:0.2": "LookSAM 5, 0.2",
    "esam:0.6:0.5": "ESAM 0.6, 0.5",
    "momentum": "momentum-SAM",
}
GRAPHS = {
    "ring": "ring",
    "one-peer-exponential": "one-peer exponential",
    "matchings": "random matchings",
    "directed-exponential": "directed exponential, push-sum",
}
# of all agents, with 16 agents and batches of 32 of Fashion-MNIST
STEPS_AN_EPOCH = 118


def percent(row: Row, name: str = "accuracy") -> str:
    """Mean and deviation; runs that diverged have none, and are told of."""
    text = f"{100 * float(row[name]):.2f}"
    if row[f"{name}_deviation"]:
        text += f" ± {100 * float(row[f'{name}_deviation']):.2f}"
    if row["diverged"] != "0" and name == "accuracy":
        text += f" ({row['diverged']} of {row['runs']} diverged)"
    return text


def megabytes(row: Row, digits: int) -> str:
    return f"{float(row['bytes']) / 1e6:,.{digits}f}"


def sent_as(row: Row) -> str:
    kind, _, bits = row["compressor"].partition(":")
    return "float32" if kind == "none" else f"{bits} bits"


def fashion_mnist(rows: list[Row]) -> str:
    """A column for each alpha."""
    alphas = [*dict.fromkeys(row["alpha"] for row in rows)]
    found = {(row["algorithm"], row["alpha"]): row for row in rows}
    cells = [
        (
            NAMES[name],
            2 if "saddle" in name else 1,
            *(percent(found[name, alpha]) for alpha in alphas),
        )
        for name in dict.fromkeys(row["algorithm"] for row in rows)
    ]
    head = ("algorithm", "gradients a step", *(f"alpha {alpha}" for alpha in alphas))
    return table(head, "lr" + "r" * len(alphas), cells)


def all_systems(rows: list[Row]) -> str:
    """A line for each method, with pairs of values for both alphas."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs.setdefault((row["algorithm"], row["sam"]), []).append(row)
    cells = []
    for (name, sam), (first, second) in pairs.items():
        steps = STEPS_AN_EPOCH * float(first["epochs"])
        traces = (f"{float(row['hessian_trace']):,.0f}" for row in (first, second))
        cells.append(
            (
                NAMES[name] + (f" with {SAM[sam]}" if sam in SAM else ""),
                f"{round(float(first['gradient_evaluations']) / steps, 1):g}",
                percent(first),
                percent(second),
                ", ".join(f"{float(row['sam_sharpness']):.3f}" for row in (first, second)),
                ", ".join(traces),
                megabytes(first, 0),
            )
        )
    head = (
        *("method", "gradients a step", "accuracy %, alpha 0.1", "accuracy %, alpha 0.01"),
        *("SAM sharpness", "Hessian trace", "MB sent an agent"),
    )
    return table(head, "lrrrrrr", cells)


def changing_graphs(rows: list[Row]) -> str:
    """A line for each graph and alpha."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["topology"], row["faults"], row["alpha"]), []).append(row)
    # alphas of a graph together, as they come
    keys = sorted(cells, key=lambda key: ([*GRAPHS].index(key[0]), key[1] != "none", key[1]))
    lines = [
        (graph(*key[:2]), key[2], *map(percent, cells[key]), megabytes(cells[key][0], 0))
        for key in keys
    ]
    head = ("graph", "alpha", "DSGD", "QGM", "Q-SADDLe", "MB sent an agent, DSGD and QGM")
    return table(head, "lrrrrr", lines)


def graph(topology: str, faults: str) -> str:
    share = faults.partition(":")[2]
    down = f", {100 * float(share):.0f}% of links down" if share else ""
    return GRAPHS[topology] + down


def changing_graphs_lenet5(rows: list[Row]) -> str:
    """A line for each graph, a column for each method and its rate."""
    methods = [*dict.fromkeys((row["algorithm"], row["lr"]) for row in rows)]
    cells: dict[tuple[str, str], list[str]] = {}
    for method in methods:
        for row in rows:
            if (row["algorithm"], row["lr"]) == method:
                cells.setdefault((row["topology"], row["faults"]), []).append(percent(row))
    head = ("network's graph", *(f"{NAMES[name]}, {rate}" for name, rate in methods))
    lines = [(graph(*key), *found) for key, found in cells.items()]
    return table(head, "l" + "r" * len(methods), lines)


def compression(rows: list[Row]) -> str:
    cells = [
        (
            ("" if sent_as(row) == "float32" else "Comp ") + NAMES[row["algorithm"]],
            sent_as(row),
            percent(row),
            percent(row, "mean_accuracy"),
            megabytes(row, 1),
            f"{100 * float(row['compression_error'] or 0):.1f}",
        )
        for row in rows
    ]
    head = (
        *("algorithm", "sent as", "consensus accuracy %", "agents' mean %"),
        *("MB sent an agent", "lost of each message %"),
    )
    return table(head, "llrrrr", cells)


def trade_offs(rows: list[Row]) -> str:
    cells = [
        (
            row["topology"],
            row["gossip_every"],
            sent_as(row),
            percent(row),
            percent(row, "worst_accuracy"),
            megabytes(row, 1),
        )
        for row in rows
    ]
    head = (
        *("sent along", "gossip every", "sent as", "consensus accuracy %", "worst agent %"),
        "MB sent an agent",
    )
    return table(head, "lrlrrr", cells)


def rho_sweep(rows: list[Row]) -> str:
    cells = [
        (
            f"{float(row['rho']):g}",
            percent(row),
            f"{float(row['sam_sharpness']):.4f}",
            f"{float(row['top_eigenvalue']):.2f}",
            f"{float(row['step_milliseconds']):.2f}",
        )
        for row in rows
    ]
    head = ("rho", "consensus accuracy %", "SAM sharpness", "top eigenvalue", "ms a step")
    return table(head, "rrrrr", cells)


def accuracies(rows: list[Row]) -> str:
    """The grid `fashion_mnist` in short: a line for each alpha."""
    algorithms = [*dict.fromkeys(row["algorithm"] for row in rows)]
    found = {(row["algorithm"], row["alpha"]): percent(row) for row in rows}
    alphas = dict.fromkeys(row["alpha"] for row in rows)
    cells = [(alpha, *(found[name, alpha] for name in algorithms)) for alpha in alphas]
    return table(("Dirichlet", *(NAMES[n] for n in algorithms)), "r" * (1 + len(algorithms)), cells)
