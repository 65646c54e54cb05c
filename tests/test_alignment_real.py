"""Alignment of real subjects: segments of a film are found again in runs that no map has seen."""

import numpy as np
import pytest

from emodecode.align.space import CommonSpace
from emodecode.evaluate.matching import match_segments
from emodecode.read.mat import read_mat

pytestmark = pytest.mark.data

N_FIRST, N_SECOND = 946, 980  # subject 5 lacks the last 50 volumes of the second run


@pytest.fixture(scope="module")
def sherlock(data_dir):
    runs, _ = read_mat(
        path=data_dir / "sherlock_chen2017",
        pattern="pmc_nn_sherlock_movie_s{subject}.mat",
        key="rdata",
        layout="voxels_by_time",
        voxel_order="F",
        mask=data_dir / "sherlock_chen2017/pmc_nn.nii",
        tr_s=1.5,
        run_volumes=[946, 1030],
        stimulus="sherlock",
        missing="truncate",
    )
    halves: dict[str, dict[str, np.ndarray]] = {"1": {}, "2": {}}
    for run in runs:
        halves[run.run][run.subject] = _standardised(run.matrix)
    second = {name: values[:N_SECOND] for name, values in halves["2"].items()}
    return halves["1"], second


def _standardised(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)


def _matched(first, second, **choices) -> float:
    X = np.concatenate(list(first.values()))
    subjects = np.repeat(list(first), N_FIRST)
    step = CommonSpace(**choices).fit(X, np.tile(np.arange(N_FIRST), len(first)), subjects=subjects)
    mapped = {
        name: step.transform(values, subjects=np.full(len(values), name))
        for name, values in second.items()
    }
    return float(np.mean(list(match_segments(mapped)[0].values())))


def test_segments_of_the_second_run_are_found_with_maps_of_the_first(sherlock):
    first, second = sherlock
    accuracy, chance = match_segments(second)
    assert len(second) == 17
    assert chance == pytest.approx(0.010, abs=0.0005)
    assert np.mean(list(accuracy.values())) == pytest.approx(0.14, abs=0.01)
    assert _matched(first, second, map="orthogonal") >= 0.24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "at_least"),
    [
        ({"map": "ridge"}, 0.27),
        ({"map": "promises"}, 0.23),
        ({"method": "template", "map": "orthogonal"}, 0.23),
        ({"method": "srm"}, 0.19),
    ],
)
def test_each_further_method_finds_more_than_no_alignment(sherlock, choices, at_least):
    assert _matched(*sherlock, **choices) >= at_least
