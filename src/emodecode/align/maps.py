"""Maps of a subject, who may be new, to a frozen template: orthogonal, ridge, identity prior.

With source S (the subject) and target T (the template), both centred:

- ``"orthogonal"``: the Procrustes rotation, see `emodecode.align.procrustes`.
- ``"ridge"``: ``W = (S'S + lambda I)^-1 S'T``.
- ``"promises"``: ``R = U V'`` with ``S'T + k I = U diag(s) V'``: the mode of the rotation under a
  von Mises-Fisher prior that is centred on the identity, voxel on same voxel.

With fewer samples than voxels all of them happen between small cores (`Factor`).

References
----------
Hoerl & Kennard 1970, Technometrics 12, 55-67; Andreella & Finos 2022, Psychometrika 87,
1331-1353 (ProMises).
"""

from collections.abc import Iterator

import numpy as np
from scipy.linalg import eigh, svdvals

from emodecode.align.linearmap import LinearMap
from emodecode.align.lowrank import EPS, from_contrasts, safe_svd, thin_qr
from emodecode.align.procrustes import Factor, factor, procrustes, template
from emodecode.errors import InputError

KINDS = ("orthogonal", "ridge", "promises")
GRIDS = {
    "ridge": tuple(float(10.0**power) for power in np.arange(3, -3.5, -0.5)),
    "promises": (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01),
}
"""Shrinkages that are tried, the strongest first."""
N_BLOCKS = 5


def fit_map(
    source: np.ndarray | Factor,
    target: np.ndarray | Factor,
    *,
    kind: str = "orthogonal",
    shrinkage: float | str = "auto",
    scaling: bool = True,
    reflection: bool = True,
    blocks: np.ndarray | None = None,
) -> LinearMap:
    """Fit the map of a subject's voxels to a template.

    Parameters
    ----------
    source : ndarray of shape (n_samples, n_voxels) or Factor
        The subject's data; a factor of plain data (neither z-scored nor whitened).
    target : ndarray of shape (n_samples, n_common) or Factor
        The same time points (or classes) of the template; `emodecode.align.procrustes.template`
        of it saves work and memory for several subjects.
    kind : {"orthogonal", "ridge", "promises"}, default "orthogonal"
        "promises" needs as many common dimensions as voxels.
    shrinkage : float > 0 or "auto", default "auto"
        For "ridge" lambda, in units of the mean of the eigenvalues of S'S that are not zero; for
        "promises" k, in units of the mean of the singular values of S'T that are not zero. So it
        depends neither on the scale of the data nor on their number. "auto": `choose_shrinkage`.
    scaling, reflection : bool, default True
        As in `procrustes`; of no effect for "ridge". With "promises" the scale is the
        least-squares one, ``tr(R'S'T) / |S|_F^2``.
    blocks : ndarray of shape (n_samples,), optional
        Inner fold of each sample, see `choose_shrinkage`.

    Returns
    -------
    LinearMap
        In the precision of the source. For "promises" ``I + left @ right``.

    Raises
    ------
    InputError
        An option out of range, different numbers of samples, unequal numbers of voxels for
        "promises", and what `factor` refuses.
    """
    check_choices(kind, shrinkage)
    source = source if isinstance(source, Factor) else factor(source)
    target = target if isinstance(target, Factor) else template(target, dtype=source.dtype)
    if kind == "orthogonal":
        return procrustes(source, target, scaling=scaling, reflection=reflection)
    _check_pair(source, target, kind)
    if shrinkage == "auto":
        shrinkage = choose_shrinkage(
            source, target, kind=kind, reflection=reflection, blocks=blocks
        )
    if kind == "ridge":
        return _ridge(source, target, float(shrinkage))
    return _promises(source, target, float(shrinkage), scaling=scaling, reflection=reflection)


def choose_shrinkage(
    source: np.ndarray | Factor,
    target: np.ndarray | Factor,
    *,
    kind: str,
    reflection: bool = True,
    blocks: np.ndarray | None = None,
) -> float:
    """Choose the shrinkage by inner folds over contiguous blocks of the samples.

    Each block in turn is mapped by what the others gave. The shrinkage of `GRIDS` is taken that
    gives the highest correlation between what is mapped, M, and the template, T, over all entries
    of the block, ``tr(M'T) / (|M|_F |T|_F)`` with both relative to the means of the other blocks;
    mean over the blocks, of equals the strongest. (The squared error is no good criterion: where
    the template is noisy, it asks for ten to a hundred times the shrinkage that decodes best.)

    Parameters
    ----------
    source, target, kind, reflection
        As in `fit_map`; `kind` is "ridge" or "promises".
    blocks : ndarray of shape (n_samples,), optional
        Inner fold of each sample, at least two; None: five blocks of consecutive samples.
    """
    found = alikeness(source, target, kind=kind, reflection=reflection, blocks=blocks)
    return float(GRIDS[kind][int(found.argmax())])


