"""Alignment decodes nothing from noise in an honest fold; the published form does, and is named."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.pipeline import Pipeline

from emodecode.align.space import CommonSpace
from emodecode.evaluate import alignfold
from emodecode.evaluate import score as scoring
from emodecode.evaluate.alignfold import with_calibration
from emodecode.evaluate.alignment import Alignment, alignment_of, alignment_of_samples
from emodecode.evaluate.audit import audit_split
from emodecode.evaluate.controls import run_controls
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.features.own import OwnVoxels
from emodecode.features.select import TopVoxels
from emodecode.models.catalogue import make_model, make_pipeline_for
from emodecode.samples import Samples
from noise_blocks import noise_samples

CHANCE = 1 / 3


def _routed(step, *, fit=True, transform=True):
    with sklearn.config_context(enable_metadata_routing=True):
        step.set_fit_request(subjects=fit)
        return step.set_transform_request(subjects=True) if transform else step


def _candidate(alignment: Alignment, *, on_all: bool = False, **choices) -> Candidate:
    select = _routed(OwnVoxels(30)) if on_all else TopVoxels(30)
    steps = [("select", select), ("align", _routed(CommonSpace(**choices)))]
    return Candidate(
        "lda",
        Pipeline([*steps, ("classifier", make_model("lda"))]),
        alignment=alignment,
        fit_on_all=("select", "align") if on_all else (),
    )


def _accuracy(samples: Samples, splits, candidate: Candidate):
    results = score(samples, splits, [candidate], progress=False)
    scores = score_predictions(results.predictions, classes=results.classes, n_permutations=1)
    return scores["models"]["lda"]["balanced_accuracy"]["value"], results


def _verdict(samples: Samples, splits, results):
    found = audit_split(samples.table, splits, fitted=results.ledger())
    return {finding.rule: finding.verdict for finding in found.findings}


def _independent(samples: Samples):
    splits = subject_by_stimulus(samples.table, groups="run")
    return splits, alignment_of(samples, samples, protocol="independent_run")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["orthogonal", "ridge"])
def test_independent_run_stays_at_chance_on_noise(how):
    values = []
    for seed in range(20):
        samples = noise_samples(seed)
        splits, alignment = _independent(samples)
        value, results = _accuracy(samples, splits, _candidate(alignment, map=how))
        values.append(value)
    assert np.mean(values) == pytest.approx(CHANCE, abs=3 * np.std(values, ddof=1) / np.sqrt(20))
    assert np.mean(values) == pytest.approx(CHANCE, abs=0.02)
    found = _verdict(samples, splits, results)
    assert "T3" not in found
    assert "leak" not in found.values()


def test_maps_see_no_test_row_and_say_what_they_saw():
    samples = noise_samples(0)
    splits, alignment = _independent(samples)
    _, results = _accuracy(samples, splits, _candidate(alignment))
    for split, steps in zip(splits, results.ledger(), strict=True):
        (step,) = [each for each in steps if each["kind"] == "alignment"]
        assert step["protocol"] == "independent_run"
        rows = step["rows"]
        seen = np.r_[split.train, split.calibrate] if rows == "train" else np.array(rows)
        assert not np.isin(split.test, seen).any()
        own = samples.subjects[split.test[0]]
        assert own in set(samples.subjects[seen])  # its other run


def test_calibration_blocks_stay_at_chance_on_noise():
    values = []
    for seed in range(10):
        samples = noise_samples(seed)
        splits = with_calibration(leave_one_subject_out(samples.table), samples.table)
        alignment = alignment_of_samples(samples, protocol="calibration_blocks")
        value, _ = _accuracy(samples, splits, _candidate(alignment, map="orthogonal"))
        values.append(value)
    assert np.mean(values) == pytest.approx(CHANCE, abs=0.03)


def test_the_published_form_decodes_noise_and_is_named_a_leak():
    values = []
    for seed in range(3):
        samples = noise_samples(seed)
        splits = leave_one_subject_out(samples.table)
        alignment = alignment_of_samples(samples, protocol="transductive")
        candidate = _candidate(alignment, on_all=True, map="orthogonal")
        value, results = _accuracy(samples, splits, candidate)
        values.append(value)
        found = _verdict(samples, splits, results)
        assert found["T2"] == "leak"  # voxels
        assert found["T3"] == "leak"  # maps
    assert min(values) > CHANCE + 0.3


def test_mapping_the_tested_subject_on_its_test_run_decodes_noise_and_is_named():
    samples = noise_samples(1)
    splits = leave_one_subject_out(samples.table)
    alignment = alignment_of_samples(samples, protocol="transductive")
    value, results = _accuracy(samples, splits, _candidate(alignment, map="orthogonal"))
    assert value > CHANCE + 0.15
    assert _verdict(samples, splits, results)["T3"] == "leak"


def test_volumes_beside_the_samples_are_found_too():
    """Unlabelled volumes between the test samples are no rows of the table: still a leak."""
    volumes = noise_samples(2)
    kept = np.flatnonzero(volumes.table["volume"] % 2 == 0)
    samples = Samples(X=volumes.X[kept], table=volumes.table.iloc[kept].reset_index(drop=True))
    splits = leave_one_subject_out(samples.table)
    between = np.flatnonzero(volumes.table["volume"] % 2 == 1)
    other = Samples(X=volumes.X[between], table=volumes.table.iloc[between].reset_index(drop=True))
    alignment = alignment_of(samples, other, protocol="transductive")
    assert (alignment.row == -1).all()
    _, results = _accuracy(samples, splits, _candidate(alignment, map="orthogonal"))
    assert _verdict(samples, splits, results)["T3"] == "leak"


def test_an_epoch_chosen_on_the_test_subject_is_named_and_raises_the_score_on_noise():
    samples = noise_samples(4, n_subjects=5)
    splits = leave_one_subject_out(samples.table)
    params = {"max_epochs": 30, "n_members": 1, "choose_by": "accuracy", "noise": 0.0}
    pipeline = make_pipeline_for("conv1d", params=params)
    honest = Candidate("lda", pipeline)
    value, results = _accuracy(samples, splits, honest)
    assert "T6" not in _verdict(samples, splits, results)
    chosen = dataclasses.replace(honest, choose_epoch_on_test=True)
    inflated, results = _accuracy(samples, splits, chosen)
    assert _verdict(samples, splits, results)["T6"] == "leak"
    assert inflated > value + 0.02
    for split, fold in zip(splits, results.folds, strict=True):
        best = [epoch for epoch in fold["history"] if epoch["best"]]
        own = results.predictions[results.predictions["fold"] == split.name]
        hits = (own["label"] == own["predicted"]).mean()
        assert len(best) == 1
        assert best[0]["valid_accuracy"] == pytest.approx(hits, abs=1e-6)


def test_the_canary_falls_to_chance_only_where_the_alignment_is_honest():
    samples = noise_samples(3)
    verdicts = {}
    for name in ("independent_run", "transductive"):
        splits, alignment = _independent(samples)
        if name == "transductive":
            splits = leave_one_subject_out(samples.table)
            alignment = alignment_of_samples(samples, protocol=name)
        candidate = _candidate(alignment, map="orthogonal")
        results = score(samples, splits, [candidate], progress=False)
        controls = run_controls(
            samples, splits, [candidate], results=results, share=2.0, progress=False
        )
        found = {each.name: each for each in controls}
        verdicts[name] = found["canary"].passed, found["noise_replay"].passed
    assert verdicts == {"independent_run": (True, True), "transductive": (False, False)}


def test_decoders_of_a_fold_share_one_common_space_and_nothing_else(monkeypatch):
    samples = noise_samples(5)
    splits, alignment = _independent(samples)
    first = _candidate(alignment, map="orthogonal")
    second = dataclasses.replace(first, name="again")
    alone = score(samples, splits, [second], progress=False).predictions
    fits = _count_fits(monkeypatch)
    both = score(samples, splits, [first, second], progress=False)
    assert len(fits) == len(splits)
    own = both.predictions[both.predictions["model"] == "again"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, alone)
    assert both.folds[0]["fitted"] == both.folds[len(splits)]["fitted"]


def _film_aligned(**more):
    """Blocks without a common stimulus and a film that all saw, both of noise."""
    samples, film = noise_samples(5, n_subjects=5), noise_samples(9, n_subjects=5)
    table = samples.table.assign(stimulus="n/a", stimulus_time_s=np.nan)
    shown = film.table.assign(run="film-" + film.table["run"].astype(str))
    samples = Samples(X=samples.X, table=table)
    alignment = alignment_of(samples, Samples(X=film.X, table=shown))
    return samples, _candidate(alignment, map="orthogonal", **more)


def _count_fits(monkeypatch) -> list[int]:
    fits, fit = [], CommonSpace.fit
    monkeypatch.setattr(
        CommonSpace, "fit", lambda self, *args, **more: fits.append(1) or fit(self, *args, **more)
    )
    alignfold.forget_space()
    return fits


def test_a_tuned_decoder_leaves_the_common_space_of_the_fold_to_the_others(monkeypatch):
    samples, first = _film_aligned()
    tuned = dataclasses.replace(
        first, name="tuned", grid={"classifier__classifier__shrinkage": [0.1, 0.9]}
    )
    last = dataclasses.replace(first, name="last")
    fits = _count_fits(monkeypatch)
    split = leave_one_subject_out(samples.table)[:1]
    score(samples, split, [first, tuned, last], tuning=Tuning(n_folds=2), progress=False)
    assert len(fits) == 1 + 2  # the fold's own and two inner ones


def test_workers_let_the_common_space_go_when_a_fold_is_done():
    samples, candidate = _film_aligned()
    splits = leave_one_subject_out(samples.table)[:1]
    tasks = scoring._tasks(samples, splits, [candidate], Tuning(), 0, None)
    given = samples.X, samples.table, samples.classes
    scoring._run_group(*given, tasks, Tuning(), None)
    assert not alignfold._FITTED


def test_steps_of_another_kind_do_not_share_a_common_space(monkeypatch):
    class Other(CommonSpace):
        pass

    samples, candidate = _film_aligned()
    other = _routed(Other(map="orthogonal"))
    steps = [(name, other if name == "align" else each) for name, each in candidate.pipeline.steps]
    other = dataclasses.replace(candidate, name="other", pipeline=Pipeline(steps))
    fits = _count_fits(monkeypatch)
    score(samples, leave_one_subject_out(samples.table)[:1], [candidate, other], progress=False)
    assert len(fits) == 2
