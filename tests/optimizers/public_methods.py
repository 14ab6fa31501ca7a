"""Every public optimizer, by name."""

import inspect
from typing import Any

import fastsaddle as fs

METHODS: dict[str, type[Any]] = {
    name: method
    for name in fs.__all__
    if inspect.isclass(method := getattr(fs, name))
    and issubclass(method, fs.Optimizer)
    and method is not fs.Optimizer
}
