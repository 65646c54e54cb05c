"""Segments found again in other subjects, inter-subject correlation, spaces compared."""

import numpy as np
import pandas as pd
import pytest

from emodecode.align.space import CommonSpace
from emodecode.errors import InputError
from emodecode.evaluate.matching import compare_spaces, intersubject_correlation, match_segments
from emodecode.samples import TABLE_COLUMNS, TEXT_COLUMNS, Samples


def test_equal_subjects_match_always_and_noise_at_chance():
    rng = np.random.default_rng(0)
    course = rng.standard_normal((200, 5))
    accuracy, chance = match_segments(dict.fromkeys("abc", course))
    assert accuracy == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert chance == 1 / 20
    noise = {str(n): rng.standard_normal((2000, 4)) for n in range(12)}
    accuracy, chance = match_segments(noise)
    assert np.mean(list(accuracy.values())) == pytest.approx(chance, abs=0.005)


def test_matching_is_the_largest_correlation_of_whole_segments():
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((60, 3))
    data = {name: shared + rng.standard_normal((60, 3)) for name in "abcd"}
    accuracy, _ = match_segments(data, segment_volumes=6)
    others = np.mean([data[name] for name in "bcd"], axis=0)
    hits = []
    for segment in range(10):
        own = data["a"][6 * segment : 6 * segment + 6].ravel()
        found = [np.corrcoef(own, others[6 * k : 6 * k + 6].ravel())[0, 1] for k in range(10)]
        hits.append(int(np.argmax(found)) == segment)
    assert accuracy["a"] == np.mean(hits)


def test_a_subject_may_lack_volumes_at_the_end():
    course = np.random.default_rng(2).standard_normal((100, 4))
    accuracy, chance = match_segments({"a": course, "b": course[:57], "c": course})
    assert accuracy == {"a": 1.0, "b": 1.0, "c": 1.0}
    assert chance == 0.1


def test_isc_is_the_mean_correlation_with_the_others():
    rng = np.random.default_rng(3)
    data = {name: rng.standard_normal((50, 2)) + np.arange(50)[:, None] / 20 for name in "abc"}
    found = intersubject_correlation(data)
    others = (data["b"] + data["c"]) / 2
    expected = [np.corrcoef(data["a"][:, k], others[:, k])[0, 1] for k in range(2)]
    assert found["a"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("data", [{"a": np.ones((50, 2))}, dict.fromkeys("ab", np.ones((15, 2)))])
def test_too_little_is_refused(data):
    with pytest.raises(InputError, match="two subjects and two segments"):
        match_segments(data)


def _rotated(n_runs: int, seed: int = 4) -> Samples:
    """Five subjects whose voxels are rotations of the same six courses, with some noise."""
    rng = np.random.default_rng(seed)
    matrices, rows = [], []
    for run in range(n_runs):
        course = rng.standard_normal((120, 6))
        for subject in range(5):
            turn = np.linalg.qr(np.random.default_rng([9, subject]).standard_normal((6, 6)))[0]
            matrices.append(course @ turn + 0.3 * rng.standard_normal((120, 6)))
            rows += [(str(subject), str(run + 1), volume) for volume in range(120)]
    table = pd.DataFrame(rows, columns=["subject", "run", "volume"])
    for name in TABLE_COLUMNS:
        if name not in table:
            table[name] = "n/a" if name in TEXT_COLUMNS else np.nan
    return Samples(X=np.concatenate(matrices).astype(np.float32), table=table)


@pytest.mark.parametrize("n_runs", [1, 2])
def test_alignment_finds_what_rotations_have_hidden_on_volumes_it_never_saw(n_runs):
    steps = {"none": None, "rotated": CommonSpace(map="orthogonal")}
    found = compare_spaces(_rotated(n_runs), steps)
    assert len(found) == 4
    for plain, aligned in zip(found[::2], found[1::2], strict=True):
        assert plain.tested_on == aligned.tested_on
        assert plain.fitted_on != plain.tested_on
        assert np.mean(list(plain.matching.values())) < 0.6
        assert np.mean(list(aligned.matching.values())) > 0.95
        row = aligned.row()
        assert row["isc_low"] <= row["isc"] <= row["isc_high"]
        assert row["n_subjects"] == 5


def test_where_nothing_is_shared_alignment_finds_nothing():
    volumes = _rotated(2)
    noise = np.random.default_rng(5).standard_normal(volumes.X.shape).astype(np.float32)
    found = compare_spaces(
        Samples(X=noise, table=volumes.table), {"rotated": CommonSpace(map="orthogonal")}
    )
    for each in found:
        assert np.mean(list(each.matching.values())) == pytest.approx(each.chance, abs=0.09)
