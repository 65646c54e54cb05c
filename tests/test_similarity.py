"""Similarity of a study: against the building blocks, planted geometries, and refusals."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emodecode.explain.crossnobis import crossnobis_rdm, subject_rdms
from emodecode.explain.noise import cell_residuals, estimate_noise
from emodecode.explain.rdm import condition_means, correlation_rdm, distance_rdm, pairs_of
from emodecode.explanation import brain_rdms
from emodecode.explanation.brain_rdms import class_means, partitions
from emodecode.explanation.similarity import describe_similarity
from emodecode.features.clean import centre
from emodecode.read.table import read_feature_tables
from emodecode.samples import TABLE_COLUMNS, Samples

CLASSES = ("anger", "fear", "joy", "love", "sadness")
AFFECT = pd.DataFrame(
    {"valence": [-1.0, -0.9, 1.0, 0.95, -0.8], "arousal": [0.8, 0.6, 0.2, -0.3, -0.9]}, CLASSES
)
QUICK = {"n_bootstrap": 500, "n_permutations": 200}


def _table(rows):
    """Sample table of (subject, run, onset_s, label)."""
    table = pd.DataFrame(rows, columns=["subject", "run", "onset_s", "label"])
    for name in TABLE_COLUMNS:
        if name not in table:
            table[name] = np.nan if name in ("stimulus_time_s", "agreement") else "n/a"
    return table.assign(volume=np.arange(len(table)))[list(TABLE_COLUMNS)]


def _samples(seed=0, *, places=None, n_subjects=8, n_runs=3, per_run=3, classes=CLASSES, n=40):
    """Subjects whose class patterns lie at `places` of axes that are each subject's own."""
    rng = np.random.default_rng(seed)
    places = np.zeros((len(classes), 2)) if places is None else np.asarray(places)
    rows, X = [], []
    for subject in range(n_subjects):
        patterns = places @ rng.standard_normal((places.shape[1], n))
        for run in range(n_runs):
            for number in range(per_run * len(classes)):
                k = number % len(classes)
                rows.append((f"{subject:02d}", str(run), 10.0 * number, classes[k]))
                X.append(patterns[k] + rng.standard_normal(n))
    return Samples(X=np.array(X, dtype=np.float32), table=_table(rows))


def _one(found, key, **named):
    return next(row for row in found[key] if named.items() <= row.items())


def test_brain_rdms_are_those_of_the_building_blocks():
    samples = _samples(1, n_subjects=3)
    found, arrays = describe_similarity(samples, **QUICK)
    run = samples.table["run"].to_numpy(dtype=str)
    X = samples.X.astype(float)
    crossed, names = subject_rdms(X, samples.y, samples.subjects, folds=run)
    plain, _ = subject_rdms(X, samples.y, samples.subjects)
    np.testing.assert_allclose(arrays["rdms"], crossed, atol=1e-12)
    np.testing.assert_allclose(arrays["rdms_1_r"], plain, atol=1e-6)
    np.testing.assert_array_equal(arrays["subjects"], names)
    assert tuple(arrays["classes"]) == tuple(found["conditions"]) == CLASSES
    brains = [row for row in found["rdms"] if row["kind"] == "brain"]
    assert [row["distance"] for row in brains] == ["crossnobis", "1 - r"]
    np.testing.assert_allclose(brains[0]["values"], crossed.mean(axis=0), atol=1e-12)
    assert "cross-validated over runs" in brains[0]["sentence"]


def test_cancelling_classes_are_said_to_shift_1_r():
    plain = _samples(1, n_subjects=3)
    centred = Samples(X=centre(plain.X, plain.table, by="subject"), table=plain.table)
    for published, whose in ((False, "Each subject's mean"), (True, "The mean")):
        found, _ = describe_similarity(centred, published=published, **QUICK)
        rdm = _one(found, "rdms", name="brain (1 - r)")
        assert f"{whose} over the classes is about zero" in rdm["sentence"]
        assert "near 5/4 = 1.25" in rdm["sentence"]
        assert pairs_of(np.array(rdm["values"])).mean() == pytest.approx(1.25, abs=0.02)
        found, _ = describe_similarity(plain, published=published, **QUICK)
        rdm = _one(found, "rdms", name="brain (1 - r)")
        assert "about zero" not in rdm["sentence"]
        assert pairs_of(np.array(rdm["values"])).mean() == pytest.approx(1, abs=0.05)


