"""What a network asks of its samples."""


def image_shape(
    network: str, shape: tuple[int, ...], smallest: int, instead: str = "mlp"
) -> tuple[int, int, int]:
    """`shape` as (channels, height, width).

    Raises ValueError, which tells to use the network `instead`, for images of fewer than `smallest` rows or columns,
    and for anything but images.
    """
    if len(shape) != 3:
        raise ValueError(
            f"{network} needs images (channels, height, width), got samples of shape {shape}: "
            "use transformer for tokens, mlp for other numbers"
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise ValueError(
            f"{network} needs images of at least {smallest}x{smallest}, got {height}x{width}: "
            f"use {instead}"
        )
    return channels, height, width
