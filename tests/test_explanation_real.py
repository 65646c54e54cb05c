"""`emodecode explain` on real brains: Sherlock's decoder from data to named places."""

from pathlib import Path

import pandas as pd
import pytest

from emodecode.study import load_study
from emodecode.workflow import explain

pytestmark = [pytest.mark.data, pytest.mark.slow]

STUDY = Path(__file__).parent.parent / "studies/sherlock.toml"


def test_sherlocks_decoder_is_explained_in_named_places(tmp_path, data_dir):
    study = load_study(STUDY)
    rules = {"space": "MNI152NLin6Asym", "per_class": 5, "geometry": False, "label_draws": 0}
    study = study.model_copy(
        update={
            "explain": study.explain.model_copy(update=rules),
            "models": [each for each in study.models if each.name == "lda"],
        }
    )
    told = explain(study, tmp_path / "out", progress=False)
    assert told["audit"]["verdict"] == "clean"
    score = told["scores"]["lda"]["balanced_accuracy"]
    assert 0.47 < score["value"] < 0.56, "posterior medial cortex is no region of affect"
    (model,) = told["models"]
    assert model["n_subjects"] == 17
    assert sum(each["n_significant"] for each in model["classes"]) == 0
    regions = pd.read_csv(tmp_path / "out/regions.tsv", sep="\t")
    places = " ".join(regions["place"])
    assert "posterior cingulate cortex" in places
    assert "precuneus" in places
    # the mask is posterior medial cortex: every peak lies there
    assert regions["x_mm"].abs().max() < 25
    assert regions["y_mm"].between(-85, -25).all()