def test_one_subject_whose_classes_do_not_cancel_keeps_the_sentence_away():
    samples = _samples(1, n_subjects=3)
    X = centre(samples.X, samples.table, by="subject")
    for shift, said in ((np.full(40, 9.0), True), (np.linspace(-1, 1, 40), False)):
        moved = np.where(samples.subjects[:, None] == "01", X + shift, X).astype(np.float32)
        found, _ = describe_similarity(Samples(X=moved, table=samples.table), **QUICK)
        assert ("about zero" in _one(found, "rdms", name="brain (1 - r)")["sentence"]) is said


def test_a_planted_geometry_is_told_from_others():
    places = 2 * AFFECT[["valence", "arousal"]].to_numpy()
    samples = _samples(2, places=places)
    layers = {"net": [{"block 1": distance_rdm(places), "features (9)": distance_rdm(places)}]}
    found, _ = describe_similarity(samples, affect=AFFECT, layers=layers, **QUICK)
    assert found["ceiling"]["p"] < 0.02
    assert found["ceiling"]["lower"] > 0.6
    assert "share a geometry" in found["ceiling"]["sentence"]
    best = _one(found, "comparison", model="valence and arousal")
    other = _one(found, "comparison", model="sign of valence")
    assert best["r"] > 0.6
    assert best["p_holm"] < 0.05
    assert best["low"] < best["r"] < best["high"]
    assert best["share_of_ceiling"] == pytest.approx(best["r"] / found["ceiling"]["upper"])
    assert other["r"] < best["r"]
    tested = _one(found, "mantel", one="brain (crossnobis)", other="valence and arousal")
    assert tested["exact"]
    assert tested["n_relabellings"] == 120
    assert tested["p"] <= 4 / 120
    assert "smallest p" in tested["sentence"]
    pairs = [(row["one"], row["other"]) for row in found["mantel"]]
    brain, models = "brain (crossnobis)", ("valence and arousal", "sign of valence")
    assert pairs == [
        *((brain, other) for other in ("net: block 1", "net: features (9)", *models)),
        *(("net: features (9)", model) for model in models),
    ]
    json.dumps(found, allow_nan=False)


