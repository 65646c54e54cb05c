"""Pure noise in a block design whose order all subjects share, for proofs that nothing leaks."""

import numpy as np

from designs import blocks
from emodecode.samples import Samples
from emodecode.simulate.signals import autoregressive


def noise_samples(seed: int, *, n_subjects: int = 8, n_voxels: int = 60, rho: float = 0.4):
    """Samples of AR(1) noise: 2 runs x 9 blocks of 10 volumes, three classes, one common order.

    Stimulus moments are the same for everybody, as in S2's design, and each run has its own.
    """
    table = blocks(n_subjects=n_subjects, order="common", seed=seed)
    table["stimulus"] = "pictures " + table["run"]
    table["stimulus_time_s"] = table["onset_s"]
    rng = np.random.default_rng([seed, 7])
    scans = [
        autoregressive(rng, (90, n_voxels), rho=rho, dtype=np.float32)
        for _ in range(2 * n_subjects)
    ]
    return Samples(X=np.concatenate(scans).astype(np.float32), table=table)
