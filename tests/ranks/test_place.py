"""What `fs.place` refuses before it talks to anybody."""

from datetime import timedelta
from typing import Any

import pytest

import fastsaddle as fs
from fastsaddle.ranks.placement import duration_of


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"timeout": "5"},
            r"timeout must be positive, a timedelta or a number of seconds, got '5'",
        ),
        ({"timeout": 0}, "timeout must be positive"),
        ({"timeout": True}, "timeout must be positive"),
        ({"timeout": None}, "timeout must be positive"),
        ({"timeout": float("nan")}, "timeout must be positive"),
        ({"timeout": float("inf")}, "timeout must be positive"),
        ({"timeout": timedelta(seconds=-1)}, "timeout must be positive"),
        ({"agents": 4.0}, r"agents must be a whole number or None, got 4\.0"),
        ({"agents": "4"}, "agents must be a whole number"),
        ({"counts": 4}, "counts must be one whole number for each rank, or None, got 4"),
        ({"counts": "22"}, "counts must be one whole number for each rank"),
        ({"counts": (2, 2.0)}, "counts must be one whole number for each rank"),
        ({"process_group": "gloo"}, "process_group must be a torch.distributed.ProcessGroup"),
        ({"overlap": True}, 'overlap must be "off" or "auto", got True'),
    ],
)
def test_what_is_of_another_type_is_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fs.place(**wrong)


def test_seconds_are_as_good_as_a_timedelta() -> None:
    assert duration_of(5) == duration_of(timedelta(seconds=5)) == timedelta(seconds=5)
    assert duration_of(0.25) == timedelta(milliseconds=250)
    # what is right is not refused: there is nobody to talk to
    with pytest.raises(RuntimeError, match="init_process_group"):
        fs.place(4, timeout=5)
