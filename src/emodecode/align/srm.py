"""Shared response model, the deterministic form: few common time courses, a basis per subject.

``minimise sum_i | X_i - S W_i' |_F^2  subject to  W_i'W_i = I``, X_i centred: S (n_samples,
n_components) is what all subjects share, W_i (n_voxels_i, n_components) where subject i has it.
By turns ``W_i = U V'`` with ``X_i'S = U diag(s) V'``, and ``S = mean_i X_i W_i``; no step makes the
objective larger.

References
----------
Chen, Chen, Yeshurun, Hasson, Haxby & Ramadge 2015, A reduced-dimension fMRI shared response
model, NIPS 28, 460-468.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import eigh

from emodecode.align.linearmap import LinearMap
from emodecode.align.lowrank import contrasts, from_contrasts, safe_svd, signed
from emodecode.align.procrustes import Factor, factor
from emodecode.errors import InputError


def shared_response(
    datasets: Sequence[np.ndarray | Factor], *, n_components: int, n_iter: int = 10
) -> tuple[np.ndarray, list[LinearMap]]:
    """Find the responses that several subjects share.

    Starts from the first eigenvectors of the mean of ``X_i X_i' / |X_i|_F^2``, so that nothing is
    drawn at random. A subject with more voxels than samples is reduced to a core of n_samples - 1
    columns once; the cost is O(n_samples^2 n_voxels).

    Parameters
    ----------
    datasets : sequence of ndarray of shape (n_samples, n_voxels_i), or of Factor
        One a subject; row k is the same time point (or class) in all. Subjects of larger variance
        count for more.
    n_components : int
        At most n_samples - 1 and the smallest number of voxels.
    n_iter : int, default 10
        Rounds.

    Returns
    -------
    shared : ndarray of shape (n_samples, n_components), float64
        Columns of mean zero, uncorrelated, the one of largest variance first; its largest entry
        is positive.
    mappers : list of LinearMap
        ``x -> (x - mean_i) W_i``, W_i the best one for `shared` (`map_to_shared`).

    Raises
    ------
    InputError
        Fewer than two data sets, different numbers of samples, too many components.
    """
    factors = [part if isinstance(part, Factor) else factor(part) for part in datasets]
    _check(factors, n_components, n_iter)
    shared = _start(factors, n_components)
    for _ in range(n_iter):
        total = np.zeros_like(shared)
        for part in factors:
            total += part.core @ _basis(part, shared)
        shared = total / len(factors)
    shared = signed(from_contrasts(_principal(shared)))
    return shared, [map_to_shared(part, shared) for part in factors]


def map_to_shared(dataset: np.ndarray | Factor, shared: np.ndarray) -> LinearMap:
    """Map a subject, who may be new, to frozen shared responses.

    Parameters
    ----------
    dataset : ndarray of shape (n_samples, n_voxels) or Factor
    shared : ndarray of shape (n_samples, n_components)
        Rows for the same time points; centred here.

    Returns
    -------
    LinearMap
        ``x -> (x - mean) W + mean(shared)`` with orthonormal columns of W, (n_voxels,
        n_components).
    """
    part = dataset if isinstance(dataset, Factor) else factor(dataset)
    mean = shared.mean(axis=0)
    _check([part], shared.shape[1], 1, alone=True)
    if len(shared) != part.n_samples:
        raise _bad_samples({len(shared), part.n_samples})
    basis = _basis(part, contrasts(shared - mean))
    left = part.spread(basis.T).T.astype(part.dtype, copy=False)
    return LinearMap(left, np.eye(shared.shape[1], dtype=part.dtype), part.mean, mean)


def _start(factors: Sequence[Factor], n_components: int) -> np.ndarray:
    n = len(factors[0].core)
    gram = np.zeros((n, n))
    for part in factors:
        gram += part.core @ part.core.T / np.vdot(part.core, part.core)
    powers, axes = eigh(gram, subset_by_index=(n - n_components, n - 1), check_finite=False)
    return axes * np.sqrt(np.maximum(powers, 0.0))


def _basis(part: Factor, shared: np.ndarray) -> np.ndarray:
    """Orthonormal basis W of a core (rank, n_components), the best one for these responses."""
    U, _, Vt = safe_svd(part.core.T @ shared)
    return U @ Vt


def _principal(shared: np.ndarray) -> np.ndarray:
    U, s, _ = safe_svd(shared)
    return U * s


def _check(
    factors: Sequence[Factor], n_components: int, n_iter: int, *, alone: bool = False
) -> None:
    if len(factors) < 2 and not alone:
        raise InputError(
            "shared response model",
            found=f"{len(factors)} data sets",
            expected="those of two subjects or more",
            remedy="Add subjects.",
        )
    samples = {part.n_samples for part in factors}
    if len(samples) > 1:
        raise _bad_samples(samples)
    most = min(*samples, *(part.n_voxels + 1 for part in factors)) - 1
    if not 1 <= n_components <= most or n_iter < 0:
        raise InputError(
            "shared response model",
            found=f"n_components = {n_components}, n_iter = {n_iter}",
            expected=f"1 to {most} components (fewer than samples, and no more than the voxels of "
            "any subject), 0 rounds or more",
            remedy="Correct align.n_components in the study.",
        )


def _bad_samples(found: set[int]) -> InputError:
    return InputError(
        "shared response model",
        found=f"data of {' and '.join(map(str, sorted(found)))} samples",
        expected="the same time points (or classes) in the same order",
        remedy="Cut them to the part that they share.",
    )
