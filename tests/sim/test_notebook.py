"""A notebook that trains, compares and looks at what came out runs from its first cell to its last."""

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

CELLS = (
    "import fastsaddle as fs\nfs.topology.torus(4, 4)",
    "run = fs.sim.train(algorithm='qsaddle', agents=8, steps=60, out='run')\nrun",
    "run.metrics.tail(2)",
    "run.plot()",
    "run.split",
    "comparison = fs.sim.compare(algorithm=['dsgd', 'qgm'], agents=4, steps=20, seed=0, out='compared')\ncomparison",
    "comparison.plot()",
    "sum(p.numel() for p in run.model().parameters())",
)


def outputs(cell: Any, kind: str) -> list[str]:
    found = [output.get("data", {}) for output in cell.outputs]
    return [data[kind] for data in found if kind in data]


def test_a_notebook_runs(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources=resources
    ).execute()
    # to be looked at: jupyter nbconvert --to html
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    graph, trained, metrics, curves, split, compared, picture, count = notebook.cells
    assert "<svg" in outputs(graph, "text/html")[0]
    bar, shown = outputs(trained, "text/html")
    assert 'value="60" max="60"' in bar and "consensus accuracy" in shown
    assert "60" in outputs(metrics, "text/html")[0]
    assert outputs(curves, "image/png") and outputs(picture, "image/png")
    assert "background" in outputs(split, "text/html")[0]
    assert "qgm" in outputs(compared, "text/html")[0]
    assert outputs(count, "text/plain") == ["3760"]
    texts = "".join(o.get("text", "") for cell in notebook.cells for o in cell.outputs)
    assert "Warning" not in texts and "2/2 " in texts
