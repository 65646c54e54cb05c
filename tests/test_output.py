"""Output folders: nothing half-written, nothing lost."""

import json

import pytest

from emodecode.errors import InputError
from emodecode.output import RESUME_FOLDER, open_output, write_json


def _names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_content_appears_only_when_complete(tmp_path):
    out = tmp_path / "out"
    with open_output(out) as staging:
        (staging / "a.txt").write_text("a")
        assert _names(out) == []
    assert _names(out) == ["a.txt"]
    assert not (out / ".staging").exists()


def test_bad_input_leaves_nothing(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError), open_output(out) as staging:
        (staging / "a.txt").write_text("a")
        raise InputError("x", found="y", expected="z", remedy="w")
    assert not out.exists()


def test_interruption_keeps_what_is_done_and_success_removes_it(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), open_output(out):
        (out / RESUME_FOLDER).mkdir()
        (out / RESUME_FOLDER / "fold.npz").write_text("1")
        raise KeyboardInterrupt
    assert (out / RESUME_FOLDER / "fold.npz").is_file()
    with open_output(out) as staging:
        assert (out / RESUME_FOLDER / "fold.npz").is_file()
        (staging / "a.txt").write_text("a")
    assert not (out / RESUME_FOLDER).exists()


def test_earlier_result_is_refused_then_replaced(tmp_path):
    out = tmp_path / "out"
    with open_output(out) as staging:
        (staging / "maps").mkdir()
        (staging / "maps" / "old.nii").write_text("old")
        (staging / "a.txt").write_text("old")
    (out / "mine.txt").write_text("the user's")
    with pytest.raises(InputError, match="holds 3 files"), open_output(out):
        pass
    with open_output(out, overwrite=True) as staging:
        (staging / "a.txt").write_text("new")
    assert _names(out) == ["a.txt", "mine.txt"]
    assert (out / "a.txt").read_text() == "new"


def test_failed_overwrite_keeps_the_earlier_result(tmp_path):
    out = tmp_path / "out"
    with open_output(out) as staging:
        (staging / "a.txt").write_text("old")
    with pytest.raises(InputError), open_output(out, overwrite=True) as staging:
        (staging / "a.txt").write_text("new")
        raise InputError("x", found="y", expected="z", remedy="w")
    assert (out / "a.txt").read_text() == "old"


def test_a_file_or_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file"), open_output(tmp_path / "file"):
        pass
    with (
        pytest.raises(InputError, match="cannot be written"),
        open_output(tmp_path / "file" / "below"),
    ):
        pass


def test_json_has_no_nan(tmp_path):
    write_json({"a": float("nan"), "b": (1, 2.5), 3: "x"}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1, 2.5], "3": "x"}
