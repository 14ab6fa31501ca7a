"""Rows as a table: a DataFrame where pandas is installed."""

from importlib.util import find_spec
from typing import Any


def table(rows: list[dict[str, Any]], index: str | None = None) -> Any:
    """Rows as a pandas DataFrame, with one column as its index; the rows themselves without pandas."""
    if find_spec("pandas") is None:
        return rows
    import pandas

    frame = pandas.DataFrame(rows)
    return frame if index is None or frame.empty else frame.set_index(index)
