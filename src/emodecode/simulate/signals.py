"""Time courses and fields: haemodynamic response, noise, drift, physiology, head motion."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve, lfilter
from scipy.special import gammaln

from emodecode.simulate.brain import Brain
from emodecode.simulate.recipe import Recipe

DRIFT_PERIOD_S = 150.0
HEAD_RADIUS_MM = 50.0
MOTION_COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
BREATHING_HZ, HEART_HZ = 0.3, 1.1
FWHM_TO_SD = 1 / np.sqrt(8 * np.log(2))


def response(*, peak_s: float, dt_s: float, length_s: float = 32.0) -> np.ndarray:
    """Haemodynamic response as a difference of two gamma densities, of sum 1.

    The first peaks at `peak_s`; the second, a sixth of it, ten seconds later.
    """
    time_s = np.arange(0, length_s, dt_s)
    curve = _gamma_density(time_s, peak_s + 1) - _gamma_density(time_s, peak_s + 11) / 6
    return curve / curve.sum()


def _gamma_density(time_s: np.ndarray, shape: float) -> np.ndarray:
    """Density of unit scale; its mode lies at ``shape - 1``."""
    return time_s ** (shape - 1) * np.exp(-time_s - gammaln(shape))


def convolve(neural: np.ndarray, *, peak_s: float, dt_s: float, step: int) -> np.ndarray:
    """Blur ``(n_fine, ...)`` neural courses by the response; keep every `step`-th sample."""
    curve = response(peak_s=peak_s, dt_s=dt_s)
    curve = curve.reshape(-1, *[1] * (neural.ndim - 1))
    return fftconvolve(neural, curve, axes=0)[: len(neural) : step]


def autoregressive(
    rng: np.random.Generator, shape: tuple[int, ...], *, rho: float, dtype: type = np.float64
) -> np.ndarray:
    """AR(1) noise along the first axis, stationary, of unit variance."""
    noise = rng.standard_normal(shape, dtype=dtype)
    noise[1:] *= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=0).astype(dtype, copy=False)


def smooth_field(
    rng: np.random.Generator, brain: Brain, *, fwhm_mm: float, n_fields: int
) -> np.ndarray:
    """Smooth random fields inside the brain, (n_fields, n_voxels), each of unit variance."""
    sigma = fwhm_mm * FWHM_TO_SD / brain.voxel_mm
    out = np.empty((n_fields, brain.n_voxels), dtype=np.float32)
    for row in out:
        volume = rng.standard_normal(brain.inside.shape, dtype=np.float32)
        row[:] = _blur(volume, sigma)[brain.inside]
    return out / _blur_gain(sigma, brain.inside.shape)


def _blur(volume: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(volume, sigma, mode="wrap") if sigma > 0 else volume


def _blur_gain(sigma: float, shape: tuple[int, ...]) -> float:
    """Standard deviation that white noise of unit variance keeps."""
    impulse = np.zeros(shape)
    impulse[tuple(n // 2 for n in shape)] = 1
    return float(np.sqrt((_blur(impulse, sigma) ** 2).sum()))


def smooth_noise(
    rng: np.random.Generator, brain: Brain, recipe: Recipe, *, n_volumes: int
) -> Iterator[np.ndarray]:
    """Spatially smooth AR(1) noise, one volume (n_voxels,) after the other, of unit variance."""
    rho = np.clip(rng.normal(recipe.ar1, recipe.ar1_sd, brain.n_voxels), 0, 0.9)
    rho = rho.astype(np.float32)
    fresh = np.sqrt(1 - rho**2)
    state = smooth_field(rng, brain, fwhm_mm=recipe.smoothness_mm, n_fields=1)[0]
    sigma = recipe.smoothness_mm * FWHM_TO_SD / brain.voxel_mm
    gain = _blur_gain(sigma, brain.inside.shape)
    for _ in range(n_volumes):
        yield state
        volume = rng.standard_normal(brain.inside.shape, dtype=np.float32)
        state = rho * state + fresh * (_blur(volume, sigma)[brain.inside] / gain)


def drift(
    rng: np.random.Generator, brain: Brain, *, n_volumes: int, tr_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Slow cosines up to 1/150 Hz: courses (n_volumes, n) and maps (n, n_voxels)."""
    n_cosines = max(1, int(2 * n_volumes * tr_s / DRIFT_PERIOD_S))
    phase = np.pi * (np.arange(n_volumes) + 0.5) / n_volumes
    courses = np.sqrt(2 / n_cosines) * np.cos(np.outer(phase, np.arange(1, n_cosines + 1)))
    return courses, smooth_field(rng, brain, fwhm_mm=40.0, n_fields=n_cosines)


def physiology(
    rng: np.random.Generator, brain: Brain, *, n_volumes: int, tr_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Breathing and pulse, aliased by the TR: courses (n_volumes, 2) and maps (2, n_voxels)."""
    time_s = np.arange(n_volumes) * tr_s
    courses = []
    for rate_hz in (BREATHING_HZ, HEART_HZ):
        rate = rate_hz * (1 + 0.05 * rng.standard_normal())
        wander = np.cumsum(0.2 * rng.standard_normal(n_volumes))
        courses.append(np.sin(2 * np.pi * rate * time_s + wander))
    maps = smooth_field(rng, brain, fwhm_mm=20.0, n_fields=2)
    return np.stack(courses, axis=1), np.sqrt(0.5) * (1 + maps)


def head_motion(rng: np.random.Generator, recipe: Recipe, *, n_volumes: int) -> pd.DataFrame:
    """Motion parameters (mm, radians) of a wandering head with spikes, fMRIPrep's names."""
    step = recipe.fd_mm / 6 * np.sqrt(np.pi / 2)
    steps = step * rng.standard_normal((n_volumes, 6))
    steps[0] = 0
    if recipe.fd_mm > 0:
        for _ in range(recipe.n_spikes):
            direction = rng.standard_normal(6)
            size = rng.uniform(0.5, 1.0) / np.abs(direction).sum()
            when = rng.integers(1, n_volumes - 1)
            steps[when] += size * direction
            steps[when + 1] -= 0.8 * size * direction
    position = np.cumsum(steps, axis=0)
    position[:, 3:] /= HEAD_RADIUS_MM
    return pd.DataFrame(position, columns=list(MOTION_COLUMNS))


def framewise_displacement(motion: pd.DataFrame) -> np.ndarray:
    """Power's framewise displacement in mm, NaN for the first volume."""
    change = np.abs(np.diff(motion[list(MOTION_COLUMNS)].to_numpy(), axis=0))
    change[:, 3:] *= HEAD_RADIUS_MM
    return np.concatenate([[np.nan], change.sum(axis=1)])


def motion_maps(brain: Brain, intensity: np.ndarray) -> np.ndarray:
    """Change of each voxel per mm or radian of motion, (6, n_voxels), to first order."""
    volume = np.zeros(brain.inside.shape)
    volume[brain.inside] = intensity
    slopes = np.gradient(gaussian_filter(volume, 1.0), brain.voxel_mm)
    slope = np.stack([part[brain.inside] for part in slopes], axis=1)
    turn = np.cross(brain.coordinates_mm(), slope)
    return np.concatenate([slope, turn], axis=1).T
