"""How a bad input must be refused: exit code 2, three lines, nothing written, nothing touched."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from emodecode.cli import main


def evaluate(root: Path, *more: str, out: str = "out") -> list[str]:
    """Arguments that evaluate ``study.toml`` in a folder into ``out`` there."""
    return ["evaluate", str(root / "study.toml"), "--out", str(root / out), "--quiet", *more]


def label(root: Path) -> list[str]:
    """Arguments that label ``study.toml`` in a folder into its ``out``."""
    return ["label", str(root / "study.toml"), "--out", str(root / "out")]


class Cases:
    """A table of bad inputs; each entry is a function that spoils the input in a folder.

    The function returns the arguments of the command line, or None for `evaluate` on
    ``study.toml`` there.
    """

    def __init__(self, default: Callable[[Path], list[str]]) -> None:
        self.default = default
        self.entries: list = []

    def __call__(self, *words: str):
        """Register a function with the words that the message must hold."""

        def register(spoil):
            self.entries.append(pytest.param(spoil, words, id=spoil.__name__))
            return spoil

        return register

    def check(self, spoil, words: Sequence[str], root: Path, capsys) -> str:
        """Spoil the input, run the command and check how it is refused; the message comes back."""
        return refuse(spoil(root) or self.default(root), words, root=root, capsys=capsys)


def refuse(arguments: Sequence[object], words: Sequence[str], *, root: Path, capsys) -> str:
    """Run the command line and check that it refuses as it should; the message comes back."""
    before = photograph(root)
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert stopped.value.code == 2, said
    assert len(lines) == 3, said
    assert lines[0].startswith("emodecode: ")
    assert lines[1].startswith("expected: ")
    assert lines[2].startswith("what to do: ")
    missing = [word for word in words if word not in said]
    assert not missing, said
    assert photograph(root) == before
    return said


def photograph(root: Path) -> dict[str, object]:
    """Every path below a folder, hidden ones too, with the content and time of the files."""
    return {
        str(path.relative_to(root)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        if path.is_file()
        else "folder or link"
        for path in sorted(root.rglob("*"))
    }
