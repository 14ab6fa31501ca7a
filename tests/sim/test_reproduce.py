"""`fastsaddle reproduce`: a committed table is made anew from the same data, and told from one that is not."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from fastsaddle.cli import main
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.reproduction import deviation, hashes, source
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no rows"),
        ("algorithm,runs,diverged,accuracy\n", "it has no rows"),
        ("algorithm,diverged,accuracy\nqgm,0,0.5\n", "line 2: there is no runs"),
        ("algorithm,runs,diverged\nqgm,1,0\n", "line 2: there is no accuracy"),
        ("algorithm,runs,diverged,accuracy\nqgm,1\n", "line 2: there is no diverged"),
        ("algorithm,runs,diverged,accuracy\nqgm,1,0,high\n", "accuracy must be a number, got 'h"),
        ("algorithm,runs,diverged,accuracy\nqgm,1,0,nan\n", "accuracy must be a number, got 'nan"),
        ("\ud8ff", "is no table"),
    ],
)
def test_a_damaged_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match=message):
        deviation.read(path)


def test_the_command_that_goes_on_is_whole(
    committed: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["reproduce", "small.toml", "--out", "other", "--jobs", "1", "--minutes", "0.0001"]
    assert main(words) == 75
    assert capfd.readouterr().out.endswith(f"fastsaddle {' '.join(words)}\n")


def test_splits_of_each_data_set_are_told_apart(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x=x, y=np.arange(200) % 4)
    digits = TrainConfig(agents=2)
    mine = TrainConfig(agents=2, dataset="npz", data_dir=tmp_path)
    alone, both = hashes.found([digits]), hashes.found([digits, mine])
    assert len(alone) == 2 and len(both) == 4
    split = next(name for name in alone if name.startswith("split"))
    assert both[f"{split}, of digits"] == alone[split] != both[f"{split}, of npz"]


def test_rows_must_be_the_same() -> None:
    row = {"algorithm": "qgm", "runs": "2", "diverged": "0", "accuracy": "0.5"}
    assert [d.measure for d in between([row], [dict(row)], ("algorithm",))][-1] == "accuracy"
    with pytest.raises(ValueError, match="other rows"):
        between([row], [{**row, "algorithm": "dsgd"}], ("algorithm",))


def test_every_committed_table_has_digests() -> None:
    folder = ROOT / source.FOLDER
    tables = [p.parent for p in folder.glob("*/table.csv")]
    assert len(tables) == 7 and all((table / "hashes.json").is_file() for table in tables)
