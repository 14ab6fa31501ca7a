"""What training loops of other libraries need; each is imported only where it is asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastsaddle.integrations.trainer import MomentumSAMCallback

__all__ = ["MomentumSAMCallback"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fastsaddle.integrations import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
