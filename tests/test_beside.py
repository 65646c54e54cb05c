"""References of aligned decoders: each is scored for itself, or not with its own reason."""

import dataclasses

import pytest
import sklearn
from sklearn.pipeline import Pipeline

from emodecode.align.space import CommonSpace
from emodecode.evaluate.alignment import alignment_of
from emodecode.evaluate.beside import score_beside
from emodecode.evaluate.foldfit import Candidate, Tuning
from emodecode.evaluate.score import score
from emodecode.evaluate.splits import leave_one_subject_out
from emodecode.features.own import OwnVoxels
from emodecode.features.select import TopVoxels
from emodecode.models.catalogue import make_model
from emodecode.samples import Samples
from noise_blocks import noise_samples


def _routed(step):
    with sklearn.config_context(enable_metadata_routing=True):
        return step.set_fit_request(subjects=True).set_transform_request(subjects=True)


def _data(*, kept=None):
    """Noise in blocks that no subject shares, and a film of noise to align on."""
    samples, film = noise_samples(0, n_subjects=5), noise_samples(9, n_subjects=5)
    table = samples.table.assign(stimulus="n/a", stimulus_time_s=float("nan"))
    rows = slice(None) if kept is None else kept(table).to_numpy()
    samples = Samples(X=samples.X[rows], table=table[rows].reset_index(drop=True))
    shown = film.table.assign(run="film-" + film.table["run"].astype(str))
    return samples, alignment_of(samples, Samples(X=film.X, table=shown))


def _candidate(alignment, *, own=False):
    select = _routed(OwnVoxels(20)) if own else TopVoxels(20)
    steps = [("select", select), ("align", _routed(CommonSpace(map="orthogonal")))]
    steps.append(("classifier", make_model("lda")))
    more = {"fit_on_all": ("select", "align")} if own else {}
    return Candidate("own" if own else "lda", Pipeline(steps), alignment=alignment, **more)


def _beside(samples, candidates, *, results=None):
    splits, how = leave_one_subject_out(samples.table), {"tuning": Tuning(n_folds=2)}
    results = results or score(samples, splits, candidates, **how, progress=False)
    how |= {"results": results, "verdict": "clean", "n_permutations": 5, "progress": False}
    found = score_beside(samples, splits, candidates, **how)
    return {(each["model"], each["kind"]): each for each in found}


def test_a_decoder_that_cannot_be_scored_leaves_the_others_alone():
    samples, alignment = _data()
    plain, own = _candidate(alignment), _candidate(alignment, own=True)
    found = _beside(samples, [own, plain])
    assert list(found) == [
        (name, kind) for name in ("own", "lda") for kind in ("unaligned", "within_subject")
    ]
    for (name, kind), each in found.items():
        assert each["why_not"] == ("own voxels cannot do without it" if name == "own" else None)
        assert ("gain" in each) == (name == "lda" and kind == "unaligned")
    alone = _beside(samples, [plain])
    for key, each in alone.items():
        assert each["balanced_accuracy"] == found[key]["balanced_accuracy"]


def test_a_tuned_decoder_without_inner_folds_is_the_only_one_left_out():
    """A block of each class in a run: enough to train on, too little to divide again."""
    samples, alignment = _data(
        kept=lambda table: (table["run"] + table["block"]).isin(["100", "101", "201", "205"])
    )
    plain = _candidate(alignment)
    grid = {"classifier__classifier__shrinkage": [0.1, 0.9]}
    found = _beside(samples, [dataclasses.replace(plain, name="tuned", grid=grid), plain])
    assert found["lda", "within_subject"]["why_not"] is None
    assert "no division" in found["tuned", "within_subject"]["why_not"]
    assert found["tuned", "unaligned"]["why_not"] is None


@pytest.mark.parametrize(
    ("kept", "why"),
    [
        (lambda table: table["run"] == "1", "each subject has one run"),
        (
            lambda table: (table["run"] == "1") != (table["label"] == "c0"),
            "no subject's other runs hold all classes of a run",
        ),
    ],
)
def test_why_no_subject_is_tested_on_its_own_runs_is_true(kept, why):
    samples, alignment = _data(kept=kept)
    samples_of = _beside(samples, [_candidate(alignment)])
    assert samples_of["lda", "within_subject"]["why_not"] == why
