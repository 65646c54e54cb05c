"""The canonical haemodynamic response, to weight labels by it instead of shifting them."""

import numpy as np

STEP_S = 0.1
HRF_LENGTH_S = 32.0
HRF_DELAY_S = 5.0
"""From a moment of the stimulus to the peak of its response (SPM's canonical form), seconds."""


def convolve_with_hrf(courses: np.ndarray) -> np.ndarray:
    """Response to courses on a grid of `STEP_S`: (n_classes, n_steps) -> the same shape.

    The SPM form (nilearn) with unit sum: an endless block of height 1 has a plateau of 1. What
    happens in one step responds from that step on; nothing is known before the first step.
    """
    from nilearn.glm.first_level.hemodynamic_models import spm_hrf
    from scipy.signal import fftconvolve

    kernel = spm_hrf(STEP_S, oversampling=1, time_length=HRF_LENGTH_S)
    full = fftconvolve(courses, kernel[None, :], axes=1)
    return full[:, : courses.shape[1]]


def fine_grid(end_s: float) -> np.ndarray:
    """Times from 0 to `end_s` in steps of `STEP_S`, the last one included."""
    return np.arange(int(np.ceil(end_s / STEP_S)) + 1) * STEP_S


def sample_courses(courses: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Values of courses on the fine grid at other times, linear between its steps."""
    grid = np.arange(courses.shape[1]) * STEP_S
    return np.stack([np.interp(times_s, grid, course) for course in courses])
