"""The scripts that newcomers copy run as they are, and learn."""

import logging
import runpy
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]
SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "loops").glob("*.py"))
# torchrun starts the others, in test_ranks.py
EXAMPLES = [path for path in SCRIPTS if not path.stem.startswith("ranks_")]
PACKAGES = {"accelerate", "fastsaddle", "lightning", "torch", "trainer", "transformers"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_and_learn(
    example: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    *_, last = capsys.readouterr().out.splitlines()
    assert float(last) < 0.3


def test_there_are_eight_and_none_hides_a_package() -> None:
    assert len(EXAMPLES) == 5 and len(SCRIPTS) == 8
    assert not PACKAGES & {path.stem for path in SCRIPTS}
