"""Temperature: one number that makes a decoder's probabilities flatter or sharper."""

import numpy as np
from scipy.special import softmax

from emodecode.errors import InputError

EPS = float(np.finfo(np.float64).eps)
"""What a probability of 0 counts as, at most."""


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    r"""Make probabilities flatter (T > 1) or sharper (T < 1).

    .. math:: q_i = p_i^{1/T} / \sum_j p_j^{1/T}

    The order of the classes stays, so the predicted class does too; 1/T undoes T. A probability
    of 0 counts as the resolution of float64 (or as the smallest other probability of its sample,
    if that is smaller), so that it is no certainty for ever.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes)
    temperature : float
        Above 0.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), float64
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(
            "temperature",
            found=repr(temperature),
            expected="a number above 0",
            remedy="Use what fit_temperature returns.",
        )
    return softmax(logs_of(np.asarray(probabilities, dtype=float)) / temperature, axis=1)


def logs_of(given: np.ndarray) -> np.ndarray:
    """Return logarithms; a 0 takes the smallest other value of its row, but at most `EPS`."""
    zero = given <= 0
    if not zero.any():
        return np.log(given)
    smallest = np.where(zero, EPS, given).min(axis=1, keepdims=True)
    return np.log(np.where(zero, np.minimum(smallest, EPS), given))
