"""The numbers that the papers print, as data, and what keeps them from being taken at their word.

They stand on the page only where a study names the paper that it follows (``compare_with``).
"""

from dataclasses import dataclass
from typing import Any

from emodecode.report import wording
from emodecode.report.folder import ResultsFolder


@dataclass(frozen=True)
class Number:
    """One printed number.

    Parameters
    ----------
    measure : str
        What it is called on the page.
    value : float
        Shares as shares, times in ms.
    spread : float, optional
        What the paper prints after the plus-minus sign.
    key : str
        Score in ``scores.json`` that stands beside it; empty: none.
    label : str
        Beginning of the name of the class whose score it is; empty: of all classes.
    chance : float, optional
        Of the measure, one over the classes or .5.
    unit : str
    """

    measure: str
    value: float
    spread: float | None = None
    key: str = ""
    label: str = ""
    chance: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Reported:
    """What a paper reports of one decoder; `kinds` are those of the catalogue that do the same."""

    decoder: str
    kinds: tuple[str, ...]
    numbers: tuple[Number, ...]
    caveat: str


@dataclass(frozen=True)
class Paper:
    """A paper or one of its experiments: source, decoders, and what holds for all of them."""

    source: str
    caveat: str
    reported: tuple[Reported, ...]


def _aucs(*values: float) -> tuple[Number, ...]:
    labels = ("anger", "fear", "happiness", "love", "sadness")
    return tuple(
        Number(f"AUC, {label}", value, key="auc", label=label, chance=0.5)
        for label, value in zip(labels, values, strict=True)
    )


def _accuracy(value: float, spread: float, *, classes: int, key: str) -> Number:
    return Number("accuracy", value, spread, key=key, chance=1 / classes)


def _s2a(
    decoder: str, kinds: tuple[str, ...], value: float, spread: float, caveat: str
) -> Reported:
    """S2-A tested on classes made equal by copies: beside it stands our balanced accuracy."""
    number = _accuracy(value, spread, classes=3, key="balanced_accuracy")
    return Reported(decoder, kinds, (number,), caveat)


_DEFAULTS = "Library defaults, on the same circular features."

