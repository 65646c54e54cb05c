"""The noise of patterns, for whitening: a shrunk covariance that also serves whole brains."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from emodecode.errors import InputError


@dataclass(frozen=True, eq=False)
class ShrunkNoise:
    """Noise covariance between voxels, held by the residuals that it was estimated from.

    ``covariance = n / df * (shrinkage * mu * I + (1 - shrinkage) * R'R / n)``

    Parameters
    ----------
    residuals : ndarray of shape (n_samples, n_voxels)
        R, with the means already taken off.
    df : int
        Degrees of freedom: samples less the means that were taken off.
    shrinkage : float
        0: the sample covariance; 1: the same variance everywhere and no covariance.
    mu : float
        Mean over voxels of the variance, with the divisor n.
    """

    residuals: np.ndarray
    df: int
    shrinkage: float
    mu: float

    @property
    def n_voxels(self) -> int:
        """Columns."""
        return self.residuals.shape[1]

    @property
    def covariance(self) -> np.ndarray:
        """Shape (n_voxels, n_voxels); not for whole brains."""
        n = len(self.residuals)
        sample = self.residuals.T @ self.residuals / n
        sample *= 1 - self.shrinkage
        sample[np.diag_indices_from(sample)] += self.shrinkage * self.mu
        return sample * (n / self.df)

    def solve(self, patterns: np.ndarray) -> np.ndarray:
        """Multiply patterns by the inverse covariance: (n, n_voxels) -> (n, n_voxels).

        With fewer samples than voxels no voxel x voxel matrix is formed (Woodbury's identity)::

            (a I + b R'R)^-1 = (I - R' (a / b I + R R')^-1 R) / a
        """
        n = len(self.residuals)
        if n >= self.n_voxels:
            return np.linalg.solve(self.covariance, patterns.T).T
        a, b = self.shrinkage * self.mu, (1 - self.shrinkage) / n
        if b == 0:
            return patterns * (self.df / n / a)
        ridged = self._gram + (a / b) * np.eye(n)
        seen = np.linalg.solve(ridged, self.residuals @ patterns.T)
        return (patterns - seen.T @ self.residuals) * (self.df / n / a)

    @cached_property
    def _gram(self) -> np.ndarray:
        return self.residuals @ self.residuals.T


def estimate_noise(residuals: np.ndarray, *, df: int | None = None) -> ShrunkNoise:
    """Estimate the noise covariance from residuals, shrunk towards equal variances.

    The shrinkage is the optimal one of Ledoit and Wolf: with S = R'R / n, mu = tr(S) / p and norms
    of Frobenius (without their 1 / p)::

        d2 = |S - mu I|^2,   b2 = min(d2, sum_k |r_k r_k' - S|^2 / n^2),   shrinkage = b2 / d2

    It is always used: with many more samples than voxels it goes to 0 by itself. All norms come
    from the smaller of R'R and R R'.

    Parameters
    ----------
    residuals : ndarray of shape (n_samples, n_voxels)
        Of one subject, e.g. from `cell_residuals` or of a general linear model.
    df : int, optional
        Degrees of freedom; n_samples where it is not given.

    Returns
    -------
    ShrunkNoise

    Raises
    ------
    InputError
        Values that are not finite, or residuals that leave the covariance singular.

    References
    ----------
    Ledoit & Wolf 2004, Journal of Multivariate Analysis 88:365-411 (section 3.3).
    Walther et al. 2016, NeuroImage 137:188-200 (whitening of patterns with it).
    """
    R = np.asarray(residuals, dtype=np.float64)
    if R.ndim != 2 or not R.size or not np.isfinite(R).all():
        raise _bad_residuals(
            f"residuals of shape {R.shape}, {int((~np.isfinite(R)).sum())} values not finite",
            "finite residuals of shape (n_samples, n_voxels)",
        )
    n, p = R.shape
    df = n if df is None else int(df)
    if not 1 <= df <= n:
        raise _bad_residuals(f"df = {df} for {n} samples", f"1 to {n} degrees of freedom")
    squares = np.einsum("ij,ij->i", R, R)
    product = R @ R.T if n <= p else R.T @ R
    norm = float(np.sum(product**2)) / n**2
    mu = float(squares.sum()) / (n * p)
    d2 = norm - p * mu**2
    b2 = min(d2, float(np.sum(squares**2) / n**2 - norm / n))
    # d2 = 0: the sample covariance is mu I already
    shrinkage = min(1.0, max(0.0, b2 / d2)) if d2 > 1e-14 * norm else 1.0
    if mu == 0 or (n < p and shrinkage < 1e-12):
        raise _bad_residuals(
            f"{n} residuals of {p} voxels that do not tell the noise "
            f"({'all are 0' if mu == 0 else 'the shrinkage is 0'})",
            "residuals that differ from sample to sample",
        )
    return ShrunkNoise(R, df, shrinkage, mu)


def cell_residuals(X: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, int]:
    """Take the mean of its cell off every sample.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
    cells : ndarray of shape (n_samples,)
        Cell of each sample: condition and fold (run).

    Returns
    -------
    residuals : ndarray of shape (n_samples, n_voxels), float64
    df : int
        n_samples less the number of cells; 0 where every cell has a single sample.
    """
    names, position = np.unique(np.asarray(cells), return_inverse=True)
    X = np.asarray(X, dtype=np.float64)
    sums = np.zeros((len(names), X.shape[1]))
    np.add.at(sums, position, X)
    means = sums / np.bincount(position)[:, None]
    return X - means[position], len(X) - len(names)


def _bad_residuals(found: str, expected: str) -> InputError:
    return InputError(
        "noise of the patterns",
        found=found,
        expected=expected,
        remedy="Give more samples a condition and run, a noise precision, or noise='identity'.",
    )
