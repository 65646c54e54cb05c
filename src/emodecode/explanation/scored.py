"""Scores of the decoders that are explained, on all samples that their folds held out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emodecode.evaluate.results import PREDICTION_COLUMNS
from emodecode.explanation.fits import Explanation
from emodecode.samples import write_table
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.samples import Samples

_KEPT = ("value", "low", "high", "chance", "p", "p_smallest", "n_subjects")


def score_explained(
    study: Study, samples: "Samples", explanation: Explanation, *, folder: Path
) -> dict[str, Any]:
    """Score the decoders, and write ``predictions.tsv`` for their ROC curves.

    Chance is that of labels exchanged under fixed predictions
    (`emodecode.evaluate.metrics.score_predictions`).

    Returns
    -------
    dict
        ``split`` (a sentence) and ``models``: of each decoder ``balanced_accuracy`` and
        ``macro_auc``, with interval and chance.
    """
    from emodecode.evaluate.metrics import score_predictions

    given = pd.concat([model.predictions for model in explanation.models], ignore_index=True)
    columns = [*PREDICTION_COLUMNS, *(f"p_{name}" for name in explanation.classes)]
    write_table(given[columns], folder / "predictions.tsv")
    scores = score_predictions(
        given[columns],
        classes=explanation.classes,
        seed=study.seed,
        n_permutations=study.evaluate.n_permutations,
        samples_table=samples.table,
        rows=given["row"].to_numpy(),
        splits=explanation.splits,
    )
    return {
        "split": {"sentence": explanation.split, "widening": scores["widening"]},
        "models": {
            name: {metric: _some(each[metric]) for metric in ("balanced_accuracy", "macro_auc")}
            for name, each in scores["models"].items()
        },
    }


def _some(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score[key] for key in _KEPT if key in score}
