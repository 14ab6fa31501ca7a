"""Files that the program reads, damaged at random: refused in one line that names them, or read as what they say."""

import contextlib
import gzip
import io
import json
import shutil
import signal
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from fastsaddle.sim.comparison import grid_source, results
from fastsaddle.sim.comparison.final_sharpness import SHARPNESS
from fastsaddle.sim.comparison.grid import Cell
from fastsaddle.sim.comparison.pool import DIVERGED
from fastsaddle.sim.config import TrainConfig
from fastsaddle.sim.data.datasets import _cifar, _idx, imagenette
from fastsaddle.sim.data.datasets.npz import npz
from fastsaddle.sim.report import curves, page, split_figures, surfaces
from fastsaddle.sim.report.groups import group
from fastsaddle.sim.report.runs import read, read_all
from fastsaddle.sim.run import checkpoint, job, topologies, trainer
from fastsaddle.sim.run.run_dir import RunDirectory
from tests.campaigns.campaign import Campaign, Counts, Draw
from tests.campaigns.forked import bound_memory

# outcomes: no result, no error of the program's own, or none in time is a fault
RIGHT, OTHER, REFUSED = "right", "read as it says", "refused"
DEEP, UNNAMED, HANG, WRONG = "raised in the depth", "not one line with its name", "hang", "wrong"
FAULTS = (DEEP, UNNAMED, HANG, WRONG)
SECONDS = 30
# files of an attempt
BLOCK = 400
VALUES = (
    *(None, True, -1, 0, 1, 0.5, 2**31, 2**63, 2**70, 10_000_000, "", "x", "16", "../x", "/etc"),
    *("$\\bad$", "\0", "\ud800", "a" * 3000, [], {}, [1], {"a": 1}, [[[]]], "nan", float("nan")),
    *(float("inf"), -(10**400)),
)
TOML = """algorithm = ["dsgd", "qsaddle"]
seed = [0, 1]
lr = 0.1
[tune]
weight_decay = [0.0, 0.1]
[tuning]
steps = 7
[[override]]
when = { algorithm = "dsgd" }
lr = [0.2, 0.3]
"""
YAML = """algorithm: [dsgd, qsaddle]
seed: [0, 1]
momentum: [null, 0.5]
tune: {weight_decay: [0.0, 0.1]}
override:
  - when: {algorithm: dsgd}
    lr: [0.2, 0.3]
"""


class Kind(NamedTuple):
    """A file, and what reads it. `is_exact`: only what was written counts as a result."""

    path: Path
    read: Callable[[], Any]
    is_exact: bool = False


def run(seed: int, count: int) -> Counter[str]:
    """Damage `count` files; how often each kind came to each outcome, as `kind: outcome`, and examples of faults."""
    torch.set_num_threads(1)
    random = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(io.StringIO()):
            kinds = _kinds(Path(folder))
        whole = {name: (kind.path.read_bytes(), _form(kind.read())) for name, kind in kinds.items()}
        for number in range(count):
            name = list(kinds)[number % len(kinds)]
            content, right = whole[name]
            damaged = damage(content, random)
            found[f"{name}: {_outcome(kinds[name], damaged, content, right)}"] += 1
            kinds[name].path.write_bytes(content)
    return found


def faults(found: Counter[str]) -> int:
    """How many of the outcomes are faults."""
    return sum(n for name, n in found.items() if name.partition(": ")[2].startswith(FAULTS))


def damage(content: bytes, random: np.random.Generator) -> bytes:
    """The content with one to three random changes; those of JSON are changes of values too."""
    for _ in range(random.integers(1, 4)):
        content = CHANGES[random.integers(len(CHANGES))](content, random)
    return content


def _flip(content: bytes, random: np.random.Generator) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[random.integers(len(content))] ^= 1 << random.integers(8)
    return bytes(changed)


def _cut(content: bytes, random: np.random.Generator) -> bytes:
    return content[: random.integers(len(content) + 1)]


def _slice(content: bytes, random: np.random.Generator) -> bytes:
    """A piece left out, written twice, filled with zeros, or replaced by random bytes."""
    begin = random.integers(len(content) + 1)
    end = min(len(content), begin + random.integers(1, 40))
    piece = content[begin:end]
    new = (b"", 2 * piece, bytes(len(piece)), random.bytes(len(piece)))[random.integers(4)]
    return content[:begin] + new + content[end:]


