"""What linear decoders used: weight maps, and never without their patterns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from emodecode.models.linear import linear_weights
from emodecode.samples import Samples


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Weights and pattern of one class (or of the second class of two).

    Parameters
    ----------
    label : str
        The class that positive values speak for.
    weights, pattern : ndarray of shape (n_voxels,)
    """

    label: str
    weights: np.ndarray
    pattern: np.ndarray


def linear_maps(samples: Samples, fitted) -> list[LinearMap]:
    """Return weights and patterns of a fitted linear pipeline, one pair a class.

    Weights say how a decoder reads the data out; a voxel without any signal may get a large one
    if it cancels noise. The pattern says how the data vary with the decoder's output of the class::

        a = cov(X) w / var(X w)

    Each output is taken by itself: the joint form of Haufe's equation 6 divides by the outputs'
    covariance, which is nearly singular where each class has an output against the rest (with
    three planted classes and a linear SVM it found .29 of what this form finds, .98).

    Parameters
    ----------
    samples : Samples
        What the pipeline was fitted on.
    fitted : Pipeline
        A fitted pipeline of a linear kind.

    References
    ----------
    Haufe et al. (2014), NeuroImage 87:96-110, equation 6.
    """
    weights, _ = linear_weights(fitted)
    patterns = haufe_patterns(samples.X, weights, jointly=False)
    classes = [str(name) for name in fitted.classes_]
    labels = classes[1:] if len(weights) == 1 else classes
    return [LinearMap(*each) for each in zip(labels, weights, patterns, strict=True)]


def haufe_patterns(
    X: np.ndarray, weights: np.ndarray, *, jointly: bool = True, chunk_voxels: int = 8192
) -> np.ndarray:
    """Turn weights ``(n_outputs, n_voxels)`` into patterns of the same shape.

    ``cov(X) W cov(S)^+`` with ``S = X W`` (Haufe 2014, equation 6), or, not `jointly`, of each
    output by itself. No voxel x voxel matrix is formed: ``cov(X) W = X' S / (n - 1)``.
    """
    n = len(X)
    outputs = np.zeros((n, len(weights)))
    for columns in _chunks(X.shape[1], chunk_voxels):
        outputs += X[:, columns].astype(np.float64) @ weights[:, columns].T
    outputs -= outputs.mean(axis=0)
    covariance = outputs.T @ outputs / (n - 1)
    inverse = np.linalg.pinv(
        covariance if jointly else np.diag(np.diag(covariance)), hermitian=True
    )
    patterns = np.empty(weights.shape)
    for columns in _chunks(X.shape[1], chunk_voxels):
        shared = X[:, columns].astype(np.float64).T @ outputs / (n - 1)
        patterns[:, columns] = (shared @ inverse).T
    return patterns


def peaks(samples: Samples, values: np.ndarray, *, n_peaks: int = 5, apart_mm: float = 12.0):
    """Return the largest absolute values that lie at least `apart_mm` from each other.

    Returns
    -------
    list of dict
        ``x_mm``, ``y_mm``, ``z_mm`` (RAS+) and ``value``, the largest first.
    """
    if samples.mask is None:
        return []
    voxels = np.argwhere(np.asanyarray(samples.mask.dataobj) != 0)
    affine = samples.mask.affine
    found: list[dict] = []
    kept = np.empty((0, 3))
    for column in np.argsort(-np.abs(values), kind="stable"):
        if values[column] == 0 or len(found) == n_peaks:
            break
        place = voxels[column] @ affine[:3, :3].T + affine[:3, 3]
        if len(kept) and np.min(np.linalg.norm(kept - place, axis=1)) < apart_mm:
            continue
        kept = np.vstack([kept, place])
        x, y, z = (round(float(part), 1) for part in place)
        found.append({"x_mm": x, "y_mm": y, "z_mm": z, "value": float(values[column])})
    return found


def _chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
