"""Every public name is on one page of docs/api, its docstring is complete, and its examples run."""

import ast
import doctest
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import fastsaddle as fs

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example):\n((?:    .*\n|\n)*)", re.M)
ENTRY = re.compile(r"^    ([\w*]+(?:, [\w*]+)*):", re.M)
# what shows where a method of the field comes from: arXiv:1234.56789 or a year
SOURCE = re.compile(r"arXiv:\d{4}\.\d{4,5}|\b(?:19|20)\d\d\b")


def _extension(name: str) -> ModuleType:
    spec = spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = _extension("public_names")
PUBLIC: dict[str, Any] = NAMES.documented()
CLASSES = {name: obj for name, obj in PUBLIC.items() if inspect.isclass(obj)}


def listed(page: Path) -> list[str]:
    """The names that a page documents."""
    return re.findall(r"^(?:   |\.\. py:data:: )(fastsaddle\.[\w.]+)$", page.read_text(), re.M)


def plain(member: Any) -> Any:
    """The function that a method, a class method or a property is made of; None where there is none."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, cached_property):
        return member.func
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def is_property(member: Any) -> bool:
    return isinstance(member, property | cached_property)


def bases(cls: type) -> list[type]:
    """Classes whose documentation holds for members that `cls` overrides."""
    contracts = [fs.ranks.Transport] if cls.__name__.endswith("Transport") else []
    ours = [base for base in cls.__mro__[1:] if base.__module__.startswith("fastsaddle")]
    return [*ours, *contracts, torch.optim.Optimizer]


def own_members(cls: type) -> dict[str, Any]:
    """Functions and properties that a class documents, or should: no documentation of a base stands for them."""
    found = {}
    for name, member in vars(cls).items():
        function = plain(member)
        if function is None or (name.startswith("_") and name != "__call__"):
            continue
        described = any(name in named(base, "Attributes") for base in (cls, *bases(cls)))
        stands = described or any(name in vars(base) for base in bases(cls))
        if function.__doc__ or not stands:
            found[name] = member
    return found


def sections(doc: str) -> dict[str, str]:
    return dict(SECTION.findall(inspect.cleandoc(doc) + "\n"))


def named(obj: Any, section: str) -> set[str]:
    """What a section of a docstring describes."""
    entries = ENTRY.findall(sections(obj.__doc__ or "").get(section, ""))
    return {name.strip("*") for names in entries for name in names.split(", ")}


def parameters(function: Callable[..., Any]) -> set[str]:
    return {name for name in inspect.signature(function).parameters if name not in ("self", "cls")}


def raised(function: Any) -> set[str]:
    """Errors that a function raises itself, and by a check that it calls."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            if called.rpartition(".")[2].startswith(("check_", "refuse_other")):
                found.add("ValueError")
    # what an abstract method says to whoever has not written it is nothing that callers meet
    return found - {"NotImplementedError"}


def undescribed(function: Any, kind: str) -> Iterator[str]:
    """What a docstring leaves out of what a function takes, raises and returns."""
    doc = function.__doc__
    if not doc or not doc.strip():
        yield "no docstring"
        return
    told = sections(doc)
    if missing := sorted(parameters(function) - named(function, "Args")):
        yield f"Args without {', '.join(missing)}"
    if kind != "property":
        for error in sorted(raised(function)):
            if error not in told.get("Raises", ""):
                yield f"Raises without {error}"
    if kind == "function":
        returned = str(inspect.signature(function).return_annotation)
        if re.match(r"'?tuple\[", returned) and "Returns" not in told:
            yield "a tuple without Returns"


def problems(name: str, obj: Any) -> Iterator[str]:
    """What the docstrings of a public name and of its members leave out."""
    if inspect.isfunction(obj):
        yield from (f"{name}: {what}" for what in undescribed(obj, "function"))
    if not inspect.isclass(obj):
        return
    if not vars(obj).get("__doc__"):
        yield f"{name}: no docstring"
        return
    made = vars(obj).get("__post_init__") or vars(obj).get("__init__")
    if inspect.isfunction(made) and made.__module__.startswith("fastsaddle"):
        known = named(obj, "Args") | named(obj, "Attributes")
        if missing := sorted(parameters(obj.__init__) - known):
            yield f"{name}: Args without {', '.join(missing)}"
        told = sections(obj.__doc__ or "").get("Raises", "")
        yield from (f"{name}: Raises without {e}" for e in sorted(raised(made)) if e not in told)
    for member, value in own_members(obj).items():
        kind = "property" if is_property(value) else "function"
        found = undescribed(plain(value), kind)
        yield from (f"{name}.{member}: {what}" for what in found)


