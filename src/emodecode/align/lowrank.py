"""Linear algebra of the alignment: contrasts, thin factors, and an SVD that holds."""

import numpy as np
from scipy.linalg import LinAlgError, cholesky, qr, svd
from scipy.linalg.lapack import dtrcon

from emodecode.errors import InputError

EPS = float(np.finfo(np.float64).eps)
WELL_CONDITIONED = 1e-5


def safe_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition ``matrix = U diag(s) V'``.

    LAPACK's divide and conquer (gesdd) is fast but on some builds does not converge on some
    healthy matrices; then the QR iteration (gesvd) takes over.

    Parameters
    ----------
    matrix : ndarray of shape (n_rows, n_columns)

    Returns
    -------
    U : ndarray of shape (n_rows, k)
    s : ndarray of shape (k,)
        Descending; ``k = min(n_rows, n_columns)``.
    Vt : ndarray of shape (k, n_columns)

    Raises
    ------
    InputError
        Values that are not finite, or a matrix that neither routine decomposes.
    """
    if not np.isfinite(matrix).all():
        raise _not_finite("singular value decomposition")
    for driver in ("gesdd", "gesvd"):
        try:
            found = svd(matrix, full_matrices=False, check_finite=False, lapack_driver=driver)
        except LinAlgError:
            continue
        if all(np.isfinite(part).all() for part in found):
            return found
    raise InputError(
        "singular value decomposition",
        found=f"no convergence on a matrix of shape {matrix.shape}",
        expected="singular values",
        remedy="Look for extreme values in the data and rescale them.",
    )


def signed(axes: np.ndarray) -> np.ndarray:
    """Turn columns so that the entry of largest size in each is positive."""
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return axes * np.where(largest < 0, -1.0, 1.0)


def standardised(values: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and standard deviation 1, float64; 0 where nothing varies."""
    centred = np.asarray(values, dtype=np.float64) - values.mean(axis=0, dtype=np.float64)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 1e-12, deviation, np.inf)


def contrasts(centred: np.ndarray) -> np.ndarray:
    """Turn centred samples into ``n - 1`` rows of full rank with the same inner products.

    Orthonormal contrasts as Helmert's, in the form that costs one pass: the Householder
    reflection that turns the constant direction into the first axis,
    ``row_i = x_i - x_0 / (1 + sqrt(n))`` for i > 0. Whatever is made of inner products of two
    data sets is the same for every orthonormal set of contrasts.

    Parameters
    ----------
    centred : ndarray of shape (n_samples, n_columns)
        Columns of mean zero.

    Returns
    -------
    ndarray of shape (n_samples - 1, n_columns)
    """
    return centred[1:] - centred[0] / (1 + np.sqrt(len(centred)))


def from_contrasts(rows: np.ndarray) -> np.ndarray:
    """Undo `contrasts`: ``(n_samples - 1, n_columns)`` to centred ``(n_samples, n_columns)``."""
    root = np.sqrt(len(rows) + 1)
    centred = np.empty((len(rows) + 1, rows.shape[1]))
    np.divide(rows.sum(axis=0), -root, out=centred[0])
    np.add(rows, centred[0] / (1 + root), out=centred[1:])
    return centred


def thin_qr(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write ``rows (k, n_columns)``, k <= n_columns, as ``core (k, k) @ axes (k, n_columns)``.

    The rows of `axes` are orthonormal (thin QR of the transpose).
    """
    axes, core = qr(rows.T, mode="economic", check_finite=False)
    return core.T, axes.T


def gram_core(rows: np.ndarray) -> np.ndarray | None:
    """Lower triangular `core` with ``core core' = rows rows'``, or None if that is inaccurate.

    By Cholesky, a quarter of the cost of `thin_qr`. It squares the condition number, so it is
    used only where the estimated reciprocal condition of `core` (1-norm) is at least 1e-5.
    """
    try:
        core = cholesky(rows @ rows.T, lower=True, check_finite=False)
    except LinAlgError:
        return None
    condition, _ = dtrcon(core, norm="1", uplo="L")
    return core if condition >= WELL_CONDITIONED else None


def whitening(
    X: np.ndarray, *, alpha: float, relative: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project ``X`` by ``W = ((1 - alpha) X'X + alpha I)^(-1/2)`` on its row space.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
    alpha : float in [0, 1]
    relative : bool
        Divide X'X by the mean of its eigenvalues that are not zero first.

    Returns
    -------
    coordinates : ndarray of shape (n_samples, rank)
        ``X W = coordinates @ axes``.
    gain : ndarray of shape (rank,)
        ``W = axes.T @ diag(gain) @ axes``.
    axes : ndarray of shape (rank, n_columns)
        Orthonormal rows.
    """
    core, axes = thin_qr(X) if X.shape[1] > len(X) else (X, None)
    U, s, Vt = safe_svd(core)
    rank = int((s > EPS * max(X.shape) * s[0]).sum())
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    power = s**2 / (np.mean(s**2) if relative else 1.0)
    gain = 1 / np.sqrt((1 - alpha) * power + alpha)
    return U * (s * gain), gain, Vt if axes is None else Vt @ axes


def centre(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subtract the column means in float64; constant columns become exactly zero.

    A column is constant where its standard deviation is at most ``1e3 eps`` times the largest one
    (its variation is rounding), or ``8 eps`` times its own mean.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)

    Returns
    -------
    centred : ndarray of shape (n_samples, n_columns), float64
    mean : ndarray of shape (n_columns,)
    std : ndarray of shape (n_columns,)
        ddof 0; zero where constant.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        mean = X.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise _not_finite("alignment")
    centred = X - mean
    std = column_std(centred, len(X))
    constant = (std == 0) | (std <= 8 * EPS * np.abs(mean))
    if constant.any():
        centred[:, constant] = 0.0
        std[constant] = 0.0
    return centred, mean, std


def column_std(rows: np.ndarray, n_samples: int) -> np.ndarray:
    """Standard deviation (ddof 0) of centred columns or of their contrasts; zero where constant.

    At most ``1e3 eps`` times the largest one counts as constant.
    """
    std = np.sqrt(np.einsum("ij,ij->j", rows, rows) / n_samples)
    std[std <= 1e3 * EPS * std.max(initial=0.0)] = 0.0
    return std


def _not_finite(where: str) -> InputError:
    return InputError(
        where,
        found="values that are not finite (NaN or infinite)",
        expected="finite numbers",
        remedy="Leave out voxels without signal or correct the volumes that hold the values.",
    )
