"""LinearMap: a subject's way into the common space, kept as thin factors."""

from dataclasses import dataclass, field, replace

import numpy as np

from emodecode.errors import InputError


@dataclass(frozen=True, eq=False)
class LinearMap:
    """``x -> ((x - mean_in) / std_in @ (identity I + left @ right)) * scale + mean_out``.

    With fewer samples than voxels `left` and `right` are thin, so that no matrix of voxels x
    voxels is formed or stored.

    Parameters
    ----------
    left : ndarray of shape (n_voxels, rank)
    right : ndarray of shape (rank, n_common)
    mean_in : ndarray of shape (n_voxels,)
        Subtracted from what comes in.
    mean_out : ndarray of shape (n_common,)
        Added to what goes out.
    scale : float, default 1
    identity : float, default 0
        Multiple of the identity that is added to ``left @ right``; needs n_common = n_voxels.
    std_in : ndarray of shape (n_voxels,), optional
        Divides what comes in; infinite for voxels that were constant.
    constant : ndarray of int
        Voxels that were constant in the fit; nothing of them enters the common space.
    """

    left: np.ndarray = field(repr=False)
    right: np.ndarray = field(repr=False)
    mean_in: np.ndarray = field(repr=False)
    mean_out: np.ndarray = field(repr=False)
    scale: float = 1.0
    identity: float = 0.0
    std_in: np.ndarray | None = field(default=None, repr=False)
    constant: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp), repr=False)

    @property
    def n_voxels(self) -> int:
        """Columns that come in."""
        return len(self.left)

    @property
    def n_common(self) -> int:
        """Columns that go out."""
        return self.right.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the factors and means, bytes."""
        parts = (self.left, self.right, self.mean_in, self.mean_out, self.std_in)
        return sum(part.nbytes for part in parts if part is not None)

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Map ``(n_samples, n_voxels)`` to ``(n_samples, n_common)``; float32 for float32.

        Raises
        ------
        InputError
            Another number of voxels than the map was fitted on.
        """
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_voxels:
            raise InputError(
                "alignment",
                found=f"data of shape {X.shape}",
                expected=f"(n_samples, {self.n_voxels}) as in the fit of this subject's map",
                remedy="Extract the samples with the mask that the maps were fitted on.",
            )
        kind = np.float32 if X.dtype == np.float32 else np.float64
        centred = X - self.mean_in.astype(kind, copy=False)
        if self.std_in is not None:
            centred /= self.std_in.astype(kind, copy=False)
        left, right = self.left.astype(kind, copy=False), self.right.astype(kind, copy=False)
        mapped = (centred @ left) @ right
        if self.identity:
            mapped += kind(self.identity) * centred
        mapped *= kind(self.scale)
        mapped += self.mean_out.astype(kind, copy=False)
        return mapped

    def matrix(self) -> np.ndarray:
        """Return the whole matrix ``(n_voxels, n_common)`` with scale and std_in: may be large."""
        whole = self.left @ self.right
        if self.identity:
            whole = whole + self.identity * np.eye(*whole.shape)
        whole = whole * self.scale
        return whole if self.std_in is None else whole / self.std_in[:, None]

    def through(self, axes: np.ndarray) -> "LinearMap":
        """Append axes ``(n_common, k)``: what comes out is multiplied by them."""
        own = axes.astype(self.right.dtype, copy=False)
        left = self.left @ (self.right @ own)
        if self.identity:
            left += self.identity * own
        right = np.eye(axes.shape[1], dtype=left.dtype)
        return replace(self, left=left, right=right, mean_out=self.mean_out @ axes, identity=0.0)

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights of the common space into weights of this subject's voxels.

        Parameters
        ----------
        coef : ndarray of shape (n_classes, n_common)
        intercept : ndarray of shape (n_classes,)
        """
        back = (coef @ self.right.T) @ self.left.T
        if self.identity:
            back = back + self.identity * coef
        back = back * self.scale
        if self.std_in is not None:
            back = back / self.std_in
        return back, intercept + coef @ self.mean_out - back @ self.mean_in
