"""Equality with PyMVPA 2.6.5: every recorded case, level by level, and its single Procrustes."""

import json
from pathlib import Path

import numpy as np
import pytest

from emodecode.align.hyperalignment import Options, hyperalign, hyperalign_levels, map_to_common
from emodecode.align.procrustes import procrustes

FOLDER = Path(__file__).parent / "fixtures" / "hyperalignment"
INPUTS = np.load(FOLDER / "ha_inputs.npz")
PYMVPA = np.load(FOLDER / "ha_pymvpa.npz")
CASES = {case["name"]: case for case in json.loads(str(INPUTS["cases_json"]))}
EQUAL = sorted(set(CASES) - {"constvoxel"})
# held-out data leave the span of the fitting data: PyMVPA's are arbitrary there
DETERMINED = [name for name in EQUAL if f"{name}/held_0" in PYMVPA and CASES[name]["data"] != "C"]


def _data(letter):
    names = sorted(name for name in INPUTS.files if name.startswith(f"{letter}_"))
    return [INPUTS[name].astype(np.float64) for name in names]


def _recorded(name, array, n_subjects):
    return [PYMVPA[f"{name}/{array}_{i}"] for i in range(n_subjects)]


def _options(case):
    options = dict(case["kw"]) | case.get("proc", {})
    if "ref_ds" in options:
        options["ref"] = options.pop("ref_ds")
    if options.pop("level1_equal_weight", False):
        options["level1_weight"] = "pymvpa-equal"
    return options


def _solved(name):
    case = CASES[name]
    data = _data(case["data"])
    train = [data[i] for i in case.get("train", range(len(data)))]
    levels = hyperalign_levels(train, Options(**_options(case)))
    new = [map_to_common(X, levels.common) for X in data[len(train) :]]
    return data, levels, [*levels.mappers, *new]


def _signs(found, recorded):
    """Axes of `output_dim` are determined up to their sign."""
    return np.sign((found * recorded).sum(axis=0)) if recorded.shape[1] == 7 else 1.0


def _assert_float32(found, recorded):
    found = found * _signs(found, recorded)
    np.testing.assert_allclose(found, recorded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", EQUAL)
def test_common_space_and_scales(name):
    _, levels, mappers = _solved(name)
    np.testing.assert_allclose(levels.common, PYMVPA[f"{name}/common"], rtol=0, atol=1e-10)
    assert levels.ref == PYMVPA[f"{name}/ref"]
    if _options(CASES[name]).get("scaling", True):
        scales = [mapper.scale for mapper in mappers]
        recorded = _recorded(name, "scale", len(mappers))
        np.testing.assert_allclose(scales, recorded, rtol=1e-12, atol=1e-12)
    else:  # PyMVPA records the scale that it does not apply
        assert all(mapper.scale == 1.0 for mapper in mappers)


@pytest.mark.parametrize("name", EQUAL)
def test_level_by_level(name):
    """|a_i - common| in level 1 and in every sweep of level 2, and after level 3 (new ones too)."""
    data, levels, mappers = _solved(name)
    np.testing.assert_allclose(levels.residuals, PYMVPA[f"{name}/train_res"], atol=1e-10)
    assert len(levels.level2) == Options(**_options(CASES[name])).level2_niter + 1
    if "output_dim" not in _options(CASES[name]):
        pairs = zip(mappers, data, strict=True)
        last = [np.linalg.norm(mapper(X) - levels.common) for mapper, X in pairs]
        np.testing.assert_allclose(last, PYMVPA[f"{name}/res"][0], atol=1e-10)


@pytest.mark.parametrize("name", EQUAL)
def test_training_projections(name):
    data, _, mappers = _solved(name)
    recorded = _recorded(name, "aligned", len(mappers))
    for mapper, X, aligned in zip(mappers, data, recorded, strict=True):
        _assert_float32(mapper(X), aligned)


@pytest.mark.parametrize("name", DETERMINED)
def test_held_out_projections(name):
    _, _, mappers = _solved(name)
    recorded = _recorded(name, "held", len(mappers))
    for mapper, X, held in zip(mappers, _data("H"), recorded, strict=True):
        _assert_float32(mapper(X), held)


@pytest.mark.parametrize("name", [n for n in DETERMINED if n != "outdim7"])
def test_matrices(name):
    """PyMVPA keeps the rotation alone: z-scores and the projection of alpha come before it."""
    options = _options(CASES[name])
    data, _, mappers = _solved(name)
    for i, (X, mapper) in enumerate(zip(data, mappers, strict=True)):
        before = np.eye(X.shape[1])
        if options.get("zscore_all"):
            before = before / X.std(axis=0)[:, None]
            X = (X - X.mean(axis=0)) / X.std(axis=0)
        if "alpha" in options:
            square, axes = np.linalg.eigh(X.T @ X)
            power = (1 - options["alpha"]) * square + options["alpha"]
            before = before @ (axes / np.sqrt(power)) @ axes.T
        whole = before @ PYMVPA[f"{name}/proj_{i}"]
        np.testing.assert_allclose(mapper.matrix(), whole, rtol=1e-6, atol=2e-6)


def test_the_public_function_gives_the_same():
    common, mappers = hyperalign(_data("A"), level2_niter=3)
    np.testing.assert_allclose(common, PYMVPA["niter3/common"], rtol=0, atol=1e-10)
    _assert_float32(mappers[3](_data("A")[3]), PYMVPA["niter3/aligned_3"])


def test_float32_as_recorded_gives_the_same_common_space():
    data = [INPUTS[f"A_{i}"] for i in range(5)]
    common, mappers = hyperalign(data)
    np.testing.assert_allclose(common, PYMVPA["default/common"], rtol=0, atol=1e-10)
    assert mappers[0].left.dtype == np.float32
    np.testing.assert_allclose(mappers[1](data[1]), PYMVPA["default/aligned_1"], atol=2e-5)


def test_noiseless_rotations_are_recovered():
    """X_i = X Q_i: ``R_i R_j' = Q_i' Q_j``."""
    _, mappers = hyperalign(_data("D"))
    rotations = [mapper.matrix() / mapper.scale for mapper in mappers]
    planted = [INPUTS[f"Qtrue_{i}"].astype(np.float64) for i in range(4)]
    for i in range(4):
        for j in range(4):
            own = rotations[i] @ rotations[j].T
            np.testing.assert_allclose(own, planted[i].T @ planted[j], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"zscore_all": True}, {"reflection": False}])
