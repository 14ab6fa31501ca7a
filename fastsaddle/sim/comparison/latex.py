"""The table of a comparison as a paper takes it: booktabs, numbers to the right, the best in bold."""

from collections.abc import Sequence
from typing import Any

from fastsaddle.sim import methods
from fastsaddle.sim.comparison.differences import difference
from fastsaddle.sim.comparison.results import BY_NAME, HIGHER_IS_BETTER, Group, printed
from fastsaddle.sim.config import option

# measure -> title; those of MEASURES, in its order
TITLES = {
    "accuracy": r"Accuracy (\%)",
    "best": r"Best (\%)",
    "mean_accuracy": r"Agents' mean (\%)",
    "worst_accuracy": r"Worst agent (\%)",
    "bytes": "Sent (MB)",
    "compression_error": r"Compression error (\%)",
    "gradient_evaluations": "Gradients",
    "step_milliseconds": "Step (ms)",
    "seconds": "Time (s)",
    "sam_sharpness": "SAM sharpness",
    "top_eigenvalue": r"$\lambda_{\max}$",
    "hessian_trace": "Hessian trace",
    "mean_valley": "Mean valley",
}
USUAL = ("accuracy", "worst_accuracy", "bytes", "gradient_evaluations", "sam_sharpness")
SYMBOLS = {"alpha": r"$\alpha$", "rho": r"$\rho$", "lr": "Learning rate"}
ESCAPED = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def check_columns(names: Sequence[str]) -> tuple[str, ...]:
    """The measures that `--columns` names, which may have hyphens. Raises ValueError for an unknown or doubled one."""
    columns = tuple(name.replace("-", "_") for name in names)
    for name in columns:
        if name not in TITLES:
            raise ValueError(f"--columns must be of {', '.join(TITLES)}, got {name!r}")
    if len(set(columns)) < len(columns):
        raise ValueError(f"--columns must name each column once, got {' '.join(columns)}")
    return columns


def table(groups: list[Group], columns: Sequence[str] = USUAL) -> str:
    """A tabular of the groups; columns that no group has values for are left out.

    Of each column the best is bold, and a dagger marks what `difference` cannot tell from it.
    """
    shown = [name for name in columns if any(g.values(name) for g in groups)]
    names = _options(groups)
    best = {name: _best(groups, name) for name in shown}
    notes = _notes(groups)
    titles = [*(SYMBOLS.get(n) or escape(option(n)).capitalize() for n in names)]
    titles += [TITLES[name] for name in shown]
    lines = [[_value(g, n) for n in names] + [_cell(g, n, best[n]) for n in shown] for g in groups]
    if any(r"\dagger" in cell for line in lines for cell in line):
        notes.append(
            "dagger: not told apart from the best by these seeds (95 % interval of the difference)"
        )
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            *(f"% {note}" for note in notes),
            rf"\begin{{tabular}}{{{'l' * len(names)}{'r' * len(shown)}}}",
            r"\toprule",
            _row(titles),
            r"\midrule",
            *(_row(line) for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(ESCAPED.get(character, character) for character in text)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _options(groups: list[Group]) -> list[str]:
    """What tells the groups apart; the algorithm where nothing does."""
    if not groups:
        return []
    return list(groups[0].options if groups[0].named is None else groups[0].named) or ["algorithm"]


def _value(group: Group, name: str) -> str:
    if name == "algorithm":
        text = str(group.options.get(name, group.outcomes[0].cell.config.algorithm))
        return escape(methods.title(text))
    value: Any = group.own.get(name)
    if value is None:
        return "--"
    return escape(f"{value:g}" if isinstance(value, float) else str(value))


def _best(groups: list[Group], measure: str) -> Group | None:
    """The group that is best as printed; None where all print alike."""
    found = [(mean, g) for g in groups if (mean := g.mean(measure)) is not None]
    if len({_rounded(mean, measure) for mean, _ in found}) < 2:
        return None
    choose = max if measure in HIGHER_IS_BETTER else min
    return choose(found, key=lambda pair: pair[0])[1]


def _rounded(value: float, measure: str) -> str:
    return printed(measure, value).replace(",", "{,}")


def _cell(group: Group, measure: str, best: Group | None) -> str:
    mean, deviation = group.mean(measure), group.deviation(measure)
    if mean is None:
        return "diverged" if group.diverged == len(group.outcomes) else "--"
    text = _rounded(mean, measure)
    apart = None
    if best is not None:
        if text == _rounded(best.mean(measure) or 0.0, measure):
            text = rf"\mathbf{{{text}}}"
        else:
            apart = difference(group, best, measure)
    # what is counted is the same for every seed
    if deviation is not None and not (deviation == 0 and BY_NAME[measure][2] < 2):
        text += rf" \pm {_rounded(deviation, measure)}"
    is_close = apart is not None and apart.low is not None and not apart.shows
    # set aside, so that digits stay below digits
    return f"${text}$" + (r"\rlap{$^{\dagger}$}" if is_close else "")


def _notes(groups: list[Group]) -> list[str]:
    """What a caption has to say."""
    seeds = sorted({len(g.outcomes) - g.diverged for g in groups if g.diverged < len(g.outcomes)})
    notes = []
    if seeds and seeds[-1] > 1:
        count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        notes.append(f"mean and standard deviation over {count} seeds")
    notes += [
        f"{g.label}: {g.diverged} of {len(g.outcomes)} runs diverged and are not counted".replace(
            "\n", " "
        )
        for g in groups
        if g.diverged
    ]
    return notes
