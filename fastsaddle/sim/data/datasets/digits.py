"""Handwritten digits of 8x8 pixels that come with scikit-learn."""

import torch

from fastsaddle.sim.data.dataset import Dataset, every_kth


def digits(device: torch.device | str = "cpu") -> Dataset:
    """1,797 images of 1x8x8 in 10 classes; every fifth image of each class is kept for the test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    scaled = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16).float()
    images = ((scaled - 0.3054) / 0.3763).to(device)
    targets = torch.from_numpy(labels).to(device, torch.int64)
    test = torch.from_numpy(every_kth(labels, 5)).to(device)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train_inputs=images[~test],
        train_labels=targets[~test],
        test_inputs=images[test],
        test_labels=targets[test],
        # the darkest pixel is black
        fill=images.amin((0, 2, 3)),
    )
