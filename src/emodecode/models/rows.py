"""Rows: samples of a memory map that are read a batch at a time, never all at once."""

from collections.abc import Iterator

import numpy as np

CHUNK_BYTES = 2**26
"""Bytes that are read at once where all rows are gone through."""


class Rows:
    """Some rows of a matrix, read when they are asked for.

    A network that is trained on 3 GB of volumes needs a batch of them at a time; indexing the
    matrix by the training rows would copy them all.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        In memory or a memory map; not copied.
    rows : ndarray of int
        Row numbers, in the order of the samples.
    """

    def __init__(self, X: np.ndarray, rows: np.ndarray) -> None:
        self.X = np.asarray(X)
        self.rows = np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Rows of shape {self.shape}"

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and columns."""
        return len(self.rows), self.X.shape[1]

    def take(self, positions: np.ndarray) -> "Rows":
        """Return some of these rows, by position or boolean mask; nothing is read."""
        return Rows(self.X, self.rows[positions])

    def read(self, positions: "np.ndarray | slice" = slice(None)) -> np.ndarray:
        """Read rows by position: float32 of shape (n_positions, n_voxels)."""
        return np.asarray(self.X[self.rows[positions]], dtype=np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        """Read all rows in order, in parts of about `CHUNK_BYTES`."""
        step = max(1, CHUNK_BYTES // max(1, 4 * self.X.shape[1]))
        for start in range(0, len(self), step):
            yield self.read(slice(start, start + step))


def as_rows(X: "np.ndarray | Rows") -> Rows:
    """Return `X` as `Rows`; an array stands for all of its own."""
    return X if isinstance(X, Rows) else Rows(X, np.arange(len(X)))