def alikeness(
    source: np.ndarray | Factor,
    target: np.ndarray | Factor,
    *,
    kind: str,
    reflection: bool = True,
    blocks: np.ndarray | None = None,
) -> np.ndarray:
    """Say how like the template held-out blocks become with each shrinkage of `GRIDS`.

    The criterion of `choose_shrinkage`, summed over the blocks. One shrinkage for several subjects
    is the best of the sum over them: maps of unequal shrinkage have unequal scales.
    """
    source = source if isinstance(source, Factor) else factor(source)
    target = target if isinstance(target, Factor) else template(target, dtype=source.dtype)
    _check_pair(source, target, kind)
    grid = np.array(GRIDS[kind])
    if kind == "ridge":
        S, T = from_contrasts(source.core), from_contrasts(_orthonormal(target).core)
    else:
        _, S, T = _joint(source, target)
        S, T = from_contrasts(S), from_contrasts(T)
    total = np.zeros(len(grid))
    for held in _held_out(len(S), blocks):
        mean_s, mean_t = S[~held].mean(axis=0), T[~held].mean(axis=0)
        parts = S[~held] - mean_s, T[~held] - mean_t, S[held] - mean_s, T[held] - mean_t
        if kind == "ridge":
            total += _ridge_alikeness(*parts, grid)
        else:
            total += _promises_alikeness(*parts, grid, reflection=reflection)
    return total


def check_choices(kind: str, shrinkage: float | str) -> None:
    """Refuse a kind of map or a shrinkage that there is not."""
    if kind not in KINDS:
        raise _bad_choice("map", kind, f"one of {', '.join(KINDS)}")
    number = isinstance(shrinkage, (int, float, np.number)) and not isinstance(shrinkage, bool)
    if not (0 < float(shrinkage) < np.inf if number else shrinkage == "auto"):
        raise _bad_choice("shrinkage", shrinkage, 'a number above 0, or "auto"')


def _ridge(source: Factor, target: Factor, shrinkage: float) -> LinearMap:
    U, s, Vt = safe_svd(source.core)
    powers = s**2
    weights = Vt.T * (s / (powers + shrinkage * _mean_above_zero(powers, len(U))))
    if target.rows is None:
        left, right = weights, U.T @ target.core
        if len(right) > right.shape[1]:
            left, right = left @ right, np.eye(right.shape[1])
    else:
        target = _orthonormal(target)
        left, right = weights @ (U.T @ target.core), target.rows
    return _as_map(source, target, source.spread(left.T).T, right)


def _promises(
    source: Factor, target: Factor, shrinkage: float, *, scaling: bool, reflection: bool
) -> LinearMap:
    basis, S, T = _joint(source, target)
    product = S.T @ T
    rotation = _polar(product, shrinkage * _mean_singular(product), reflection=reflection)
    scale = _scale(rotation, product, S) if scaling else 1.0
    if basis is None:
        return _as_map(source, target, rotation, np.eye(len(rotation)), scale)
    rotation.flat[:: len(rotation) + 1] -= 1.0
    return _as_map(source, target, basis @ rotation, basis.T, scale, identity=1.0)


