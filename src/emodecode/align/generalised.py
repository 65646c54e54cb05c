"""Generalised Procrustes: the mean of all subjects, after each was rotated to the mean."""

from collections.abc import Sequence

import numpy as np

from emodecode.align.lowrank import centre
from emodecode.align.procrustes import procrustes, template
from emodecode.errors import InputError


def mean_template(
    datasets: Sequence[np.ndarray],
    *,
    n_passes: int = 1,
    zscore: bool = True,
    scaling: bool = True,
    reflection: bool = True,
) -> np.ndarray:
    """Return the mean of the subjects' data after each was mapped to the mean before.

    ``common = z(mean_i z(X_i))``; in each pass ``a_i = z(map of X_i to common)``,
    ``common = z(mean_i a_i)``. Unlike hyperalignment it has no reference subject: the order of the
    subjects does not matter, but it starts from voxels that lie over each other.

    Parameters
    ----------
    datasets : sequence of ndarray of shape (n_samples, n_voxels)
        One a subject, of equal shapes; read n_passes + 1 times.
    n_passes : int, default 1
    zscore : bool, default True
        Without it the z's are centrings.
    scaling, reflection : bool, default True
        As in `procrustes`.

    Returns
    -------
    ndarray of shape (n_samples, n_voxels), float64

    References
    ----------
    Gower 1975, Psychometrika 40, 33-51.
    """
    shapes = {np.shape(part) for part in datasets}
    if len(datasets) < 2 or len(shapes) > 1 or n_passes < 0:
        raise InputError(
            'alignment: method = "template"',
            found=f"{len(datasets)} data sets of shapes {sorted(shapes)}, {n_passes} passes",
            expected="two or more of the same samples and voxels, 0 passes or more",
            remedy='Use the same mask for all subjects, or method = "hyperalignment".',
        )
    common = np.zeros(shapes.pop())
    for part in datasets:
        common += _z(part, zscore)
    for _ in range(n_passes):
        target = template(_z(common / len(datasets), zscore))
        common = np.zeros_like(common)
        for part in datasets:
            mapped = procrustes(part, target, scaling=scaling, reflection=reflection)
            common += _z(mapped(np.asarray(part, dtype=np.float64)), zscore)
    return _z(common / len(datasets), zscore)


def _z(X: np.ndarray, wanted: bool) -> np.ndarray:
    centred, _, std = centre(X)
    if wanted:
        centred /= np.where(std > 0, std, np.inf)
    return centred
