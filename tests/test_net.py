"""Training: learns what is there, judges on whole subjects, gives the same bits again."""

import io
import pickle
import re

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from emodecode.errors import InputError
from emodecode.evaluate.foldfit import fit_fold
from emodecode.models import training, watch
from emodecode.models.catalogue import make_grid, make_model, make_pipeline_for
from emodecode.models.linear import LinearByGram
from emodecode.models.members import divide
from emodecode.models.net import NetClassifier
from emodecode.models.networks import NETWORK_KINDS
from emodecode.simulate.samples import simulate_samples

FIELDS = (
    *("seed", "epoch", "learning_rate", "train_loss", "train_accuracy"),
    *("valid_loss", "valid_accuracy", "penalty", "best"),
)
QUICK = {"max_epochs": 4, "patience": None, "batch_size": 16, "learning_rate": 0.01}


pytestmark = pytest.mark.usefixtures("one_thread")


def _data(seed=0, *, n=120, n_features=12, effect=1.0, n_subjects=6):
    rng = np.random.default_rng(seed)
    y = np.array(["anger", "fear", "joy"])[np.arange(n) % 3]
    X = rng.standard_normal((n, n_features)).astype(np.float32)
    X[:, 0] += effect * (y == "fear")
    X[:, 1] += effect * (y == "joy")
    return X, y, np.repeat([f"{each:02d}" for each in range(n_subjects)], n // n_subjects)


def _xor(seed, *, signs, n=600, n_features=20):
    """Two classes that only the sign of a product tells apart."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_features)).astype(np.float32)
    if signs:
        X[:, [3, 11]] = np.sign(X[:, [3, 11]]) + 0.3 * rng.standard_normal((n, 2))
    y = np.where(X[:, 3] * X[:, 11] > 0, "together", "opposite")
    return X, y, np.repeat([f"{each:02d}" for each in range(6)], n // 6)


def _weights(fitted):
    return [part.numpy() for module in fitted.modules_ for part in module.state_dict().values()]


def _assert_same(first, second):
    for one, other in zip(_weights(first), _weights(second), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("signs", "least"), [(True, 0.9), (False, 0.75)])
def test_interaction_is_learned_where_linear_decoders_are_at_chance(signs, least):
    X, y, subjects = _xor(0, signs=signs)
    new_X, new_y, _ = _xor(1, signs=signs, n=300)
    net = NetClassifier(learning_rate=5e-3, noise=0.3, max_epochs=60, patience=15)
    net.fit(X, y, subjects=subjects)
    assert (net.predict(new_X) == new_y).mean() > least
    assert roc_auc_score(new_y == "together", net.predict_proba(new_X)[:, 1]) > 0.9
    for kind in ("lda", "logistic"):
        linear = make_model(kind).fit(X, y)
        assert isinstance(linear, LinearByGram)
        lost = roc_auc_score(new_y == "together", linear.predict_proba(new_X)[:, 1])
        assert abs(lost - 0.5) < 0.1


def test_noise_is_at_chance():
    scores = []
    for seed in range(6):
        X, y, subjects = _data(seed, n=180, effect=0.0)
        test = np.isin(subjects, ["00", "01"])
        net = NetClassifier(**QUICK | {"max_epochs": 15, "random_state": seed})
        net.fit(X[~test], y[~test], subjects=subjects[~test])
        scores.append(roc_auc_score(y[test], net.predict_proba(X[test]), multi_class="ovr"))
    assert abs(np.mean(scores) - 0.5) < 0.08


def test_contract_and_history():
    X, y, subjects = _data()
    net = NetClassifier(n_members=2, **QUICK).fit(X, y, subjects=subjects)
    probabilities = net.predict_proba(X)
    assert net.classes_.tolist() == ["anger", "fear", "joy"]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(net.predict(X), net.classes_[probabilities.argmax(axis=1)])
    assert [(row["seed"], row["epoch"]) for row in net.history_] == [
        (member, epoch) for member in (0, 1) for epoch in (1, 2, 3, 4)
    ]
    for row in net.history_:
        assert tuple(row) == FIELDS
        assert 0 <= row["valid_accuracy"] <= 1
        assert row["penalty"] == 0
    for member, best in enumerate(net.best_epochs_):
        losses = [row["valid_loss"] for row in net.history_ if row["seed"] == member]
        assert best == 1 + int(np.argmin(losses))
        marked = [row["epoch"] for row in net.history_ if row["seed"] == member and row["best"]]
        assert marked == [best]
    joblib.dump(net, kept := io.BytesIO())
    kept.seek(0)
    for restored in (pickle.loads(pickle.dumps(net)), joblib.load(kept)):
        np.testing.assert_array_equal(restored.predict_proba(X), probabilities)
        assert restored.history_ == net.history_
    assert clone(net).get_params() == net.get_params()
    assert not hasattr(clone(net), "modules_")


def test_logged_losses_are_weighted_means_whatever_the_batch():
    X, y, _ = _data()
    keep = (y != y[0]) | (np.arange(len(y)) % 4 == 0)
    X, y = X[keep], y[keep]
    _, codes = np.unique(y, return_inverse=True)
    weight = (len(y) / np.bincount(codes))[codes]
    for batch_size in (7, 50):
        net = NetClassifier(network="hanson_mlp", max_epochs=1, batch_size=batch_size)
        net.fit(X, y, validation=(X, y))
        own = -np.log(net.predict_proba(X)[np.arange(len(y)), codes])
        expected = (weight * own).sum() / weight.sum()
        assert net.history_[0]["valid_loss"] == pytest.approx(expected, rel=1e-4)


def test_members_are_averaged():
    X, y, subjects = _data()
    net = NetClassifier(n_members=3, **QUICK).fit(X, y, subjects=subjects)
    with torch.no_grad():
        own = [torch.softmax(each(torch.from_numpy(X)), 1).numpy() for each in net.modules_]
    np.testing.assert_allclose(net.predict_proba(X), np.mean(own, axis=0), atol=1e-6)
    assert np.abs(own[0] - own[1]).max() > 1e-3


def test_weights_are_those_of_the_best_epoch():
    """Oracle: the validation loss of the fitted network is the best one of the log."""
    X, y, subjects = _data()
    options = QUICK | {"learning_rate": 0.1, "max_epochs": 12, "class_weight": None}
    net = NetClassifier(**options).fit(X, y, subjects=subjects)
    held_out = np.isin(subjects, net.validation_subjects_[0])
    truth = net.predict_proba(X[held_out])[
        np.arange(held_out.sum()), np.searchsorted(net.classes_, y[held_out])
    ]
    best = net.history_[net.best_epochs_[0] - 1]
    assert best["valid_loss"] == pytest.approx(-np.log(truth).mean(), abs=1e-5)
    assert net.best_epochs_[0] < 12


@pytest.mark.parametrize("n_members", [1, 3, 5])
def test_whole_subjects_are_held_out(monkeypatch, n_members):
    X, y, subjects = _data(n_subjects=10)
    X[:, 5] = np.arange(len(X))  # tells the rows apart
    seen = []

    def spy(make, given, validation, **options):
        seen.append((given[0][:, 5].astype(int), validation[0][:, 5].astype(int)))
        return training.train(make, given, validation, **options)

    monkeypatch.setattr("emodecode.models.members.train", spy)
    net = NetClassifier(n_members=n_members, **QUICK | {"max_epochs": 1})
    net.fit(X, y, subjects=subjects)
    for (trained, judged), names in zip(seen, net.validation_subjects_, strict=True):
        assert set(subjects[judged]) == set(names)
        assert not set(subjects[trained]) & set(names)
        assert sorted([*trained, *judged]) == list(range(len(X)))
        assert len(names) == 2
    everyone = [name for names in net.validation_subjects_ for name in names]
    assert len(everyone) == len(set(everyone)) == 2 * n_members


@pytest.mark.parametrize("subjects", [None, np.repeat("01", 120), np.repeat(["01", "02"], 60)])
def test_without_three_subjects_contiguous_rows_are_held_out(subjects):
    y = _data()[1]
    codes = np.unique(y, return_inverse=True)[1]
    found = divide(codes, subjects, n_members=2, share=0.25, seed=0)
    for division, expected in zip(found, (range(90, 120), range(60, 90)), strict=True):
        assert np.flatnonzero(division.judged).tolist() == list(expected)
        assert np.array_equal(division.trained, ~division.judged)
        assert division.names == []


def test_no_class_is_lost_to_the_validation():
    X, y, subjects = _data()
    y[:] = "anger"
    y[subjects == "03"] = "fear"
    net = NetClassifier(n_members=6, **QUICK | {"max_epochs": 1}).fit(X, y, subjects=subjects)
    assert ["03"] not in net.validation_subjects_
    y[:-2], y[-2:] = "anger", "fear"
    net = NetClassifier(**QUICK | {"max_epochs": 1}).fit(X, y)
    codes = (y == "fear").astype(int)
    (division,) = divide(codes, None, n_members=1, share=0.2, seed=0)
    assert division.judged.any()
    assert not division.judged[-2:].any()


def test_given_validation_replaces_the_inner_one():
    X, y, _ = _data()
    net = NetClassifier(n_members=1, **QUICK).fit(X[:90], y[:90], validation=(X[90:], y[90:]))
    assert net.validation_subjects_ == []
    truth = net.predict_proba(X[90:])[np.arange(30), np.searchsorted(net.classes_, y[90:])]
    best = net.history_[net.best_epochs_[0] - 1]
    assert best["valid_loss"] == pytest.approx(-np.log(truth).mean(), abs=1e-5)
    with pytest.raises(InputError, match="not in training"):
        net.fit(X[:90], y[:90], validation=(X[90:], np.repeat("sadness", 30)))


def test_best_epoch_by_accuracy():
    X, y, subjects = _data()
    net = NetClassifier(choose_by="accuracy", **QUICK | {"max_epochs": 12})
    net.fit(X, y, subjects=subjects)
    accuracies = [row["valid_accuracy"] for row in net.history_]
    assert net.best_epochs_ == [1 + int(np.argmax(accuracies))]


def test_last_epoch_without_validation():
    X, y, subjects = _data()
    net = NetClassifier(validation_share=0.0, **QUICK).fit(X, y, subjects=subjects)
    assert net.best_epochs_ == [4]
    assert {row["valid_loss"] for row in net.history_} == {None}


def test_patience_ends_the_training():
    X, y, subjects = _data(effect=0.0)
    options = {"max_epochs": 200, "patience": 5, "learning_rate": 0.05}
    net = NetClassifier(**options).fit(X, y, subjects=subjects)
    assert len(net.history_) == net.best_epochs_[0] + 5 < 200


def test_plateau_lowers_the_learning_rate_as_keras_does():
    """Oracle: Keras's rule by hand, on the logged validation loss and penalty."""
    X, y, subjects = _data(effect=0.0)
    options = {"plateau_factor": 0.5, "plateau_patience": 3, "min_learning_rate": 2e-3}
    net = NetClassifier(max_epochs=40, patience=None, learning_rate=0.02, l2=1e-3, **options)
    net.fit(X, y, subjects=subjects)
    rate, best, waited = 0.02, np.inf, 0
    for row in net.history_:
        assert row["learning_rate"] == pytest.approx(rate)
        value = row["valid_loss"] + row["penalty"]
        best, waited = (value, 0) if value < best - 1e-4 else (best, waited + 1)
        if waited >= 3:
            rate, waited = max(rate * 0.5, 2e-3), 0
    assert net.history_[-1]["learning_rate"] == pytest.approx(2e-3)


def test_same_seed_same_bits():
    X, y, subjects = _data()
    torch.manual_seed(5)
    nets = []
    for seed in (3, 3, 4):
        nets.append(NetClassifier(random_state=seed, **QUICK).fit(X, y, subjects=subjects))
        torch.rand(7)
    _assert_same(nets[0], nets[1])
    assert nets[0].history_ == nets[1].history_
    assert not np.array_equal(_weights(nets[0])[-1], _weights(nets[2])[-1])


def test_callers_random_numbers_are_left_alone():
    X, y, subjects = _data()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    NetClassifier(**QUICK).fit(X, y, subjects=subjects)
    assert torch.equal(torch.rand(3), expected)


def test_interrupt_is_passed_on(monkeypatch):
    """skorch takes Ctrl-C for a wish to end the training with what there is; we do not."""

    def interrupt(self, net, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.Watch, "on_epoch_begin", interrupt)
    X, y, subjects = _data()
    with pytest.raises(KeyboardInterrupt):
        NetClassifier(**QUICK).fit(X, y, subjects=subjects)


def test_divergence_is_named():
    X, y, subjects = _data(n_features=60)
    net = NetClassifier(network="s2_conv1d", **QUICK | {"learning_rate": 1e10})
    with pytest.raises(InputError) as caught:
        net.fit(X, y, subjects=subjects)
    assert re.search(r"epoch \d", caught.value.where)
    assert "1e+10" in caught.value.found
    assert "Lower learning_rate" in caught.value.remedy
    X[3, 3] = np.nan
    with pytest.raises(InputError, match="features: values that are not finite in 1 of"):
        NetClassifier(**QUICK).fit(X, y, subjects=subjects)


def test_class_weights_balance_what_is_rare():
    rng = np.random.default_rng(0)
    y = np.where(np.arange(200) % 10 == 0, "rare", "usual")
    X = rng.standard_normal((200, 5)).astype(np.float32)
    X[:, 0] += 1.0 * (y == "rare")
    shares = {}
    for how in ("balanced", None):
        net = NetClassifier(class_weight=how, max_epochs=30, noise=0.5, learning_rate=5e-3)
        shares[how] = (net.fit(X, y).predict(X) == "rare").mean()
    assert shares[None] < 0.1 < 0.2 < shares["balanced"]
    weights = training.class_weights(np.repeat([0, 1], [10, 30]), 2, "balanced")
    np.testing.assert_allclose(weights, [2.0, 2 / 3], rtol=1e-6)


def test_pipeline_hands_the_subjects_on():
    X, y, subjects = _data()
    pipeline = make_pipeline_for("conv1d", params=QUICK | {"n_members": 2}, n_voxels=6)
    with sklearn.config_context(enable_metadata_routing=True):
        fitted = clone(pipeline).fit(X, y, subjects=subjects)
    assert all(names for names in fitted[-1].validation_subjects_)
    table = pd.DataFrame({"subject": subjects})
    rows = np.flatnonzero(subjects != "03")
    fitted = fit_fold(pipeline, X, y, table, rows, seed=7)
    held_out = [name for names in fitted[-1].validation_subjects_ for name in names]
    assert set(held_out) <= {"00", "01", "02", "04", "05"}
    assert len(held_out) == len(set(held_out)) == 2
    assert fitted[-1].random_state == 7
    point = {name: values[0] for name, values in make_grid("conv1d").items()}
    clone(pipeline).set_params(**point)


def test_s2_predicts_by_its_collapsed_form():
    X, y, subjects = _data(n_features=60)
    net = make_model("s2_conv1d", params={"max_epochs": 1, "learning_rate": 1e-4})
    net.fit(X, y, subjects=subjects)
    assert type(net.inference_[0]).__name__ == "CollapsedConv1d"
    module = net.modules_[0]
    module.composed = False
    with torch.no_grad():
        expected = torch.softmax(module(torch.from_numpy(X)), 1).numpy()
    np.testing.assert_allclose(net.predict_proba(X), expected, atol=1e-5)


def test_hanson_network_is_trained_as_published():
    X, y, subjects = _data()
    net = make_model("hanson_mlp").fit(X, y, subjects=subjects)
    assert net.best_epochs_ == [50]
    assert net.validation_subjects_ == [[]]
    assert len(net.history_) == 50
    assert {row["valid_loss"] for row in net.history_} == {None}


BAD: dict[str, tuple[object, ...]] = {
    "max_epochs": (0, -1, 2.5, True, "many"),
    "batch_size": (1, 0, 16.0),
    "learning_rate": (0.0, -1e-3, np.inf, "fast"),
    "patience": (0, -1, 1.5),
    "validation_share": (1, 1.5, -0.1, "half"),
    "n_members": (0, 1.5),
    "choose_by": ("x", None),
    "l1": (-1e-3, np.nan, "much"),
    "l2": (-1e-3, np.inf),
    "plateau_factor": (0, 1.5, -0.5),
    "plateau_patience": (0, 2.5),
    "min_learning_rate": (0, -1.0, np.nan),
    "class_weight": ("equal", {"anger": 2}),
    "device": ("tpu", 0, None),
    "n_filters": (0, 2.5),
    "dropout": (1, -0.1),
    "noise": (-1, np.nan),
    "weight_decay": (-1.0, np.inf),
}


@pytest.mark.parametrize("kind", list(NETWORK_KINDS))
def test_every_parameter_is_checked(kind):
    defaults = NETWORK_KINDS[kind][2]
    assert make_model(kind, params=defaults).get_params()["network"] == kind
    for name in defaults:
        for value in BAD[name]:
            with pytest.raises(InputError) as caught:
                make_model(kind, params={name: value})
            assert name in str(caught.value), (name, value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"batch_size": 1}, "a whole number from 2"),
        ({"dropout": 1.0}, "a share from 0"),
        ({"patience": 0}, "or none"),
        ({"noise": -1}, "a number from 0"),
        ({"device": "tpu"}, "auto, cpu, cuda or cuda:NUMBER"),
        ({"device": "cuda:x"}, "auto, cpu, cuda or cuda:NUMBER"),
        ({"choose_by": "auc"}, "loss, accuracy"),
        ({"plateau_factor": 2}, "at most 1"),
        ({"n_filter": 3}, "Did you mean 'n_filters'"),
    ],
)
def test_bad_parameters_are_named(params, words):
    with pytest.raises(InputError, match=words):
        make_model("conv1d", params=params)


@pytest.mark.slow
def test_pair_network_is_at_least_as_good_as_the_best_classical_decoder():
    """Interaction code of the simulator, in the space of the latents (no alignment needed)."""
    lead = []
    for seed in (11, 12):
        samples = simulate_samples(code="mixed", n_subjects=6, shared=1.0, seed=seed)
        X, y = samples.X, samples.y
        subjects = samples.table["subject"].to_numpy(dtype=str)
        for test in np.unique(subjects)[:3]:
            held_out = subjects == test
            scores = {}
            for kind in ("conv1d", "rbf_svm", "lda"):
                pipeline = make_pipeline_for(kind)
                with sklearn.config_context(enable_metadata_routing=True):
                    more = {"subjects": subjects[~held_out]} if kind == "conv1d" else {}
                    pipeline.fit(X[~held_out], y[~held_out], **more)
                given = pipeline.predict_proba(X[held_out])
                scores[kind] = roc_auc_score(y[held_out], given, multi_class="ovr")
            lead.append(scores["conv1d"] - max(scores["rbf_svm"], scores["lda"]))
    assert np.mean(lead) > -0.01
