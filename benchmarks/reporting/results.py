"""The committed files that all figures come from; what was not measured has none."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.reporting.curated import read

BENCHMARKS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Results:
    """Files below one folder.

    Attributes:
        folder: holds cpu.json, graphs.json, gpu_<device>.json, peers.json, growth.json, ranks.json,
            campaigns.json and model.json.
        comparisons: holds a folder with a table.csv for each grid of `fastsaddle compare`.
    """

    folder: Path = BENCHMARKS / "results"
    comparisons: Path = BENCHMARKS / "reproduction"

    @cached_property
    def cpu(self) -> dict[str, Any] | None:
        """What `pytest benchmarks/` measured on a CPU."""
        path = self.folder / "cpu.json"
        return read([path]) if path.exists() else None

    @cached_property
    def graphs(self) -> dict[str, Any] | None:
        """What benchmarks/steps/test_changing_graphs.py measured on a CPU."""
        path = self.folder / "graphs.json"
        return read([path]) if path.exists() else None

    @cached_property
    def gpus(self) -> list[dict[str, Any]]:
        """What benchmarks/on_gpu.sh measured, by the files' names."""
        return [read([path]) for path in sorted(self.folder.glob("gpu_*.json"))]

    @cached_property
    def peers(self) -> dict[str, Any] | None:
        return self._json("peers")

    @cached_property
    def growth(self) -> dict[str, Any] | None:
        return self._json("growth")

    @cached_property
    def ranks(self) -> dict[str, Any] | None:
        return self._json("ranks")

    @cached_property
    def model(self) -> list[dict[str, Any]]:
        """What benchmarks/model.py estimated, a row a launch."""
        return self._json("model") or []

    @cached_property
    def campaigns(self) -> list[dict[str, Any]]:
        """What `python -m tests.campaigns` counted, a row a campaign."""
        return self._json("campaigns") or []

    def comparison(self, name: str) -> list[dict[str, str]]:
        """Rows of a grid's table; none where it was not run."""
        path = self.comparisons / name / "table.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _json(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None
