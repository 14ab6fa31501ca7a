"""`fastsaddle reproduce`: a committed table is made anew from the same data, and told from one that is not."""

import csv
import json
from pathlib import Path

import pytest

from fastsaddle.cli import main
from fastsaddle.sim.reproduction import deviation, source
from fastsaddle.sim.reproduction.deviation import between

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_thread")
GRID = """
algorithm = ["dsgd", "qgm"]
seed = [0, 1]
agents = 4
steps = 6
batch_size = 4
eval_every = 6
"""


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(GRID)
    assert main(["compare", "small.toml", "--out", "first", "--jobs", "1"]) == 0
    (tmp_path / "small").mkdir()
    (tmp_path / "first" / "table.csv").rename(tmp_path / "small" / "table.csv")
    assert main(["reproduce", "small.toml", "--record"]) == 0
    return tmp_path / "small"


def test_a_table_is_made_anew(
    committed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["reproduce", "small.toml", "--jobs", "0"]) == 2
    assert "--jobs must be > 0, got 0" in capfd.readouterr().err
    stopped = ["reproduce", "small.toml", "--jobs", "1", "--minutes", "1e-4", "--out", "two words"]
    assert main(stopped) == 75
    said = capfd.readouterr().out
    assert "fastsaddle reproduce small.toml --jobs 1 --minutes 1e-4 --out 'two words'" in said
    assert main(["reproduce", "small.toml", "--jobs", "1"]) == 0
    said = capfd.readouterr().out
    assert (
        "3 digests" in said and "14 values, 14 of them equal to the last digit, all within" in said
    )
    # a table that somebody touched, of runs that are there already
    table = committed / "table.csv"
    rows = deviation.read(table)
    accuracy = float(rows[1]["accuracy"])
    for value, bytes_, status in (
        (accuracy + 0.002, 1, 0),
        (accuracy + 0.2, 1, 1),
        (accuracy, 1.01, 1),
    ):
        rows[1] |= {"accuracy": str(value), "accuracy_deviation": "0"}
        changed = [dict(row) for row in rows]
        changed[1]["bytes"] = str(float(rows[1]["bytes"]) * bytes_)
        with table.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(changed)
        assert main(["reproduce", "small.toml", "--jobs", "1"]) == status
        said = capfd.readouterr().out
        assert ("beyond their tolerance" in said) == (status == 1)
    assert "qgm" in said and "bytes" in said


def test_other_data_are_refused_before_anything_runs(
    committed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = committed / "hashes.json"
    kept = json.loads(path.read_text())
    assert [name.split(",")[0] for name in kept] == [
        *("data digits", "split dirichlet", "split dirichlet")
    ]
    path.write_text(json.dumps({**kept, next(iter(kept)): "0" * 64}))
    assert main(["reproduce", "small.toml"]) == 2
    said = capfd.readouterr().err
    assert "not what the table was made from: data digits" in said
    path.unlink()
    assert main(["reproduce", "small.toml"]) == 2
    assert "hashes.json is missing" in capfd.readouterr().err
    assert not Path("runs").exists()
    assert main(["reproduce", "nobody"]) == 2
    said = capfd.readouterr().err
    assert "NAME must be one of all_systems, changing_graphs" in said
    assert main(["reproduce", "none.toml"]) == 2


def test_rows_must_be_the_same() -> None:
    row = {"algorithm": "qgm", "runs": "2", "diverged": "0", "accuracy": "0.5"}
    assert [d.measure for d in between([row], [dict(row)], ("algorithm",))][-1] == "accuracy"
    with pytest.raises(ValueError, match="other rows"):
        between([row], [{**row, "algorithm": "dsgd"}], ("algorithm",))


def test_every_committed_table_has_digests() -> None:
    folder = ROOT / source.FOLDER
    tables = [p.parent for p in folder.glob("*/table.csv")]
    assert len(tables) == 7 and all((table / "hashes.json").is_file() for table in tables)
