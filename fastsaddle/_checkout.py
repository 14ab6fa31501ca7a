"""Finds the ops where the link `fastsaddle/kernels` was lost.

Archives make it a text file or an empty folder. Does nothing in an installed package, nor in a
checkout whose link is whole.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

PACKAGE = Path(__file__).parent

if not (PACKAGE / "kernels" / "op.py").exists():
    spec = ModuleSpec("fastsaddle.kernels", None, is_package=True)
    spec.submodule_search_locations = [str(PACKAGE.parent / "kernels")]
    sys.modules[spec.name] = module_from_spec(spec)
    # an import sets this attribute only on the module that it loads itself
    sys.modules["fastsaddle"].kernels = sys.modules[spec.name]  # type: ignore[attr-defined]