PAPERS: dict[str, Paper] = {
    "S1": Paper(
        source="S1, its Results and ROC figures; the accuracy from its code (it prints none)",
        caveat="Volumes of all subjects were shuffled, so that all 1,050 validation volumes show a "
        "moment of the film that is in training for other subjects, and 93 % of the labels belong "
        "to another moment than their volume.",
        reported=(
            Reported(
                "CNN",
                ("separable3d",),
                (
                    *_aucs(0.94, 0.93, 0.86, 0.91, 0.86),
                    Number("best validation accuracy", 0.681, key="accuracy", chance=0.2),
                ),
                "The epoch was chosen on the samples that are reported, and the AUCs are pooled "
                "over subjects; the paper quotes a chance of .20, which is that of accuracy.",
            ),
            Reported(
                "“logistic regression”",
                ("logistic",),
                _aucs(0.75, 0.77, 0.53, 0.75, 0.66),
                "No fitted logistic regression: a linear layer without regularisation whose "
                "training had diverged (final training loss 542).",
            ),
        ),
    ),
    "S2-A": Paper(
        source="S2, experiment A, Table 1 (means ± population sd over 11 folds; accuracy on test "
        "samples made equal in number by copies, so that ours beside it is the balanced one)",
        caveat="Voxels were selected and hyperalignment was fitted once, on all subjects and runs, "
        "test subjects and their labels included: on pure noise this scores far above chance.",
        reported=(
            _s2a(
                *("1-D CNN", ("s2_conv1d", "conv1d"), 0.849, 0.035),
                "The best of 5,000 epochs on the test subject, which adds .025 to .035; the "
                "baselines had no such choice.",
            ),
            _s2a(
                *("SVM, linear", ("linear_svm",), 0.747, 0.021),
                "Library defaults, not converged, on the same circular features.",
            ),
            _s2a("SVM, RBF", ("rbf_svm",), 0.787, 0.039, _DEFAULTS),
            _s2a("random forest", ("random_forest",), 0.739, 0.035, _DEFAULTS),
            _s2a("XGBoost", ("boosted_trees",), 0.748, 0.030, _DEFAULTS),
            _s2a("LDA", ("lda",), 0.749, 0.023, _DEFAULTS),
            _s2a(
                *("MLP (Hanson)", ("hanson_mlp",), 0.745, 0.026),
                "The last of 50 epochs, on the same circular features.",
            ),
        ),
    ),
    "S2-B": Paper(
        source="S2, experiment B, Table 4 and Figure 8",
        caveat="Volumes of all subjects were shuffled, so that test volumes have their neighbours "
        "in time in training; no subject was held out, and the networks got raw intensities.",
        reported=(
            Reported(
                "ResNet-50",
                ("s2_resnet3d", "resnet3d"),
                (
                    _accuracy(0.780, 0.044, classes=2, key="accuracy"),
                    Number("AUC", 0.82, key="macro_auc", chance=0.5),
                    Number("time a volume", 1.38, unit="ms"),
                ),
                "Not ten trainings but ten random tenths (61 samples) of one test set for one "
                "model; the full bootstrap of another of its models gave .742 ± .016, and the time "
                "is that of 1,950 volumes in batches.",
            ),
            Reported(
                "random forest",
                ("random_forest",),
                (_accuracy(0.867, 0.009, classes=2, key="accuracy"),),
                "The best of all, on the same leaking split; ± is the sd over ten bootstraps of "
                "the test set.",
            ),
            Reported(
                "SVM, linear",
                ("linear_svm",),
                (_accuracy(0.766, 0.018, classes=2, key="accuracy"),),
                "With standard scaling, as the paper says; ± is the sd over ten bootstraps of the "
                "test set.",
            ),
            Reported(
                "SVM, RBF",
                ("rbf_svm",),
                (_accuracy(0.458, 0.024, classes=2, key="accuracy"),),
                "Below chance (p = .026): a symptom of intensities that were not normalised.",
            ),
            Reported(
                "MLP",
                ("mlp", "hanson_mlp"),
                (_accuracy(0.512, 0.029, classes=2, key="accuracy"),),
                "Near chance, on intensities that were not normalised; ± is the sd over "
                "ten bootstraps of the test set.",
            ),
        ),
    ),
}
"""Value of ``compare_with`` -> what is printed there, and what is true of it."""


def describe_paper(results: ResultsFolder) -> dict[str, Any] | None:
    """Gather the paper's numbers and ours beside them; None where the study names no paper.

    Ours are all decoders of a kind that does the same, under the same score.
    """
    name = results.study.get("compare_with")
    if name not in PAPERS:
        return None
    paper = PAPERS[name]
    return {
        "name": name,
        "source": paper.source,
        "caveat": paper.caveat,
        "groups": [
            {
                "decoder": each.decoder,
                "caveat": each.caveat,
                "rows": [
                    {
                        "measure": number.measure,
                        "printed": _printed(number),
                        "chance": number.chance,
                        "ours": _ours(results, each.kinds, number),
                    }
                    for number in each.numbers
                ],
            }
            for each in paper.reported
        ],
    }


def _printed(number: Number) -> str:
    if number.unit:
        return f"{number.value:g} {number.unit}"
    digits = 2 if number.measure.startswith("AUC") else 3
    text = wording.format_number(number.value, digits=digits)
    if number.spread is None:
        return text
    return f"{text} ± {wording.format_number(number.spread, digits=digits)}"


def _ours(
    results: ResultsFolder, kinds: tuple[str, ...], number: Number
) -> list[tuple[str, dict[str, Any]]]:
    """Name and score of each decoder that does the same."""
    found = []
    for name, scores in results.scores["models"].items():
        if not number.key or scores.get("kind") not in kinds:
            continue
        if number.label:
            per_class = scores.get("per_class") or {}
            named = [c for c in per_class if c.lower().startswith(number.label)]
            score = per_class[named[0]].get(number.key) if len(named) == 1 else None
        else:
            score = scores.get(number.key)
        if score is not None:
            found.append((name, {"value": None} | score))
    return found