def _digit(content: bytes, random: np.random.Generator) -> bytes:
    """Another digit, sign or bracket in a text; in a header it claims another size."""
    places = [i for i, byte in enumerate(content[:4000]) if byte in b"0123456789-.[]{},:\"'"]
    if not places:
        return content
    place = places[random.integers(len(places))]
    new = b"0123456789-.e[]{},:\"'\n"[random.integers(22) :][:1]
    return content[:place] + new + content[place + 1 :]


def _value(content: bytes, random: np.random.Generator) -> bytes:
    """JSON with another value, a key less or a key more; of lines one."""
    lines = content.split(b"\n")
    number = random.integers(len(lines)) if content.count(b"\n{") else 0
    text = lines[number] if content.count(b"\n{") else content
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return content
    places = list(_places(whole))
    if not places:
        return content
    holder, key = places[random.integers(len(places))]
    kind = random.integers(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}_"] = holder[key]
    else:
        holder[key] = VALUES[random.integers(len(VALUES))]
    new = json.dumps(whole).encode()
    return b"\n".join([*lines[:number], new, *lines[number + 1 :]]) if text != content else new


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Holder and key of every value inside."""
    if isinstance(value, (dict, list)):
        for key, one in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(one)


CHANGES = (_flip, _cut, _slice, _digit, _value, _value)


def _outcome(kind: Kind, damaged: bytes, content: bytes, right: str) -> str:
    kind.path.write_bytes(damaged)
    try:
        with _in_time():
            form = _form(kind.read())
    except _Late:
        return HANG
    except (ValueError, OSError) as error:
        said = str(error)
        # a comparison without runs that have begun is told by its folder
        is_told = "\n" not in said and (kind.path.name in said or f"{kind.path.parent}" in said)
        return REFUSED if is_told else f"{UNNAMED} ({said[:300]!r})"
    except Exception as error:
        return f"{DEEP} ({type(error).__name__}: {str(error)[:300]!r})"
    if form == right:
        return RIGHT
    return WRONG if kind.is_exact else OTHER


class _Late(BaseException):
    pass


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _form(value: Any) -> str:
    """A text that is equal for equal results."""
    if isinstance(value, dict):
        return str({name: _form(one) for name, one in value.items()})
    if isinstance(value, (list, tuple)):
        return str([_form(one) for one in value])
    if isinstance(value, torch.Tensor):
        return _form(value.float().numpy())
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tobytes().hex()}"
    return str(value)


def _kinds(folder: Path) -> dict[str, Kind]:
    config = TrainConfig(
        model="mlp:2", agents=4, steps=4, eval_every=2, batch_size=4, threads=1, device="cpu",
        engine="loop", out=folder / "run", momentum=0.9,
    )  # fmt: skip
    made = job.start(config)
    trainer.run(made, [], lambda: False)
    made.directory.close()
    path = folder / "run"
    for name in (job.CLASSES, job.CURVES):
        (path / name).touch()
    (path / DIVERGED).write_text(json.dumps({"step": 3, "message": "agent 2"}))
    (path / SHARPNESS).write_text(json.dumps({"sam_sharpness": 0.1, "samples": 5}))
    comparison = _comparison(folder, path)
    random = np.random.default_rng(0)
    return {
        **_run_files(path, made),
        "compare.json": Kind(comparison / "compare.json", lambda: read_all([comparison])),
        "comparison.png": Kind(
            comparison / "comparison.png", lambda: page._plots(read_all([comparison])[1], [])
        ),
        **_grids(folder),
        **_data(folder, random),
    }


def _run_files(path: Path, made: job.Job) -> dict[str, Kind]:
    def opened() -> Any:
        directory = RunDirectory(path)
        try:
            return directory.options, directory.rows, job.is_finished(directory)
        finally:
            directory.close()

    def reported() -> Any:
        found = read(path)
        drawn = [curves.over_steps(g, "loss") for g in group([found], set())]
        return found, drawn, results.read(Cell(found.config), path)

    def split() -> Any:
        found = read(path)
        return found.partition, len(split_figures.draw([found]).panels)

    def restored() -> Any:
        tensors, step, counters = checkpoint.load(path / "checkpoint-4.safetensors")
        try:
            made.simulation.restore(tensors, counters)
        except ValueError as error:
            raise ValueError(f"checkpoint-4.safetensors: {error}") from error
        return made.simulation.tensors(), step, made.simulation.counters()

    kept = path / "surface-0123456789abcdef.npz"
    np.savez(kept, loss=np.random.default_rng(1).normal(size=(3, 3)))
    return {
        "config.json": Kind(path / "config.json", opened),
        "config.json of a report": Kind(path / "config.json", reported),
        "metrics.jsonl": Kind(path / "metrics.jsonl", opened),
        "metrics.jsonl of a report": Kind(path / "metrics.jsonl", reported),
        "partition.json": Kind(path / "partition.json", split),
        "diverged.json": Kind(path / DIVERGED, reported),
        "sharpness.json": Kind(path / SHARPNESS, lambda: read(path).sharpness),
        "checkpoint": Kind(path / "checkpoint-4.safetensors", restored, is_exact=True),
        "surface": Kind(kept, lambda: surfaces._load(kept, 3)),
    }


def _comparison(folder: Path, run: Path) -> Path:
    comparison = folder / "comparison"
    shutil.copytree(run, comparison / "cells" / "a")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(comparison / "comparison.png")
    chosen = {"when": {"algorithm": "qgm"}, "values": {"lr": 0.1}, "accuracy": 0.9, "edges": ["lr"]}
    content = {
        "varied": ["lr"],
        "cells": [{"directory": "cells/a", "options": {"lr": 0.1}}],
        "tuning": [{"directory": "cells/t", "options": {}}],
        "chosen": [chosen],
    }
    (comparison / "compare.json").write_text(json.dumps(content))
    return comparison


def _grids(folder: Path) -> dict[str, Kind]:
    def built(path: Path) -> Callable[[], Any]:
        def build() -> Any:
            # what a run's own check says names the option, which is enough where all of them are the file's
            try:
                grid = grid_source.build(path, [])
            except (ValueError, OSError) as error:
                raise ValueError(f"{path.name}: {error}") from error
            return [c.name for c in (*grid.cells(), *grid.tuning_cells())]

        return build

    kinds = {}
    for name, text in (("grid.toml", TOML), ("grid.yaml", YAML)):
        (folder / name).write_text(text)
        kinds[name] = Kind(folder / name, built(folder / name))
    return kinds


def _data(folder: Path, random: np.random.Generator) -> dict[str, Kind]:
    images = random.integers(0, 256, (5, 4, 4), dtype=np.uint8)
    header = bytes((0, 0, 8, 3)) + np.array(images.shape, ">i4").tobytes()
    idx, cifar = folder / "images.gz", folder / "data.bin"
    idx.write_bytes(gzip.compress(header + images.tobytes()))
    records = random.integers(0, 10, (4, 1 + _cifar.PIXELS), dtype=np.uint8)
    records.tofile(cifar)
    y = np.arange(12) % 2
    arrays = {"x": random.normal(size=(12, 3)).astype(np.float32), "y": y}
    stored, packed, matrix = folder / "stored.npz", folder / "packed.npz", folder / "matrix.npy"
    np.savez(stored, **arrays)
    np.savez_compressed(packed, **arrays)
    np.save(matrix, np.full((3, 3), 1 / 3))
    edges, photograph = folder / "edges.txt", folder / "a.jpeg"
    edges.write_text("0 1\n1 2\n2 3\n")
    Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(photograph)
    return {
        "idx.gz": Kind(idx, lambda: _idx.read_idx(idx, images.shape), is_exact=True),
        "cifar": Kind(cifar, lambda: _cifar.read_records(cifar, 4, 1, 10)),
        "npz": Kind(stored, lambda: _samples(npz(stored))),
        "packed npz": Kind(packed, lambda: _samples(npz(packed))),
        "matrix.npy": Kind(matrix, lambda: topologies.find(str(matrix), 3, 0).W),
        "edges.txt": Kind(edges, lambda: topologies.find(str(edges), 4, 0).W),
        "jpeg": Kind(photograph, lambda: imagenette._decode(photograph, 8)),
    }


def _samples(dataset: Any) -> Any:
    return dataset.train_inputs, dataset.train_labels, dataset.test_inputs, dataset.test_labels


def attempt(draw: Draw, place: Path, prepared: Any) -> Counts:
    """Some hundred damaged files, of all kinds in turn."""
    bound_memory()
    counts, seed = Counts(tried=BLOCK), draw.randrange(2**32)
    for name, number in run(seed, BLOCK).items():
        outcome = name.partition(": ")[2]
        found = [f"{name}, damaged by seed {seed}"] * number
        if outcome.startswith(DEEP):
            counts.tracebacks += found
        elif outcome.startswith(HANG):
            counts.hangs += found
        elif outcome.startswith(FAULTS):
            counts.losses += found
        else:
            counts.ended[outcome] += number
    return counts


campaign = Campaign("files", 10_000, attempt, lambda place: None)