def examples() -> dict[str, doctest.DocTest]:
    """The examples of every public name and of its members, each with nothing but what it imports itself."""
    parser = doctest.DocTestParser()
    found = {}
    for name, obj in PUBLIC.items():
        if not callable(obj):
            continue
        members = own_members(obj) if inspect.isclass(obj) else {}
        docs = {name: obj.__doc__} | {f"{name}.{m}": plain(v).__doc__ for m, v in members.items()}
        for path, doc in docs.items():
            test = parser.get_doctest(inspect.cleandoc(doc or ""), {}, path, path, 0)
            if test.examples:
                found[path] = test
    return found


EXAMPLES = examples()
# what an example of these would show is in that of another name
WITHOUT_EXAMPLE = {
    "Tracked",
    *("Exchange", "Flag", "Found", "GraphNeeds", "Lists", "LocalStep", "MeanValley", "Pair"),
    *("Payload", "PeerError", "Pending", "ROUND", "Round", "Rows", "Trace", "Transport"),
    *(
        "MomentumSAMCallback",
        "TransportError",
        "Comparison",
        "compare",
        "load",
        "Observer",
        "StoppedError",
    ),
    # of files
    *("cifar10", "cifar100", "fashion_mnist", "imagenette", "mnist", "npz"),
}


def test_every_public_name_is_on_one_page_and_nothing_else_is() -> None:
    found = [name for page in PAGES for name in listed(page)]
    assert sorted(found) == sorted(PUBLIC)


def test_every_op_has_a_section_of_its_own() -> None:
    heads = re.findall(r"^##+ (\w+)$", (ROOT / "docs" / "ops.md").read_text(), re.M)
    assert sorted({*heads} - {"Overview"}) == fs.kernels.__all__
    assert len({*heads}) == len(heads)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "api" / "index.md").read_text()
    tree = index.partition("{toctree}")[2]
    listed_pages = re.findall(r"^(\w+)$", tree, re.M)
    assert sorted(listed_pages) == sorted(page.stem for page in PAGES if page.stem != "index")


def test_what_is_imported_by_a_star_exists() -> None:
    for path, obj in NAMES.spellings().items():
        assert obj is not None, path
    for name in fs.__all__:
        assert hasattr(fs, name), name
    assert all(hasattr(fs.kernels, name) for name in fs.kernels.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_complete(name: str) -> None:
    assert not [*problems(name, PUBLIC[name])]


@pytest.mark.parametrize("name", PUBLIC)
def test_code_ends_on_its_line(name: str) -> None:
    """The site takes backticks line by line."""
    obj = PUBLIC[name]
    members = own_members(obj).values() if inspect.isclass(obj) else ()
    for doc in (obj.__doc__, *(plain(member).__doc__ for member in members)):
        assert not [line for line in (doc or "").splitlines() if line.count("`") % 2]


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_said_of_a_property_is_no_type(name: str) -> None:
    """Napoleon takes what stands before a colon for one."""
    for member, value in own_members(CLASSES[name]).items():
        if is_property(value):
            assert ": " not in (plain(value).__doc__ or "").split("\n\n")[0], member


def of_the_field() -> Iterator[str]:
    """Methods that somebody published: optimizers, what they are made of, compressors and graphs that change."""
    contracts = ("Optimizer", "Rule", "Gradient", "Plain", "Compressor", "Identity", "Torch")
    kinds = fs.Optimizer, fs.rules.Rule, fs.gradients.Gradient, fs.compressors.Compressor
    ascents = ("LookSAM", "MomentumSAM", "ESAM")
    plans = ("Gossip", "PushPull", "Average", "Elastic", "Choco", "QSR")
    for name, obj in CLASSES.items():
        short = name.rpartition(".")[2]
        if (issubclass(obj, kinds) and short not in contracts) or short in (*ascents, *plans):
            yield name
    graphs = ("base_graph", "equi_dyn", "matchings", "matcha", "one_peer_exponential")
    more = ("exponential", "directed_exponential", "social_network", "erdos_renyi")
    yield from (f"fastsaddle.topology.{graph}" for graph in (*graphs, *more))
    measures = ("sam_sharpness", "trace", "top_eigenvalue", "loss_surface", "mean_valley")
    yield from (f"fastsaddle.sharpness.{measure}" for measure in measures)


@pytest.mark.parametrize("name", list(of_the_field()))
def test_methods_of_the_field_name_their_source(name: str) -> None:
    assert SOURCE.search(PUBLIC[name].__doc__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_an_example(name: str) -> None:
    assert (name in EXAMPLES) == (name.rpartition(".")[2] not in WITHOUT_EXAMPLE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run_as_printed(
    name: str, one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(EXAMPLES[name], out=said.append)
    assert not runner.failures, "".join(said)


def test_a_gap_in_a_docstring_is_found() -> None:
    def told(n: int, p: float) -> tuple[int, float]:
        """A pair.

        Args:
            n: a number.
        """
        if n < 0:
            raise ValueError(n)
        return n, p

    gaps = ["Args without p", "Raises without ValueError", "a tuple without Returns"]
    assert [*undescribed(told, "function")] == gaps
