"""`fastsaddle.kernels.<op>` is a call by position or by name, and says what it takes."""

import inspect
import re
from typing import Any

import pytest
import torch

import fastsaddle as fs
from fastsaddle.kernels.arguments import Flag, Number
from fastsaddle.kernels.op import Op, ops
from tests.kernels.test_ops import called, fresh

EVERY = pytest.mark.parametrize("op", ops().values(), ids=lambda op: op.name)


def example(op: Op, seed: int) -> dict[str, Any]:
    return next(iter(op.examples(3, 64, torch.Generator().manual_seed(seed)).values()))


@EVERY
def test_it_is_there(op: Op) -> None:
    assert getattr(fs.kernels, op.name) is op
    assert getattr(torch.ops.fastsaddle, op.name).default._schema == torch._C.parse_schema(
        f"fastsaddle::{op.schema}"
    )


@EVERY
@pytest.mark.parametrize("grad", [False, True])
def test_names_do_what_places_do(op: Op, grad: bool, seed: int) -> None:
    arguments = example(op, seed)
    by_place, by_name = fresh(arguments, "cpu"), fresh(arguments, "cpu")
    with torch.set_grad_enabled(grad):
        by_place = called(op, by_place)
        made = op(**dict(reversed(by_name.items())))
    by_name = by_name if made is None else {**by_name, "out": made}
    for name, value in by_place.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value.nan_to_num(), by_name[name].nan_to_num()), name


@EVERY
def test_it_says_what_it_takes(op: Op) -> None:
    doc = op.__doc__ or ""
    assert list(inspect.signature(op).parameters) == [a.name for a in op.arguments]
    for argument in op.arguments:
        assert f"\n    {argument.name}: {argument.kind.split()[0]}" in doc, argument.name
        assert argument.name in op.check.__code__.co_varnames
    for part in ("Args:", "Raises:", "Rounding: "):
        assert f"\n{part}" in doc, part
    assert re.search(r"\d{4}|Source: as of", doc) or op.name in WITHOUT_SOURCE, "its source"


# what is no published method: copies of gradients, halves of ops that have one
WITHOUT_SOURCE = ("collect_gradients", "norm_of_squares")


@EVERY
def test_wrong_calls_name_the_op(op: Op, seed: int) -> None:
    arguments = example(op, seed)
    with pytest.raises(TypeError, match=rf"{op.name}\(\) missing"):
        op()
    with pytest.raises(TypeError, match=rf"{op.name}\(\) got an unexpected keyword"):
        op(**arguments, another=1)


@EVERY
@pytest.mark.parametrize("grad", [False, True])
def test_arguments_of_other_types_are_named_and_nothing_is_written(
    op: Op, grad: bool, seed: int
) -> None:
    # whatever is given as a flag torch takes for true or false
    for argument in (a for a in op.arguments if not isinstance(a, Flag)):
        for wrong in (1.5, None, 2**64 + 1):
            arguments = fresh(example(op, seed), "cpu")
            before = fresh(arguments, "cpu")
            is_number = wrong is not None and isinstance(argument, Number)
            if is_number or (wrong is None and argument.optional):
                continue
            arguments[argument.name] = wrong
            with (
                torch.set_grad_enabled(grad),
                pytest.raises((TypeError, RuntimeError, ValueError)) as caught,
            ):
                op(**arguments)
            assert argument.name in str(caught.value)
            for name, value in before.items():
                if isinstance(value, torch.Tensor) and name != argument.name:
                    assert torch.equal(value.nan_to_num(), arguments[name].nan_to_num()), name


def test_zeros_without_memory_are_read_as_zeros_or_refused(seed: int) -> None:
    arguments = example(ops()["local_step"], seed)
    zero = torch._efficientzerotensor(())
    got, expected = {**fresh(arguments, "cpu"), "beta": zero}, fresh(arguments, "cpu")
    expected["beta"] = torch.zeros(())
    rows = torch._efficientzerotensor(arguments["x"].shape)
    with torch.no_grad():
        fs.kernels.local_step(**got)
        fs.kernels.local_step(**expected)
        with pytest.raises(ValueError, match="x needs adjacent columns"):
            fs.kernels.local_step(**{**arguments, "x": rows})
    assert torch.equal(got["h"], expected["h"])
