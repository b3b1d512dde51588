"""What stereo matching needs around the filter: a cost for every pixel and disparity, and how wrong a result is."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]

DISPARITIES = 72  # the demo's pair has true ones from 7 to 60
_COLOUR_LIMIT, _GRADIENT_LIMIT = 7 / 255, 2 / 255
_COLOUR_SHARE = 0.11


def _gradient(photo: Array) -> Array:
    """Horizontal central difference of the brightness; at the two border columns, which lack a neighbour, 0."""
    grey: Array = photo @ np.array([0.299, 0.587, 0.114], photo.dtype)
    gradient: Array = np.zeros_like(grey)
    gradient[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    return gradient


def matching_cost(left: Array, right: Array, disparities: int = DISPARITIES) -> Array:
    """How badly pixels match: 0.11 min(mean |dRGB|, 7/255) + 0.89 min(|dG|, 2/255).

    Parameters
    ----------
    left, right : ndarray of float, (H, W, 3)
        Rectified photos with values between 0 and 1.
    disparities : int
        Pixel x of the left photo is compared with x - d of the right, for d in 0 .. disparities - 1.

    Returns
    -------
    ndarray of float, (disparities, H, W)
        For x < d, where nothing is to compare, each row's first valid cost.
    """
    height, width, _ = left.shape
    cost = np.empty((disparities, height, width), left.dtype)
    left_gradient, right_gradient = _gradient(left), _gradient(right)
    for d in range(disparities):
        colour = np.abs(left[:, d:] - right[:, : width - d]).mean(axis=2)
        gradient = np.abs(left_gradient[:, d:] - right_gradient[:, : width - d])
        cost[d, :, d:] = _COLOUR_SHARE * np.minimum(colour, _COLOUR_LIMIT)
        cost[d, :, d:] += (1 - _COLOUR_SHARE) * np.minimum(gradient, _GRADIENT_LIMIT)
        cost[d, :, :d] = cost[d, :, d : d + 1]
    return cost


def smooth_guide(photo: Array) -> Array:
    """The 3x3 median of every channel of a photo (H, W, C)."""
    return np.asarray(ndimage.median_filter(photo, size=(3, 3, 1)))


def known(truth: Array) -> Array:
    """Where the true disparity is finite and above 0."""
    return np.asarray(np.isfinite(truth) & (truth > 0))


def errors(disparity: Array, truth: Array) -> Array:
    """Absolute errors at the pixels of known truth."""
    where = known(truth)
    return np.asarray(np.abs(disparity[where] - truth[where]))


def percent_wrong(disparity: Array, truth: Array, tolerance: float) -> float:
    """Percentage of the pixels of known truth that are wrong by more than `tolerance`."""
    return float(100 * (errors(disparity, truth) > tolerance).mean())
