"""Claims count how many decoders were tried, and how small p can get at all."""

import pytest

from emodecode.evaluate.corrected import holm
from emodecode.report.wording import claim


def test_claims_are_corrected_for_the_number_of_decoders():
    score = {"value": 0.6, "chance": 0.5, "p": 0.03, "p_smallest": 0.001}
    assert claim(score, verdict="clean") == "above chance (p = .030)"
    said = claim(score, verdict="clean", p_corrected=0.06, n_tested=2)
    assert said == "not distinguishable from chance (p = .030; p = .060 corrected for 2 decoders)"
    few = claim(score | {"p_smallest": 0.25, "p": 0.25}, verdict="clean")
    assert few.startswith("cannot be tested")


def test_holm_is_that_of_the_book():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_nothing_below_chance_is_called_above_it():
    score = {"value": 0.30, "chance": 0.33, "p": 0.01, "p_smallest": 0.001}
    assert "not distinguishable" in claim(score, verdict="clean")
