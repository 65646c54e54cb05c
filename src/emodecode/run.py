"""Run: what came off the scanner once, one continuous acquisition."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import InputError


@dataclass(frozen=True, eq=False)
class Run:
    """One continuous acquisition, its design and its nuisance signals.

    Exactly one of `image`, `matrix` and `planned_volumes` is given. Time 0 of `events` is the onset
    of the first volume *in the file*; `dummies` volumes at its beginning are skipped, so that
    volume ``v`` of the run (counted after them) starts at ``(v + dummies) * tr_s`` on the clock of
    the events.

    Parameters
    ----------
    subject, run, session, task : str
        BIDS entities without prefix (``"03"``); ``"n/a"`` where there is none.
    tr_s : float
        Repetition time in seconds.
    image : SpatialImage, optional
        Lazy 4-D image ``(x, y, z, n_volumes_in_file)``.
    matrix : ndarray of shape (n_volumes_in_file, n_voxels), optional
        The same as a matrix whose columns follow the True voxels of `mask` in C order.
    planned_volumes : int, optional
        Length of a run that has no data (yet): it can be labelled, not decoded.
    mask : SpatialImage, optional
        3-D brain mask of this run.
    events : DataFrame, optional
        Columns ``onset_s``, ``duration_s``, ``trial_type`` and whatever else the file holds.
    confounds : DataFrame, optional
        One row per volume in the file; removed from the signal.
    motion : DataFrame, optional
        Head motion, one row per volume in the file; only for the confound control.
    dummies : int, default 0
        Volumes at the beginning that are skipped.
    stimulus : str, default "n/a"
        Name of the stimulus that was shown throughout (a film), if there is one.
    stimulus_start_s : float, default 0
        Stimulus time at time 0 of the run.
    volume_labels : Series, optional
        Labels that come with the volumes themselves (some .mat files), one per volume in the file.
    group : str, default "n/a"
        Group of the subject in ``participants.tsv``.
    space : str, default "n/a"
        BIDS space of the image.
    source : Path, optional
        The file that the volumes come from.
    notes : tuple of str
        What the reader had to decide, for the report.

    Raises
    ------
    InputError
        When the parts do not fit together.
    """

    subject: str
    tr_s: float
    run: str = "n/a"
    session: str = "n/a"
    task: str = "n/a"
    image: SpatialImage | None = field(default=None, repr=False)
    matrix: np.ndarray | None = field(default=None, repr=False)
    planned_volumes: int | None = None
    mask: SpatialImage | None = field(default=None, repr=False)
    events: pd.DataFrame | None = field(default=None, repr=False)
    confounds: pd.DataFrame | None = field(default=None, repr=False)
    motion: pd.DataFrame | None = field(default=None, repr=False)
    dummies: int = 0
    stimulus: str = "n/a"
    stimulus_start_s: float = 0.0
    volume_labels: pd.Series | None = field(default=None, repr=False)
    group: str = "n/a"
    space: str = "n/a"
    source: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [part is not None for part in (self.image, self.matrix, self.planned_volumes)]
        if sum(given) != 1:
            raise InputError(
                self.name,
                found=f"{sum(given)} of image, matrix and planned_volumes",
                expected="exactly one of them",
                remedy="Pass image=... for a 4-D image, or matrix=... for volumes by voxels.",
            )
        if not (np.isfinite(self.tr_s) and 0.05 <= self.tr_s <= 20):
            raise InputError(
                self.name,
                found=f"tr_s = {self.tr_s}",
                expected="a repetition time between 0.05 and 20 seconds",
                remedy="Set RepetitionTime in the sidecar, or data.tr_s (seconds, not ms).",
            )
        if self.image is not None and len(self.image.shape) != 4:
            raise InputError(
                self.name,
                found=f"an image of shape {self.image.shape}",
                expected="a 4-D image (x, y, z, volumes)",
                remedy="Pass the whole run; a single volume cannot be cleaned or labelled.",
            )
        if self.n_volumes_in_file < 1:
            raise InputError(
                self.name,
                found=f"no volumes ({self.source or 'no file'})",
                expected="at least one volume",
                remedy="Check the file: its header may be damaged.",
            )
        if not 0 <= self.dummies < self.n_volumes_in_file:
            raise InputError(
                self.name,
                found=f"{self.dummies} dummies of {self.n_volumes_in_file} volumes",
                expected="fewer dummies than volumes",
                remedy="Correct data.dummies.",
            )
        self._check_lengths()

    def _check_lengths(self) -> None:
        tables = {
            "confounds": self.confounds,
            "motion": self.motion,
            "volume_labels": self.volume_labels,
        }
        for what, rows in tables.items():
            if rows is not None and len(rows) != self.n_volumes_in_file:
                raise InputError(
                    self.name,
                    found=f"{len(rows)} rows of {what} for {self.n_volumes_in_file} volumes",
                    expected="one row per volume",
                    remedy=f"Check that the {what} belong to this run, none missing.",
                )

    @property
    def name(self) -> str:
        """``sub-03 ses-movie task-film run-2``, for messages."""
        parts = [f"sub-{self.subject}"]
        for prefix, value in (("ses", self.session), ("task", self.task), ("run", self.run)):
            if value != "n/a":
                parts.append(f"{prefix}-{value}")
        return " ".join(parts)

    @property
    def n_volumes_in_file(self) -> int:
        """Volumes in the file, dummies included."""
        if self.image is not None:
            return int(self.image.shape[3])
        if self.matrix is not None:
            return int(self.matrix.shape[0])
        return int(self.planned_volumes or 0)

    @property
    def n_volumes(self) -> int:
        """Volumes after the dummies."""
        return self.n_volumes_in_file - self.dummies

    @property
    def onset_s(self) -> np.ndarray:
        """Onset of each kept volume on the clock of the events, shape (n_volumes,), seconds."""
        return (np.arange(self.n_volumes) + self.dummies) * self.tr_s

    @property
    def end_s(self) -> float:
        """End of the last volume on the clock of the events, seconds."""
        return self.n_volumes_in_file * self.tr_s
