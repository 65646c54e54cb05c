"""Batches of a training: read from memory or a memory map, shuffled, shared between processes."""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from emodecode.models.rows import Rows


class SampleSet(Dataset):
    """Samples and their targets, picked by position, many at once.

    Parameters
    ----------
    X : ndarray or Rows, shape (n_samples, n_features)
    y : ndarray
        Class codes ``(n_samples,)`` or shares of the classes ``(n_samples, n_classes)``.
    windows : ndarray of int, shape (n_samples, k), optional
        Positions of the volumes that each sample is read with, its own last; -1: there is none,
        and its values are NaN. X of a batch is then ``(batch, k, n_features)``.
    """

    def __init__(
        self, X: "np.ndarray | Rows", y: np.ndarray, *, windows: np.ndarray | None = None
    ) -> None:
        self.X = X if isinstance(X, Rows) else torch.from_numpy(np.ascontiguousarray(X))
        self.y = torch.from_numpy(y.astype(np.float32 if y.ndim == 2 else np.int64))
        self.windows = windows

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not isinstance(self.X, Rows):
            return self.X[positions], self.y[positions]
        numbers = np.atleast_1d(np.asarray(positions))
        if self.windows is None:
            X = self.X.read(numbers)
        else:
            X = read_windows(self.X, self.windows[numbers])
        return torch.from_numpy(X), self.y[positions]


def read_windows(rows: Rows, windows: np.ndarray) -> np.ndarray:
    """Read windows of rows: float32 of shape (n, k, n_features), NaN where there is none."""
    flat = windows.ravel()
    X = np.full((len(flat), rows.shape[1]), np.nan, dtype=np.float32)
    X[flat >= 0] = rows.read(flat[flat >= 0])
    return X.reshape(*windows.shape, -1)


def find_windows(scan: np.ndarray, volume: np.ndarray, k: int) -> np.ndarray:
    """Find the k successive volumes that end with each sample, among the samples themselves.

    Parameters
    ----------
    scan : ndarray of int, shape (n_samples,)
        Which run of which subject a sample is of.
    volume : ndarray of int, shape (n_samples,)
        Its number in the run.
    k : int

    Returns
    -------
    ndarray of int, shape (n_samples, k)
        Positions, the sample's own last; -1 where the run has not begun or that volume is no
        sample.
    """
    place = {key: number for number, key in enumerate(zip(scan, volume, strict=True))}
    return np.array(
        [
            [place.get((run, moment - back), -1) for back in range(k - 1, -1, -1)]
            for run, moment in zip(scan, volume, strict=True)
        ],
        dtype=np.int64,
    ).reshape(len(scan), k)


class Batches:
    """Iterator of skorch: batches of a `SampleSet`; shuffled by torch's own generator.

    Parameters
    ----------
    dataset : SampleSet
    batch_size : int
        Of all processes together.
    shuffle : bool
        In training; a last batch of one sample is left out (batch normalisation needs two).
    n_workers : int
        Processes that read ahead, each from the same memory map; 0: none. The batches are the same.
    pin : bool
        Put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self,
        dataset: SampleSet,
        batch_size: int,
        shuffle: bool = False,
        n_workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.n_workers, self.pin = n_workers, pin

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        parts = self._parts()
        if not (self.n_workers or self.pin):
            for part in parts:
                yield self.dataset[part]
            return
        yield from DataLoader(
            self.dataset,
            batch_size=None,
            sampler=parts,
            num_workers=self.n_workers,
            multiprocessing_context=self._context(),
            pin_memory=self.pin,
            generator=torch.Generator(),  # torch's own stays as it is: it shuffles
        )

    def _context(self) -> str | None:
        """How readers are started: within a worker of joblib the default is joblib's own."""
        return "fork" if self.n_workers and sys.platform == "linux" else None

    def _parts(self) -> list[torch.Tensor]:
        n, shared = len(self.dataset), self.shuffle and distributed.is_initialized()
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        rank, world = 0, 1
        if shared:
            rank, world = distributed.get_rank(), distributed.get_world_size()
            order = _of_first_process(order)
        parts = [order[start : start + self.batch_size] for start in range(0, n, self.batch_size)]
        least = max(2, world) if self.shuffle else 1
        return [part[rank::world] for part in parts if len(part) >= least]


def _of_first_process(order: torch.Tensor) -> torch.Tensor:
    """All processes shuffle as the first one does."""
    distributed.broadcast(order, src=0)
    return order
