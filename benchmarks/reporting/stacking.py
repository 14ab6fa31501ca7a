"""The stacking tax: what gradients of all agents cost, over those of one model on all their samples."""

from benchmarks.reporting.markdown import paragraphs, table
from benchmarks.reporting.rows import Info, engine


def tax_tables(infos: list[Info]) -> str:
    """A table for each number of agents; nothing where no tax was measured."""
    taxed = [info for info in infos if "stacking_tax" in info]
    return paragraphs(
        *(
            tax_table(agents, [info for info in taxed if info["agents"] == agents])
            for agents in sorted({info["agents"] for info in taxed})
        )
    )


def tax_table(agents: int, infos: list[Info]) -> str:
    words = f"Gradients of {agents} agents, batch 32, against one model on the concatenated batch:"
    head = ("network", "engine", "stacking tax", "time of a plain loop over modules")
    cells = [
        (
            info["network"],
            engine(info),
            f"{info['stacking_tax']:.2f}",
            f"{info['of_plain_loop']:.2f} x",
        )
        for info in sorted(infos, key=lambda info: (info["network"], info["asked"]))
    ]
    return paragraphs(words, table(head, "llrr", cells))