def test_a_constant_voxel_changes_nothing(options):
    """PyMVPA blows rounding noise up to unit variance there: it must not be matched."""
    data, kept = _data("K"), np.arange(24) != 3
    assert np.ptp(data[0][:, 3]) == 0
    common, mappers = hyperalign(data, **options)
    less, mappers_less = hyperalign([X[:, kept] for X in data], **options)
    np.testing.assert_allclose(common[:, kept], less, rtol=0, atol=1e-12)
    assert np.abs(common[:, 3]).max() == 0
    for X, mapper, one_less in zip(data, mappers, mappers_less, strict=True):
        np.testing.assert_allclose(mapper(X)[:, kept], one_less(X[:, kept]), rtol=0, atol=1e-12)
        assert list(mapper.constant) == [3]
        assert mapper.scale == pytest.approx(one_less.scale, abs=1e-12)
        moved = X + 1e6 * (np.arange(24) == 3)
        np.testing.assert_allclose(mapper(moved), mapper(X), rtol=0, atol=1e-12)
    assert np.abs(common - PYMVPA["constvoxel/common"]).max() > 0.1


SINGLE = {
    "p_default": ("A_1", "A_0", {}),
    "p_noscale": ("A_1", "A_0", {"scaling": False}),
    "p_norefl": ("A_1", "A_0", {"reflection": False}),
    "p_up": ("B_3", "B_2", {}),
    "p_down": ("B_2", "B_3", {}),
}


@pytest.mark.parametrize("name", SINGLE)
def test_single_procrustes(name):
    source, target, options = SINGLE[name]
    source, target = INPUTS[source].astype(np.float64), INPUTS[target].astype(np.float64)
    mapper = procrustes(source, target, **options)
    np.testing.assert_allclose(mapper.matrix(), PYMVPA[f"{name}/proj"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(mapper(source), PYMVPA[f"{name}/fwd"], rtol=0, atol=1e-12)
    if f"{name}/rev" in PYMVPA:
        back = (target - mapper.mean_out) @ mapper.matrix().T / mapper.scale**2 + mapper.mean_in
        np.testing.assert_allclose(back, PYMVPA[f"{name}/rev"], rtol=0, atol=1e-11)


def test_single_procrustes_without_means():
    """`p_nodemean` keeps the means, which we never do: data beside their negatives have none.

    `p_oblique` is ordinary least squares, no Procrustes problem, and out of scope.
    """
    source, target = INPUTS["A_1"].astype(np.float64), INPUTS["A_0"].astype(np.float64)
    mapper = procrustes(np.vstack([source, -source]), np.vstack([target, -target]))
    np.testing.assert_allclose(mapper.matrix(), PYMVPA["p_nodemean/proj"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(mapper(source), PYMVPA["p_nodemean/fwd"], rtol=0, atol=1e-11)
