"""Haufe patterns against the closed form, a regression, and Haufe's own example."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from emodecode.explain.patterns import haufe_patterns


def _data(n_outputs, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    return X.astype(np.float32), rng.normal(size=(n_outputs, 12))


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_joint_form_is_equation_6(n_outputs):
    X, weights = _data(n_outputs)
    covariance = np.cov(X.astype(float).T)
    outputs = np.atleast_2d(np.cov((X @ weights.T).T))
    wanted = (covariance @ weights.T @ np.linalg.inv(outputs)).T
    np.testing.assert_allclose(haufe_patterns(X, weights), wanted, rtol=1e-5)


def test_the_joint_form_is_the_regression_of_voxels_on_outputs():
    X, weights = _data(3)
    fitted = LinearRegression().fit(X @ weights.T, X.astype(float))
    np.testing.assert_allclose(haufe_patterns(X, weights), fitted.coef_.T, rtol=1e-5)


def test_each_output_by_itself_is_a_regression_on_it_alone():
    X, weights = _data(3)
    found = haufe_patterns(X, weights, jointly=False)
    for pattern, own in zip(found, weights, strict=True):
        fitted = LinearRegression().fit((X @ own)[:, None], X.astype(float))
        np.testing.assert_allclose(pattern, fitted.coef_[:, 0], rtol=1e-5)


def test_a_voxel_that_only_cancels_noise_has_a_weight_and_no_pattern():
    """Haufe et al. 2014, section 2: x1 = s + d, x2 = d, so that w = (1, -1) and a = (1, 0)."""
    rng = np.random.default_rng(1)
    signal, noise = rng.normal(size=(2, 20_000))
    X = np.column_stack([signal + noise, noise])
    (pattern,) = haufe_patterns(X, np.array([[1.0, -1.0]]))
    np.testing.assert_allclose(pattern, [1, 0], atol=0.03)


def test_parts_change_nothing():
    X, weights = _data(3)
    for jointly in (True, False):
        whole = haufe_patterns(X, weights, jointly=jointly)
        parts = haufe_patterns(X, weights, jointly=jointly, chunk_voxels=5)
        np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_outputs_that_depend_on_each_other_are_shared_among_them():
    """Two equal outputs have no inverse covariance: each gets half of the pattern."""
    X, weights = _data(1)
    both = haufe_patterns(X, np.vstack([weights, weights]))
    np.testing.assert_allclose(both[0], haufe_patterns(X, weights)[0] / 2, rtol=1e-5)
    np.testing.assert_allclose(both[1], both[0], rtol=1e-8)
