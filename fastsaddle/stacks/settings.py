"""Settings that torch keeps once a process, changed by any number of threads at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class WhileAny:
    """Holds a context open from the first thread that enters until the last that leaves.

    A thread that restored what it had found would restore what another thread had set.
    """

    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0
        self._held = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._held.enter_context(self._context())
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._held.close()


@contextmanager
def _fast_path_off() -> Iterator[None]:
    was_on = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_on)


# attention layers in evaluation are not fused, as torch.vmap and derivatives have to do without
without_fast_path = WhileAny(_fast_path_off)

# attention is computed by products, which have second derivatives
attention_by_products = WhileAny(lambda: sdpa_kernel(SDPBackend.MATH))
