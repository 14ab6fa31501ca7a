"""Figures of curves: learning curves, consensus distance, accuracy over bytes, compression error."""

from fastsaddle.sim.report import curves
from fastsaddle.sim.report.curve_drawing import Drawn, draw
from fastsaddle.sim.report.drawing import Picture
from fastsaddle.sim.report.groups import RunGroup
from fastsaddle.sim.run.progress import percent

# bytes get a figure where some groups send this many times as many a step as others
FEWER_BYTES = 1.1


def draw_all(groups: list[RunGroup], tested_on: str) -> list[Picture]:
    """All figures of curves, in the page's order; those in which nothing varies are left out."""
    sent = "What each agent sent: its models, or what its compressor made of them"
    drawn = (
        Drawn(
            "learning-curves",
            "Accuracy",
            "consensus_accuracy",
            "consensus accuracy",
            f"Accuracy of the consensus model, the average of all agents, on the {tested_on} set. "
            + _ranking(groups),
            is_share=True,
        ),
        Drawn(
            "loss-curves",
            "Loss",
            "loss",
            f"{tested_on} loss",
            f"Mean cross entropy of the consensus model on the {tested_on} set.",
        ),
        Drawn(
            "training-loss",
            "Training loss",
            "train_loss",
            "training loss",
            "Mean over agents of the loss of their mini-batches since the evaluation before, each "
            "agent's own model on its own data.",
        ),
        Drawn(
            "consensus-distance",
            "Consensus distance",
            "consensus_distance",
            "consensus distance",
            "Root mean square over agents of the distance of their parameters to the average: 0 "
            "where all agree.",
        ),
        Drawn(
            "accuracy-over-bytes",
            "Accuracy for the bytes sent",
            "consensus_accuracy",
            "consensus accuracy",
            f"{sent}. Further left is the same accuracy for less communication.",
            x_label="megabytes sent by an agent",
            x_unit="MB",
            x=curves.over_bytes,
            is_share=True,
        ),
    )
    if all(run.rows[0]["step"] == run.step for g in groups for run in g.runs):
        return []
    left_out = set() if _differ_in_bytes(groups) else {"accuracy-over-bytes"}
    shown = [f for f in drawn if f.id not in left_out and _varies(groups, f.measure)]
    return [
        *(draw(figure, groups) for figure in shown),
        *_draw_faults(groups),
        *draw_compression_error(groups),
        *_draw_norms(groups),
    ]


def _draw_faults(groups: list[RunGroup]) -> list[Picture]:
    """Shares of what was down, of the kinds that failed at all."""
    said = "mean over the rounds since the evaluation before"
    drawn = (
        Drawn(
            "links-down",
            "Links down",
            "links_down",
            "share of the links",
            f"Share of the links that fell in a round, {said}.",
        ),
        Drawn(
            "agents-down",
            "Agents down",
            "agents_down",
            "share of the agents",
            f"Share of the agents that were down in a round, {said}.",
        ),
    )
    rows = [row for g in groups for run in g.runs for row in run.rows]
    fell = [figure for figure in drawn if any(row.get(figure.measure) for row in rows)]
    return [draw(figure, groups) for figure in fell]


def draw_compression_error(groups: list[RunGroup]) -> list[Picture]:
    """The error of what is sent; none where nothing was compressed."""
    figure = Drawn(
        "compression-error",
        "Compression error",
        "compression_error",
        "relative error norm",
        "Norm of what compression lost, relative to what was to be sent. Where no compressor is "
        "used it is zero by definition.",
    )
    rows = [row for g in groups for run in g.runs for row in run.rows]
    return [draw(figure, groups)] if any(row.get(figure.measure) for row in rows) else []


def _draw_norms(groups: list[RunGroup]) -> list[Picture]:
    """The two norms behind the compression error, where runs compressed (Choudhary et al. 2024, figure 2)."""
    drawn = (
        Drawn(
            "update-norm",
            "Norm of what was to be sent",
            "update_norm",
            "norm",
            "Root mean square over agents of the difference between an agent's model and its public copy, "
            "before compression, mean of the steps since the evaluation before.",
        ),
        Drawn(
            "error-norm",
            "Norm of what compression lost",
            "error_norm",
            "norm",
            "Root mean square over agents of the difference between what was to be sent and what was.",
        ),
    )
    return [draw(figure, groups) for figure in drawn if _varies(groups, figure.measure)]


def _varies(groups: list[RunGroup], measure: str) -> bool:
    """Whether a measure has two values anywhere; that of two agents that always agree has not."""
    values = {row.get(measure) for g in groups for run in g.runs for row in run.rows}
    return len(values - {None}) > 1


def _differ_in_bytes(groups: list[RunGroup]) -> bool:
    """Whether some groups send more than others: else accuracy goes over bytes as it goes over steps."""
    sent = [
        run.rows[-1]["bytes_sent"] / curves.megabytes_of(g) / run.step
        for g in groups
        for run in g.runs
        if run.step and run.rows[-1].get("bytes_sent")
    ]
    return bool(sent) and max(sent) > FEWER_BYTES * min(sent)


def _ranking(groups: list[RunGroup]) -> str:
    ends = [(g.summary.mean("accuracy"), g) for g in groups]
    ranked = sorted(((a, g) for a, g in ends if a is not None), key=lambda pair: -pair[0])
    if len(ranked) < 2:
        return "".join(f"At the end {percent(a)}." for a, _ in ranked)
    (best, first), (worst, last) = ranked[0], ranked[-1]
    return f"At the end highest for {first.label} ({percent(best)}), lowest for {last.label} ({percent(worst)})."
