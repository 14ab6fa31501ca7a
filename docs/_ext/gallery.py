"""The examples' order, the look of their figures, and alternative text for their thumbnails."""

import matplotlib.pyplot as plt
from docutils import nodes

ORDER = (
    "sam_drop_in",
    "lightning_and_accelerate",
    "hugging_face_trainer",
    "ring_of_16",
    "agents_1024",
    "bits_and_accuracy",
    "flatness",
    "own_method",
)


class Order:
    """A sort key that has every example; one that is not in `ORDER` is an error."""

    def __init__(self, folder):
        pass

    def __call__(self, filename):
        return ORDER.index(filename.removesuffix(".py"))


def style(conf, example):
    """Figures on white, which dark pages show as cards; letters that can be read at half the size."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 4),
            "figure.facecolor": "white",
            "font.size": 12,
            "axes.titlesize": 12,
            "figure.titlesize": 12,
            "legend.fontsize": 11,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 2,
        }
    )


def describe_thumbnails(app, doctree, docname):
    """A thumbnail's alternative text is the title of its example."""
    if docname != "gallery/index":
        return
    for image in doctree.findall(nodes.image):
        example = image["uri"].rpartition("sphx_glr_")[2].removesuffix("_thumb.png")
        image["alt"] = "A figure of: " + app.env.titles[f"gallery/{example}"].astext()


def setup(app):
    app.connect("doctree-resolved", describe_thumbnails)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
