"""Chance: what is exchanged, that the fast path equals the loop, and the error rate on noise."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from designs import blocks, film, rows_table
from emodecode.errors import InputError
from emodecode.evaluate.chance import (
    Null,
    chance_levels,
    make_exchange,
    permuted_labels,
    refit_levels,
)
from emodecode.evaluate.tally import make_tally, mean_over_subjects, subject_scores

CLASSES = ["c0", "c1", "c2"]


def draws(table, *, classes=CLASSES, unit="block", n=50, seed=0):
    exchange = make_exchange(table, classes=classes, unit=unit)
    labels = permuted_labels(exchange, n_permutations=n, seed=seed)
    return exchange, labels[:, exchange.slot]


def codes(table, classes=CLASSES):
    return table["label"].map({name: k for k, name in enumerate(classes)}).to_numpy()


def tally_of(table, probabilities, exchange):
    subject = pd.factorize(table["subject"])[0]
    fold = np.zeros(len(table), dtype=int)
    return make_tally(subject, fold, exchange.slot, probabilities.argmax(axis=1), probabilities)


@pytest.mark.parametrize("unit", ["block", "shift"])
@pytest.mark.parametrize(
    "table", [blocks(), blocks(order="common"), film(), rows_table(labels=CLASSES)]
)
def test_the_true_labels_are_one_of_the_labellings(table, unit):
    exchange, _ = draws(table, unit=unit)
    np.testing.assert_array_equal(exchange.label[exchange.slot], codes(table))
    assert exchange.pools
    covered = np.concatenate([pool.slots for pool in exchange.pools])
    assert len(covered) == len(set(covered)) == len(exchange.label)


def test_blocks_stay_whole_and_within_their_run():
    table = blocks()
    _, labels = draws(table)
    for _, rows in table.groupby(["subject", "run", "block"]).indices.items():
        assert (labels[:, rows] == labels[:, rows[:1]]).all()
    for _, rows in table.groupby(["subject", "run"]).indices.items():
        for one in labels[:5]:
            assert Counter(one[rows]) == Counter(codes(table)[rows])
    assert len({one.tobytes() for one in labels}) == 50


def test_subjects_with_their_own_order_are_independent():
    table = blocks(n_subjects=2, n_runs=1, n_blocks=6)
    _, labels = draws(table, n=400)
    a, b = labels[:, ::10][:, :6], labels[:, ::10][:, 6:]
    own = np.array([np.mean(x == y) for x, y in zip(a, b, strict=True)])
    assert own.mean() == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("table", [film(), blocks(order="common")])
def test_a_common_design_is_exchanged_for_all_subjects_together(table):
    _, labels = draws(table)
    for _, rows in table.groupby(["run", "volume"]).indices.items():
        assert (labels[:, rows] == labels[:, rows[:1]]).all()


def test_a_common_design_survives_missing_volumes():
    rng = np.random.default_rng(0)
    table = film()
    table = table[rng.random(len(table)) < 0.8].reset_index(drop=True)
    _, labels = draws(table)
    for _, rows in table.groupby(["run", "block"]).indices.items():
        assert (labels[:, rows] == labels[:, rows[:1]]).all()


def test_two_counterbalanced_orders_are_two_designs():
    table = blocks(n_subjects=4, n_runs=1, n_classes=2, n_blocks=8)
    swap = table["subject"].isin(["02", "04"])
    table["label"] = [f"c{(v // 10 + s) % 2}" for v, s in zip(table["volume"], swap, strict=True)]
    exchange, labels = draws(table, classes=CLASSES[:2])
    assert len(exchange.pools) == 2
    rows = [np.flatnonzero(table["subject"] == name) for name in ("01", "02", "03", "04")]
    np.testing.assert_array_equal(labels[:, rows[0]], labels[:, rows[2]])
    np.testing.assert_array_equal(labels[:, rows[1]], labels[:, rows[3]])
    assert (labels[:, rows[0]] == labels[:, rows[1]]).any(axis=1).mean() > 0.9


def few_blocks(order, n_subjects, seed=0):
    return blocks(n_subjects=n_subjects, n_runs=1, n_blocks=4, n_classes=2, order=order, seed=seed)


def test_orders_of_few_blocks_that_are_alike_by_accident_are_no_common_design():
    table = few_blocks("own", 6)
    orders = [tuple(codes(own)[::10]) for _, own in table.groupby("subject")]
    assert len(set(orders)) < 6
    exchange, labels = draws(table, classes=CLASSES[:2], n=300)
    assert len(exchange.pools) == 6
    a, b = labels[:, :40], labels[:, 40:80]
    assert (a == b).all(axis=1).mean() < 0.4


def test_a_common_order_of_few_blocks_is_known_by_its_subjects_or_its_stimulus():
    assert len(draws(few_blocks("common", 6), classes=CLASSES[:2])[0].pools) == 1
    pair = few_blocks("common", 2)
    assert len(draws(pair, classes=CLASSES[:2])[0].pools) == 2
    assert len(draws(pair.assign(stimulus="film"), classes=CLASSES[:2])[0].pools) == 1


def test_rows_of_a_table_are_exchanged_within_each_subject():
    table = rows_table(labels=CLASSES)
    exchange, labels = draws(table, n=200)
    assert [pool.kind for pool in exchange.pools] == ["block"] * 6
    a, b = labels[:, :9], labels[:, 9:18]
    assert np.mean(a == b) == pytest.approx(1 / 3, abs=0.05)
    for one in labels[:5]:
        assert Counter(one[:9]) == Counter(codes(table)[:9])


def test_a_block_with_several_labels_makes_the_run_shift():
    table = blocks(n_subjects=1, n_runs=1)
    table["block"] = "01"
    exchange, labels = draws(table, n=300)
    assert [pool.kind for pool in exchange.pools] == ["shift"]
    rolls = {np.roll(codes(table), k).tobytes() for k in range(len(table))}
    assert {one.astype(np.int64).tobytes() for one in labels} <= rolls
    assert len({one.tobytes() for one in labels}) > 60


def test_runs_of_one_label_exchange_with_the_subjects_other_runs():
    table = blocks(n_subjects=3, n_runs=4, n_classes=2)
    table["label"] = [
        f"c{(int(r) + int(s)) % 2}" for r, s in zip(table["run"], table["subject"], strict=True)
    ]
    exchange, labels = draws(table, classes=CLASSES[:2])
    assert {pool.kind for pool in exchange.pools} == {"run"}
    for _, rows in table.groupby(["subject", "run"]).indices.items():
        assert (labels[:, rows] == labels[:, rows[:1]]).all()
    for _, rows in table.groupby("subject").indices.items():
        assert (labels[:, rows].mean(axis=1) == 0.5).all()


def test_subjects_of_one_label_exchange_with_one_another():
    table = rows_table(n_subjects=6)
    table["label"] = np.where(table["subject"].isin(["0", "1", "2"]), "MDD", "HC")
    exchange, labels = draws(table, classes=["HC", "MDD"])
    assert [pool.kind for pool in exchange.pools] == ["subject"]
    per_subject = labels[:, ::9]
    assert (per_subject.sum(axis=1) == 3).all()
    assert math.exp(exchange.log_arrangements) == pytest.approx(20)


def test_blocks_are_stretches_of_labels_where_none_are_named():
    table = blocks(n_subjects=1, n_runs=1, n_blocks=6)
    table["label"] = [f"c{v // 10 % 3}" for v in table["volume"]]
    named, _ = draws(table)
    bare, _ = draws(table.drop(columns=["block", "onset_s"]))
    np.testing.assert_array_equal(named.slot, bare.slot)


def test_single_volumes_are_refused_with_the_reason():
    with pytest.raises(InputError, match="neighbouring volumes are nearly equal"):
        make_exchange(blocks(), classes=CLASSES, unit="volume")


def test_few_labellings_limit_p():
    table = blocks(n_subjects=1, n_runs=1, n_blocks=4, n_classes=2)
    exchange, _ = draws(table, classes=CLASSES[:2])
    assert math.exp(exchange.log_arrangements) == pytest.approx(6)
    p = np.full((len(table), 2), 0.1)
    p[np.arange(len(table)), codes(table)] = 0.9
    found = chance_levels(tally_of(table, p, exchange), exchange, n_permutations=2000)
    assert found["balanced_accuracy"]["p_smallest"] == pytest.approx(1 / 6)
    assert found["balanced_accuracy"]["p"] == pytest.approx(1 / 6, abs=0.03)
    assert found["balanced_accuracy"]["mean"] == pytest.approx(0.5, abs=0.02)


def test_the_fast_scores_equal_the_loop_over_labellings():
    table = blocks(n_subjects=4, n_runs=2, n_blocks=9, length=4)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=len(table)).round(2)  # with ties
    p /= p.sum(axis=1, keepdims=True)
    exchange, labels = draws(table, n=6)
    drawn = permuted_labels(exchange, n_permutations=6, seed=0)
    found = subject_scores(tally_of(table, p, exchange), drawn)
    for k, given in enumerate(labels):
        expected = []
        for rows in table.groupby("subject").indices.values():
            y, q = given[rows], p[rows]
            expected.append(
                (
                    balanced_accuracy_score(y, q.argmax(axis=1)),
                    np.mean(y == q.argmax(axis=1)),
                    roc_auc_score(y, q, multi_class="ovr"),
                    log_loss(y, q, labels=[0, 1, 2]),
                )
            )
        for metric, values in zip(
            ("balanced_accuracy", "accuracy", "macro_auc", "log_loss"),
            np.transpose(expected),
            strict=True,
        ):
            np.testing.assert_allclose(found[metric][k], values, atol=1e-10)
            mean = mean_over_subjects(found[metric])[k]
            assert mean == pytest.approx(values.mean())


def test_p_counts_the_labellings_that_score_as_well():
    table = blocks(n_subjects=3, n_blocks=6)
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), size=len(table))
    exchange = make_exchange(table, classes=CLASSES)
    tally = tally_of(table, p, exchange)
    found = chance_levels(tally, exchange, n_permutations=200, seed=4)
    drawn = permuted_labels(exchange, n_permutations=200, seed=4)
    null = subject_scores(tally, drawn)
    seen = subject_scores(tally, exchange.label[None])
    for metric, sign in (("macro_auc", 1), ("log_loss", -1)):
        values, observed = null[metric].mean(axis=1), seen[metric].mean()
        b = np.sum(sign * values >= sign * observed - 1e-9)
        assert found[metric]["p"] == pytest.approx((b + 1) / 201)
        assert found[metric]["mean"] == pytest.approx(values.mean())
        assert found[metric]["sd"] == pytest.approx(values.std(ddof=1))


def test_chance_of_unequal_classes_is_not_one_over_the_number_of_classes():
    table = blocks(n_subjects=4, n_classes=3, n_blocks=12)
    table["label"] = np.where(table["label"] == "c2", "c0", table["label"])
    exchange = make_exchange(table, classes=CLASSES[:2])
    always = np.tile([0.8, 0.2], (len(table), 1))
    found = chance_levels(tally_of(table, always, exchange), exchange, n_permutations=50)
    assert found["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert found["balanced_accuracy"]["mean"] == pytest.approx(0.5)
    assert found["accuracy"]["p"] == 1.0


def noise_predictions(table, rng, *, ar=0.9, common=0.0):
    """Two-class probabilities that drift as BOLD does and know nothing."""
    n_runs, n_subjects = table["run"].nunique(), table["subject"].nunique()
    length = len(table) // (n_runs * n_subjects)
    own = lfilter([1], [1, -ar], rng.normal(size=(n_subjects, n_runs, length)), axis=2)
    shared = lfilter([1], [1, -ar], rng.normal(size=(n_runs, length)), axis=1)
    p = 1 / (1 + np.exp(-(own + common * shared).ravel()))
    return np.stack([1 - p, p], axis=1)


def rejections(make_table, make_exchange_of, n_sets, **noise):
    """Share of null data sets with p <= .05 (balanced accuracy, AUC), and all p of the AUC."""
    p = np.empty((n_sets, 2))
    for k in range(n_sets):
        rng = np.random.default_rng([7, k])
        table = make_table(k)
        exchange = make_exchange_of(table)
        tally = tally_of(table, noise_predictions(table, rng, **noise), exchange)
        found = chance_levels(tally, exchange, n_permutations=99, seed=k)
        p[k] = found["balanced_accuracy"]["p"], found["macro_auc"]["p"]
    return (p <= 0.05).mean(axis=0), p


def small(k, order="own"):
    return blocks(n_subjects=4, n_runs=2, n_blocks=8, length=8, n_classes=2, seed=k, order=order)


def by_volume(table):
    alone = table.assign(block=[str(k) for k in range(len(table))])
    return make_exchange(alone, classes=CLASSES[:2])


def by_block(table):
    return make_exchange(table, classes=CLASSES[:2])


def by_block_each_subject_alone(table):
    return make_exchange(table.assign(onset_s=np.nan), classes=CLASSES[:2])


def test_volumes_find_effects_in_drifting_noise_and_blocks_do_not():
    naive, _ = rejections(small, by_volume, 40)
    assert (naive > 0.2).all()
    whole, _ = rejections(small, by_block, 40)
    assert (whole < 0.16).all()


@pytest.mark.slow
def test_noise_that_drifts_is_rejected_five_times_in_a_hundred():
    share, p = rejections(small, by_block, 400)
    assert (share > 0.02).all()
    assert (share < 0.09).all()
    assert np.abs(np.sort(p[:, 1]) - np.arange(1, 401) / 400).max() < 0.08


@pytest.mark.slow
def test_a_common_order_with_a_common_response_needs_the_joint_exchange():
    def common(k):
        return small(k, order="common")

    joint, _ = rejections(common, by_block, 300, common=1.5)
    assert (joint < 0.09).all()
    alone, _ = rejections(common, by_block_each_subject_alone, 100, common=1.5)
    assert (alone > 0.12).all()


def unequal_blocks(lengths=((3, "c0"), (30, "c1"), (5, "c0"), (12, "c1"), (20, "c1"), (4, "c0"))):
    """One subject, one run: class c1 comes in long blocks, c0 in short ones."""
    label = np.concatenate([[name] * n for n, name in lengths])
    block = np.repeat(np.arange(len(lengths)), [n for n, _ in lengths])
    return pd.DataFrame(
        {
            "subject": "01",
            "session": "n/a",
            "run": "1",
            "volume": np.arange(len(label)),
            "onset_s": 2.0 * np.arange(len(label)),
            "label": label,
            "block": [f"{k:02d}" for k in block],
        }
    )


def test_blocks_of_unequal_lengths_are_moved_with_their_lengths():
    table = unequal_blocks()
    exchange, labels = draws(table, classes=["c0", "c1"], n=200)
    assert [pool.kind for pool in exchange.pools] == ["order"]
    assert "each with its length" in exchange.sentence
    true = codes(table, ["c0", "c1"])
    assert (labels.sum(axis=1) == true.sum()).all(), "as many samples of each class"
    assert len({one.tobytes() for one in labels}) > 100
    n_different = len({one.tobytes() for one in labels})
    assert n_different <= np.exp(exchange.log_arrangements) < math.factorial(6)
    for one in labels[:20]:
        ends = np.flatnonzero(np.diff(one)) + 1
        for stretch in np.split(one, ends):
            assert len(stretch) >= (12 if stretch[0] else 3), "no block is cut"


def test_unequal_blocks_of_a_common_design_are_moved_for_all_together():
    table = unequal_blocks().assign(stimulus="film")
    short = table[table["volume"] < 70].assign(subject="02")
    both = pd.concat([table, short], ignore_index=True)
    exchange, labels = draws(both, classes=["c0", "c1"])
    assert len(exchange.pools) == 1
    np.testing.assert_array_equal(labels[:, :70], labels[:, len(table) :])


def test_different_orders_of_unequal_blocks_are_counted_as_they_are():
    lengths, labels = [2, 4, 3], ["c0", "c0", "c1"]
    block = np.repeat(np.arange(3), lengths)
    table = pd.DataFrame(
        {
            "subject": "01",
            "run": "1",
            "volume": np.arange(9),
            "onset_s": np.arange(9) * 2.0,
            "label": np.array(labels)[block],
            "block": [f"{k:02d}" for k in block],
        }
    )
    exchange, labelled = draws(table, classes=CLASSES[:2], n=500)
    assert [pool.kind for pool in exchange.pools] == ["order"]
    assert len(np.unique(labelled, axis=0)) == 4  # not 3! = 6: two of one label may touch
    assert np.exp(exchange.log_arrangements) == pytest.approx(4)


def test_p_is_never_below_what_the_design_allows():
    table = blocks(n_subjects=1, n_runs=1, n_blocks=2, n_classes=2)
    exchange = make_exchange(table, classes=CLASSES[:2])
    tally = tally_of(table, np.eye(2)[codes(table, CLASSES[:2])], exchange)
    never = {metric: np.zeros(200) for metric in ("balanced_accuracy", "accuracy", "macro_auc")}
    null = Null(never | {"log_loss": np.full(200, 9.0)}, np.zeros((200, 1)), ("01",))
    for level in refit_levels(tally, exchange, null).values():
        assert level["p"] == level["p_smallest"] == pytest.approx(0.5)
