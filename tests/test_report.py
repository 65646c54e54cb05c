"""The report: what is on the page is what is in the folder, and no more than may be said."""

import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from emodecode.errors import DataMissingError
from emodecode.report.methods import write_methods
from emodecode.report.page import write_report
from emodecode.report.references import REFERENCES
from emodecode.report.wording import (
    claim,
    format_interval,
    format_number,
    format_p,
    format_short,
)
from results_folder import write_results_folder

LONG = 17


class Page(HTMLParser):
    """Collects tags, attributes and text of a page, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.tags, self.open, self.words = text, [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, *names: str) -> list[str]:
        return [attrs[n] for _, attrs in self.tags for n in names if attrs.get(n) is not None]


def read_page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> tuple[Path, Page]:
    folder = write_results_folder(tmp_path_factory.mktemp("report") / "clean")
    return folder, read_page(folder)


@pytest.fixture(scope="module")
def leak(tmp_path_factory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("report") / "leak"
    write_results_folder(folder, verdict="leak", labels="annotations", n_subjects=4)
    return folder, read_page(folder)


@pytest.fixture
def table(tmp_path) -> Path:
    """Return a small folder without images."""
    return write_results_folder(
        tmp_path / "table", source="table", labels="data", mask=False, n_subjects=3, n_runs=1
    )


# ------------------------------------------------------------------ the page as a file


def test_page_needs_nothing_but_itself(clean):
    _, page = clean
    outside = [a for a in page.attributes("src", "href", "xlink:href") if ":" in a.split("/")[0]]
    assert all(a.startswith(("data:image/png;base64,", "https://doi.org/")) for a in outside)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    policy = [attrs for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_links_lead_somewhere(clean):
    folder, page = clean
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for href in page.attributes("href", "xlink:href"):
        if href.startswith("#"):
            assert href[1:] in ids
        elif not href.startswith("https://doi.org/"):
            assert (folder / href).is_file()
    assert set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(ids)


def test_every_image_says_what_it_shows(clean):
    _, page = clean
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(images) == 1 + 2 * 2 * 3
    assert all(attrs["alt"] for attrs in images)
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)


def test_sections_come_in_the_promised_order(clean):
    _, page = clean
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == [
        *("audit", "scores", "subjects", "confusion", "roc", "classes", "folds", "labels"),
        *("brain", "methods", "references", "provenance"),
    ]
    links = [a[1:] for a in page.attributes("href") if a.startswith("#") and a != "#audit"]
    assert links[: len(sections) - 1] == sections[1:]


def test_same_folder_gives_the_same_bytes(tmp_path):
    pages = []
    for name in ("a", "b"):
        folder = write_results_folder(
            tmp_path / name, n_subjects=3, models={"lda": 0.8}, classes=("negative", "positive")
        )
        pages.append(write_report(folder).read_bytes())
    assert hashlib.sha256(pages[0]).digest() == hashlib.sha256(pages[1]).digest()


def test_page_appears_only_when_complete(table, tmp_path):
    page = write_report(table, out=tmp_path / "other.html")
    assert page == tmp_path / "other.html"
    assert not list(tmp_path.glob("**/*.partial"))
    (table / "scores.json").unlink()
    with pytest.raises(DataMissingError):
        write_report(table)
    assert not (table / "report.html").exists()


def test_drawing_leaves_the_state_of_matplotlib_alone(table):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(table)
    assert dict(matplotlib.rcParams) == before


# ---------------------------------------------------------------------------- numbers


def test_scores_on_the_page_are_those_of_the_file(clean):
    folder, page = clean
    models = json.loads((folder / "scores.json").read_text())["models"]
    for metric in ("balanced_accuracy", "macro_auc", "log_loss"):
        shown = re.findall(rf'data-metric="{metric}">([^<]*)</b>', page.source)
        assert [float(v) for v in shown] == [
            pytest.approx(m[metric]["value"], abs=0.005) for m in models.values()
        ]
    for name, model in models.items():
        row = re.search(rf"</span>{name}</th>(.*?)</tr>", page.source, flags=re.S)[1]
        assert format_interval(model["balanced_accuracy"]) in row
        for per_class in model["per_class"].values():
            for metric in ("precision", "recall", "f1", "auc"):
                assert format_interval(per_class[metric]) in page.text
    tables = re.findall(r'<table class="confusion">.*?</table>', page.source, flags=re.S)
    counts = [re.findall(r"<small>(\d+)</small>", table) for table in tables]
    assert [list(map(int, each)) for each in counts] == [
        np.ravel(m["confusion"]).tolist() for m in models.values()
    ]


def test_rows_of_confusion_are_shares_of_the_true_class(clean):
    _, page = clean
    first = re.search(r'<table class="confusion">.*?</table>', page.source, flags=re.S)[0]
    for row in re.findall(r"<tr><th scope=.row.>.*?</tr>", first, flags=re.S):
        shares = re.findall(r">([.\d]+)<small>", row)
        assert sum(map(float, shares)) == pytest.approx(1, abs=0.011)


def test_every_subject_is_in_table_and_figure(clean):
    folder, page = clean
    scores = json.loads((folder / "scores.json").read_text())["models"]
    subjects = list(scores["lda"]["per_subject"])
    part = page.source.split('id="subjects"')[1].split("</section>")[0]
    assert re.findall(r'<th scope="row">([^<]+)</th>', part) == subjects
    dots = len(re.findall(r"<use ", part.split("</svg>")[0]))
    assert dots >= len(scores) * len(subjects)


def test_missing_values_are_said_to_be_missing(table):
    def blank(scores):
        model = scores["models"]["lda"]
        model["macro_auc"] = None
        for key in ("low", "high", "chance", "p", "p_smallest"):
            model["balanced_accuracy"][key] = None
        model["per_class"]["fear"]["auc"] = None
        model["per_subject"]["01"]["balanced_accuracy"] = None
        scores["models"]["logistic"]["balanced_accuracy"] = None
        scores["chance"] = None

    edit_json(table / "scores.json", blank)
    page = read_page(table)
    assert "lda : not tested against chance" in page.text
    assert "n/a" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.534, ".53"), (0.005, ".01"), (0.004, ".00"), (1.0, "1.00"), (-0.053, "−.05"),
        (-0.001, ".00"), (1.236, "1.24"), (None, "n/a"), (float("nan"), "n/a"),
    ],
)  # fmt: skip
def test_numbers_have_one_form(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("p", "smallest", "text"),
    [
        (0.0123, 0.001, "p = .012"), (1 / 1001, 1 / 1001, "p < .001"), (0.01, 0.01, "p = .010"),
        (0.0002, 0.002, "p = .002"), (1.0, 0.001, "p = 1.000"), (0.0504, 0.001, "p > .050"),
        (None, None, "n/a"),
    ],
)  # fmt: skip
def test_p_is_never_smaller_than_the_test_allows(p, smallest, text):
    assert format_p(p, smallest_p=smallest) == text


def test_short_numbers_keep_three_digits():
    assert [format_short(v) for v in (0.0512, -1.3, 1.0, 123.4)] == [
        ".0512",
        "−1.30",
        "1.00",
        "123",
    ]


# ----------------------------------------------------------------- what may be claimed


@pytest.mark.parametrize(
    ("verdict", "p", "said"),
    [
        ("clean", 0.004, "above chance (p = .004)"),
        ("clean", 0.05, "above chance (p = .050)"),
        ("clean", 0.051, "not distinguishable from chance (p = .051)"),
        ("caution", 0.004, "no claim: the audit advises caution (p = .004)"),
        ("caution", 0.4, "not distinguishable from chance (p = .400)"),
        ("leak", 0.004, "cannot be interpreted: the audit found a leak"),
        ("leak", None, "cannot be interpreted: the audit found a leak"),
        ("clean", None, "not tested against chance"),
    ],
)
def test_claims_need_a_clean_audit_and_a_small_p(verdict, p, said):
    score = {"value": 0.6, "chance": 0.33, "p": p, "p_smallest": 0.001}
    assert claim(score, verdict=verdict) == said


def test_page_never_says_significantly_better(clean, leak):
    for _, page in (clean, leak):
        assert "significantly" not in page.text.lower()
        assert "better than" not in page.text.lower()
        assert "fingerprint of an emotion" in page.text


def test_leak_is_marked_beside_every_score(leak):
    _, page = leak
    scores = re.findall(r'<b class="score"[^>]*>[^<]*</b>(.{0,120})', page.source, flags=re.S)
    assert len(scores) == 3 * (4 + 3 * 4 + 4)
    assert all("leaks: see audit" in after for after in scores)
    drawings = re.findall(r'<svg.*?aria-label="([^"]*)".*?</svg>', page.source, flags=re.S)
    assert all("leaks: see audit" in label for label in drawings if "Label of every" not in label)
    cells = re.findall(r"<small>(.*?)</small>", page.source)
    assert len(cells) == 3 * 9
    assert all("✕" in cell for cell in cells)
    values = re.findall(r'<table class="peaks">.*?</table>', page.source, flags=re.S)
    assert all("leaks: see audit" in each for each in values)
    assert "above chance" not in page.text
    assert page.text.count("cannot be interpreted: the audit found a leak") == 3
    assert "knowingly" in page.text


def test_clean_page_has_no_mark(clean):
    _, page = clean
    assert "leaks: see audit" not in page.text
    assert "above chance (p < .001; " in page.text


@pytest.mark.parametrize(
    ("verdict", "word", "sign"),
    [("clean", "Clean", "✓"), ("caution", "Caution", "!"), ("leak", "Leak", "✕")],
)
def test_verdict_is_a_word_and_a_sign_before_any_score(tmp_path, verdict, word, sign):
    folder = write_results_folder(
        tmp_path / "r",
        verdict=verdict,
        source="table",
        mask=False,
        n_subjects=3,
        models={"lda": 1.0},
    )
    page = read_page(folder)
    banner = page.source.index(f'<div class="banner {verdict}"')
    assert banner < page.source.index('class="score"')
    assert sign in page.source[banner : banner + 200]
    assert f"{word}:" in page.text
    audit = json.loads((folder / "audit.json").read_text())
    for finding in audit["findings"]:
        for key in ("title", "worst", "danger", "remedy"):
            assert finding[key] in page.text


def test_portrayed_is_said_of_annotations_only(clean, leak):
    assert "portrayed" not in clean[1].text
    assert "portrayed in the stimulus, not emotions that the scanned subjects" in leak[1].text


def test_weights_never_stand_alone(clean):
    _, page = clean
    assert "Weights are not activations." in page.text
    kinds = re.findall(r"<figcaption><b>(\w+)</b> <a", page.source)
    assert kinds == ["pattern", "weights"] * 6


# ------------------------------------------------------------------- varied results


def test_names_are_escaped_and_not_run(tmp_path):
    evil = "<script>alert(1)</script>"
    folder = write_results_folder(
        tmp_path / "r",
        classes=(f"a{evil}", "b & $c$", "d"),
        models={"lda": 0.8, 'x"><img src=x>': 0.5},
        n_subjects=3,
        title=f"T {evil}",
        mask=False,
    )
    page = read_page(folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "x" not in page.attributes("src")
    assert html.escape(evil) in page.source
    assert "b & $c$" in page.text


def test_many_classes_subjects_and_models_stay_small(tmp_path):
    classes = tuple(f"emotion number {k:02d}" for k in range(LONG))
    models = {"dummy": 0.0} | {f"decoder_number_{k}": 0.5 + k / 20 for k in range(3)}
    folder = write_results_folder(
        tmp_path / "r",
        classes=classes,
        models=models,
        n_subjects=12,
        n_runs=1,
        n_blocks=1,
        mask=False,
    )
    page = read_page(folder)
    assert (folder / "report.html").stat().st_size < 3_000_000
    assert page.text.count("emotion number 16") >= 2 * len(models)
    assert "(emotion number 00," in page.text


def test_tables_have_neither_brain_nor_time(table):
    page = read_page(table)
    assert "brain" not in page.attributes("id")
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert "These samples have no time axis." in page.text
    assert "voxels" not in page.text.split("Decoders.")[0].split("Methods")[-1]


def test_two_classes_and_one_model(tmp_path):
    folder = write_results_folder(
        tmp_path / "r", classes=("negative", "positive"), models={"ridge": 0.9}, n_subjects=3
    )
    page = read_page(folder)
    assert "1 decoder of 2 classes (negative and positive), tested on" in page.text
    assert "not corrected" not in page.text


def test_stimulus_timeline_shows_agreement(tmp_path):
    folder = write_results_folder(
        tmp_path / "r", labels="annotations", timeline=True, mask=False, n_subjects=3
    )
    page = read_page(folder)
    assert "share of observers that agree" in page.text
    assert "One more observer would reach a balanced accuracy of .69" in page.text


# ------------------------------------------------------------------------ methods text


def _methods(folder: Path, **changes) -> tuple[dict[str, str], list[str]]:
    import tomllib

    study = tomllib.loads((folder / "study.toml").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = study
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    files = [
        json.loads((folder / f"{n}.json").read_text()) for n in ("provenance", "scores", "audit")
    ]
    paragraphs, keys = write_methods(study, *files)
    return dict(paragraphs), keys


def test_methods_say_what_the_study_says(clean):
    methods, keys = _methods(clean[0])
    assert "6 subjects, 12 runs, 288 labelled samples" in methods["Data"]
    assert "task emotion and space MNI152NLin2009cAsym" in methods["Data"]
    assert "99 (moved more than 5 mm)" in methods["Data"]
    assert "first 4 volumes" in methods["Data"]
    for text in ("6 mm FWHM", "0.007812 Hz", "trans_x, trans_y and csf", "detrended"):
        assert text in methods["Preparation"]
    assert "5 s before it" in methods["Labels"]
    assert "500 voxels with the largest F" in methods["Decoders"]
    assert "over all training subjects" in methods["Decoders"]
    assert "C: .1, 1" in methods["Decoders"]
    assert "3 inner folds" in methods["Decoders"]
    assert "each subject is tested on a decoder of all the others" in methods["Split"]
    assert "1\u202f000 permutations" in methods["Scores and chance"]
    assert "within 30 s" in methods["Audit"]
    assert "random seed was 7" in methods["Software"]
    assert {"haufe2014", "brodersen2010", "abraham2014", "phipson2010", "ledoit2004"} <= set(keys)


@pytest.mark.parametrize(
    ("change", "heading", "there"),
    [
        ({"labels__clock": "published-cumulative"}, "Labels", "which is wrong"),
        ({"labels__merge": {"rage": "anger"}}, "Labels", "rage into anger"),
        ({"labels__min_count": 70}, "Labels", "count below 70"),
        ({"labels__balance": "episode"}, "Labels", "drawing whole episodes"),
        ({"labels__transition_s": 4.0}, "Labels", "within 4 s of a change"),
        ({"labels__source": "annotations"}, "Labels", "portrayed"),
        ({"features__select_by": "subject"}, "Decoders", "per training subject"),
        ({"features__parcels": "/a/Schaefer.nii.gz"}, "Preparation", "parcels of Schaefer.nii.gz"),
        ({"features__centre": "subject"}, "Preparation", "centred per subject"),
        ({"features__clean__low_pass_hz": 0.1}, "Preparation", "low-pass filtered at 0.1 Hz"),
        ({"features__clean__standardize": "volume"}, "Preparation", "over the voxels of each"),
        ({"data__source": "mat"}, "Data", "MATLAB files"),
        ({"models": [{"name": "t", "kind": "boosted_trees"}]}, "Decoders", "Chen and Guestrin"),
    ],
)
def test_methods_follow_the_study(clean, change, heading, there):
    assert there not in _methods(clean[0])[0][heading]
    assert there in _methods(clean[0], **change)[0][heading]


def test_methods_do_not_tell_what_was_not_done(table):
    methods, keys = _methods(table, features={}, models=[{"name": "lda", "kind": "lda"}])
    assert "Preparation" not in methods
    assert "Maps" not in methods
    assert "inner folds" not in methods["Decoders"]
    assert "largest F" not in methods["Decoders"]
    assert not {"haufe2014", "abraham2014"} & set(keys)


def test_references_are_those_cited(clean):
    _, page = clean
    listed = page.source.split('id="references"')[1].split("</section>")[0]
    methods = page.source.split('id="methods"')[1].split("</section>")[0]
    for reference in REFERENCES.values():
        cited = reference.short in page.text.split("References")[-2] or reference.short in methods
        if cited:
            assert html.escape(reference.doi) in listed
    assert "Fonov" in listed
    assert "Rosenblatt" in listed
    assert "Labs" not in listed