def test_noise_shares_no_geometry():
    p = [
        describe_similarity(_samples(seed, n_subjects=6, n=20), **QUICK)[0]["ceiling"]["p"]
        for seed in range(10)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.3
    assert np.mean(p) > 0.3


def test_published_form_pools_subjects_and_prints_both_p():
    samples = _samples(3, places=AFFECT.to_numpy())
    found, arrays = describe_similarity(samples, affect=AFFECT, published=True, **QUICK)
    expected = correlation_rdm(condition_means(samples.X, samples.y)[0])
    np.testing.assert_allclose(found["rdms"][0]["values"], expected, atol=1e-12)
    assert arrays["rdms"].shape == (1, 5, 5)
    assert "pooled" in found["ceiling"]["refused"]
    assert found["comparison"] == []
    tested = _one(found, "mantel", other="valence and arousal")
    model = np.array(_one(found, "rdms", name="valence and arousal")["values"])
    theirs = stats.pearsonr(pairs_of(expected), pairs_of(model))
    assert tested["r"] == pytest.approx(theirs.statistic)
    assert tested["pearson_p"] == pytest.approx(theirs.pvalue)
    assert "independent" in tested["sentence"]
    assert "pearson_p" not in describe_similarity(samples, affect=AFFECT, **QUICK)[0]["mantel"][0]


def test_layers_are_averaged_over_folds_that_have_all_classes():
    rdms = [distance_rdm(np.random.default_rng(k).standard_normal((5, 2))) for k in range(2)]
    folds = [{"features (3)": rdm} for rdm in (*rdms, np.zeros((4, 4)))]
    found, _ = describe_similarity(_samples(), layers={"net": folds, "lda": [{}, {}]}, **QUICK)
    (layer,) = (row for row in found["rdms"] if row["kind"] == "layer")
    assert layer["name"] == "net: features (3)"
    assert layer["of"] == "net"
    assert "2 folds" in layer["sentence"]
    np.testing.assert_allclose(layer["values"], np.mean(rdms, axis=0))
    lost, _ = describe_similarity(_samples(), layers={"net": folds[2:]}, **QUICK)
    assert any("no fold" in note for note in lost["notes"])


def test_raters_come_from_the_votes_of_the_samples():
    samples = _samples()
    votes = {f"p_{name}": 0.7 * (samples.y == name) for name in CLASSES}
    votes["p_joy"] = votes["p_joy"] + 0.3 * np.isin(samples.y, ["anger", "joy"])
    table = samples.table.assign(**votes)
    found, _ = describe_similarity(Samples(X=samples.X, table=table), **QUICK)
    rdm = np.array(_one(found, "rdms", name="raters")["values"])
    assert rdm[0, 2] == pytest.approx(0.7)  # anger has .3 of its votes for joy
    assert rdm[0, 1] == rdm[1, 2] == pytest.approx(1.0)
    # every two are equally far apart: no model
    unanimous = samples.table.assign(**{f"p_{n}": (samples.y == n) * 1.0 for n in CLASSES})
    found, _ = describe_similarity(Samples(X=samples.X, table=unanimous), **QUICK)
    assert any("No model raters" in note for note in found["notes"])


def _parts(*runs):
    """Parts of one subject; each run is a string of class letters, 10 s apart."""
    rows = [
        ("01", str(run), 10.0 * at, letter)
        for run, letters in enumerate(runs)
        for at, letter in enumerate(letters)
    ]
    found = partitions(_table(rows), sorted(set("".join(runs))))
    return found if found is None else ("".join("-01234"[p + 1] for p in found[0]), found[1])


def test_parts_hold_all_classes_and_never_split_a_run_that_need_not_be():
    assert _parts("aabb", "abab", "bbaa") == ("000011112222", "runs")
    # b is in no odd run: two runs together; the last one is too little for a group
    assert _parts("aa", "bb", "aa", "bb", "ab") == ("0000111111", "groups of successive runs")
    assert _parts("ab", "ba") == ("0011", "two groups of runs")
    assert _parts("aaaa", "bbbb") is None
    assert _parts("a") is None


def test_the_only_run_is_divided_in_time_with_a_gap():
    parts, how = _parts("ababababab")
    assert how == "two parts of the time"
    assert parts in ("0000---111", "000---1111")


def test_rows_without_time_are_parts_of_their_own():
    table = _table([("01", "n/a", np.nan, name) for name in ["a"] * 3 + ["b"] * 3])
    part, how = partitions(table, ["a", "b"])
    assert part.tolist() == [0, 1, 2, 0, 1, 2]
    assert "independent" in how
    many = _table([("01", "n/a", np.nan, name) for name in ["a"] * 40 + ["b"] * 20])
    part, _ = partitions(many, ["a", "b"])
    assert part.max() == 9
    assert (np.diff(part[:40]) >= 0).all()  # neighbours stay together
    assert partitions(table.iloc[[0, 3]], ["a", "b"]) is None


def test_single_samples_are_whitened_by_the_other_subjects():
    samples = _samples(4, n_subjects=4, per_run=1, n_runs=3)
    samples = Samples(X=samples.X, table=samples.table.assign(onset_s=np.nan))
    found, arrays = describe_similarity(samples, **QUICK)
    assert "other subjects" in found["rdms"][0]["sentence"]
    X, y, who = samples.X.astype(float), samples.y, samples.subjects
    others, own = who != "02", who == "02"
    residuals, df = cell_residuals(X[others], np.char.add(who[others], y[others]))
    expected = crossnobis_rdm(
        X[own],
        y[own],
        samples.table["run"].to_numpy(dtype=str)[own],
        noise=estimate_noise(residuals, df=df),
    )
    np.testing.assert_allclose(arrays["rdms"][2], expected, atol=1e-12)


def test_large_subjects_lose_samples_evenly(monkeypatch):
    samples = _samples(5, n_subjects=2, per_run=6)
    monkeypatch.setattr(brain_rdms, "MOST_VALUES", 45 * samples.n_voxels)
    found, arrays = describe_similarity(samples, **QUICK)
    assert "Of 2 subjects samples were left out" in found["rdms"][0]["sentence"]
    rows = np.flatnonzero(samples.subjects == "00")
    number = pd.Series(rows).groupby([samples.table["run"][rows], samples.y[rows]]).cumcount()
    kept = rows[number.isin([0, 2, 5]).to_numpy()]
    run = samples.table["run"].to_numpy(dtype=str)
    np.testing.assert_allclose(
        arrays["rdms"][0],
        crossnobis_rdm(samples.X[kept], samples.y[kept], run[kept]),
        atol=1e-12,
    )


def test_class_means_read_a_few_rows_at_a_time():
    samples = _samples(6)
    rows = np.arange(3, samples.n_samples, 2)
    found = class_means(samples.X, samples.y, rows)
    np.testing.assert_allclose(found, condition_means(samples.X[rows], samples.y[rows])[0])


def test_subjects_without_a_class_or_without_signal_are_left_out_and_named():
    samples = _samples(7, n_subjects=5)
    keep = ~((samples.subjects == "01") & (samples.y == "joy"))
    X = samples.X.copy()
    X[samples.subjects == "03"] = 1.0
    found, arrays = describe_similarity(
        Samples(X=X[keep], table=samples.table[keep].reset_index(drop=True)), **QUICK
    )
    assert arrays["subjects"].tolist() == ["00", "02", "04"]
    assert any("want of some class: 01" in note for note in found["notes"])
    assert any(note.startswith("No crossnobis for 1 subjects (03)") for note in found["notes"])


def test_one_subject_has_no_ceiling_but_a_mantel_test():
    found, _ = describe_similarity(_samples(8, n_subjects=1), affect=AFFECT, **QUICK)
    assert "one subject" in found["ceiling"]["refused"]
    assert found["comparison"] == []
    assert "p" in found["mantel"][0]


def test_few_classes_and_constant_data_are_refused():
    two, arrays = describe_similarity(_samples(classes=CLASSES[:2]), **QUICK)
    assert "2 classes have 1 pairs" in two["refused"]
    assert arrays == {}
    flat = _samples()
    flat = Samples(X=np.ones_like(flat.X), table=flat.table)
    for published in (False, True):
        assert "same value" in describe_similarity(flat, published=published)[0]["refused"]
    three, _ = describe_similarity(_samples(classes=CLASSES[:3]), affect=AFFECT, **QUICK)
    assert all("1/6" in row["refused"] for row in three["mantel"])
    assert "below 1/6" in three["sentence"]
    asked, _ = describe_similarity(
        _samples(classes=CLASSES[:3]), affect=AFFECT, allow_few=True, **QUICK
    )
    assert asked["mantel"][0]["n_relabellings"] == 6


@pytest.mark.data
def test_emotions_of_neu(data_dir):
    """Three emotions in 30 subjects, whose rows are three priming conditions each."""
    samples, _ = read_feature_tables(
        data_dir / "neu_anger_disgust_fear",
        files=["AAL_SPM12.csv"],
        label="emotion",
        ignore=["filename", "priming"],
    )
    found, arrays = describe_similarity(samples, **QUICK)
    assert arrays["rdms"].shape == arrays["rdms_1_r"].shape == (30, 3, 3)
    assert found["ceiling"]["p"] > 0.1  # the subjects share no geometry of three emotions
    assert found["ceiling"]["lower"] < found["ceiling"]["upper"]
    assert (arrays["rdms"] < 0).any()
    json.dumps(found, allow_nan=False)