def _joint(source: Factor, target: Factor) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Contrasts of both in an orthonormal basis (n_voxels, rank) of what they span together.

    On everything orthogonal to it ``S'T + k I`` is k I, so that its polar factor is the identity.
    The basis is None where they may span all voxels: then the contrasts are those of the voxels.
    """
    source, target = _orthonormal(source), _orthonormal(target)
    rows = [part.rows for part in (source, target) if part.rows is not None]
    if len(rows) < 2 or sum(map(len, rows)) >= source.n_voxels:
        return None, source.spread(source.core), target.spread(target.core)
    _, axes = thin_qr(np.concatenate(rows))
    return axes.T, source.core @ (rows[0] @ axes.T), target.core @ (rows[1] @ axes.T)


def _polar(product: np.ndarray, k: float, *, reflection: bool) -> np.ndarray:
    """Orthogonal polar factor of ``product + k I``; a proper rotation without `reflection`."""
    U, _, Vt = safe_svd(product + k * np.eye(len(product)))
    if not reflection and np.linalg.slogdet(U @ Vt)[0] < 0:
        U[:, -1] *= -1
    return U @ Vt


def _scale(rotation: np.ndarray, product: np.ndarray, S: np.ndarray) -> float:
    return float(np.vdot(rotation, product) / np.vdot(S, S))


def _ridge_alikeness(
    S: np.ndarray, T: np.ndarray, S_held: np.ndarray, T_held: np.ndarray, grid: np.ndarray
) -> list[float]:
    """Correlation on held-out samples for each shrinkage; one eigen-decomposition for all."""
    if len(S) <= S.shape[1]:
        powers, axes = eigh(S @ S.T, check_finite=False)
        into, out = S_held @ (S.T @ axes), axes.T @ T
    else:
        powers, axes = eigh(S.T @ S, check_finite=False)
        into, out = S_held @ axes, (S @ axes).T @ T
    powers = np.maximum(powers, 0.0)
    unit = _mean_above_zero(powers, max(S.shape))
    return [_alikeness((into / (powers + value * unit)) @ out, T_held) for value in grid]


def _promises_alikeness(
    S: np.ndarray,
    T: np.ndarray,
    S_held: np.ndarray,
    T_held: np.ndarray,
    grid: np.ndarray,
    *,
    reflection: bool,
) -> list[float]:
    product = S.T @ T
    unit = _mean_singular(product)
    rotations = (_polar(product, value * unit, reflection=reflection) for value in grid)
    return [_alikeness(S_held @ rotation, T_held) for rotation in rotations]


def _alikeness(mapped: np.ndarray, target: np.ndarray) -> float:
    size = np.linalg.norm(mapped) * np.linalg.norm(target)
    return float(np.vdot(mapped, target) / size) if size else 0.0


def _mean_above_zero(powers: np.ndarray, size: int) -> float:
    """Mean of what is above rounding; 1 where nothing is."""
    above = powers[powers > EPS * size * powers.max()]
    return float(above.mean()) if above.size else 1.0


def _mean_singular(product: np.ndarray) -> float:
    return _mean_above_zero(svdvals(product, check_finite=False), len(product))


def _held_out(n_samples: int, blocks: np.ndarray | None) -> Iterator[np.ndarray]:
    if blocks is None:
        n_blocks = min(N_BLOCKS, n_samples)
        blocks = np.arange(n_samples) * n_blocks // n_samples
    blocks = np.asarray(blocks)
    names = np.unique(blocks)
    largest = max(int((blocks == name).sum()) for name in names)
    if blocks.shape != (n_samples,) or len(names) < 2 or n_samples - largest < 2:
        raise InputError(
            "alignment",
            found=f"{len(names)} inner folds, for {blocks.size} samples",
            expected=f"two or more, for each of the {n_samples} samples, with two samples outside "
            "each",
            remedy="Give the inner fold of every sample, or leave blocks out.",
        )
    yield from (blocks == name for name in names)


def _orthonormal(given: Factor) -> Factor:
    """The same data with orthonormal axes."""
    if given.rows is None or given.orthonormal:
        return given
    core, axes = thin_qr(given.rows)
    return Factor(core, axes, given.mean, dtype=given.dtype)


def _as_map(
    source: Factor,
    target: Factor,
    left: np.ndarray,
    right: np.ndarray,
    scale: float = 1.0,
    identity: float = 0.0,
) -> LinearMap:
    kind = source.dtype
    left, right = (np.array(part, dtype=kind) for part in (left, right))
    left[source.constant] = 0.0
    means = source.mean, target.mean
    return LinearMap(left, right, *means, scale, identity, constant=source.constant)


def _check_pair(source: Factor, target: Factor, kind: str) -> None:
    if kind not in GRIDS or source.std is not None or source.gain is not None:
        raise InputError(
            "alignment",
            found=f"map {kind!r} of data that were z-scored or whitened, or no map with shrinkage",
            expected=f"{' or '.join(GRIDS)}, and the factor of plain data",
            remedy="Pass the data themselves.",
        )
    if source.n_samples != target.n_samples:
        raise InputError(
            "alignment",
            found=f"{source.n_samples} samples of the subject, {target.n_samples} of the template",
            expected="the same time points (or classes), in the same order",
            remedy="Cut both to the part that they share.",
        )
    if kind == "promises" and source.n_voxels != target.n_voxels:
        raise InputError(
            'map = "promises"',
            found=f"{source.n_voxels} voxels and {target.n_voxels} common dimensions",
            expected="equal numbers: the prior says that a voxel goes to the same voxel",
            remedy='Use map = "ridge" or "orthogonal", or the same mask for all subjects.',
        )


def _bad_choice(name: str, value: object, expected: str) -> InputError:
    return InputError(
        f"alignment: {name}",
        found=f"{name} = {str(value)[:60]}",
        expected=expected,
        remedy=f"Correct align.{name} in the study.",
    )
