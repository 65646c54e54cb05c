"""House rules that no linter knows: sizes, names, import time, docstrings, clean files."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PYTHON = [
    *SOURCES,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "base", "misc"}


def _public(tree: ast.Module):
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    item
                    for item in node.body
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")
                )


def test_files_stay_small():
    lengths = {path.name: len(path.read_text().splitlines()) for path in PYTHON}
    too_long = {name: n for name, n in lengths.items() if n > 500}
    assert not too_long
    sizes = [len(p.read_text().splitlines()) for p in SOURCES if p.stat().st_size]
    assert median(sizes) <= 260


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_names_and_inits(path):
    assert path.stem not in FORBIDDEN_NAMES
    if path.name == "__init__.py" and path.parent.name != "emodecode":
        assert not path.read_text().strip(), "inner __init__.py files stay empty"


def test_folders_are_one_level_deep():
    package = ROOT / "src" / "emodecode"
    assert max(len(path.relative_to(package).parts) for path in SOURCES) <= 2


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text())
    if path.stat().st_size:
        assert ast.get_docstring(tree), "a module says what it is for"
    bare = [
        node.name
        for node in _public(tree)
        if not ast.get_docstring(node) and node.name not in {"fit", "transform", "predict"}
    ]
    assert not bare


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_forbidden_constructs(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {"pickle", "dill", "cloudpickle"} & set(names), (
                "pickle is no exchange format"
            )
            assert "sleep" not in names
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            assert node.exc.id != "NotImplementedError", "no stubs"


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_machine_paths_and_no_left_overs(path):
    if path == Path(__file__):
        return
    text = path.read_text()
    assert not re.search(r"/(work|root)/|\b(TODO|FIXME|XXX)\b", text)


def test_only_report_draws():
    drawing = [
        p for p in SOURCES if re.search(r"^\s*(import|from) matplotlib", p.read_text(), re.M)
    ]
    assert {p.parent.name for p in drawing} <= {"report"}


def test_help_imports_no_heavy_library():
    code = (
        "import sys\n"
        "from emodecode.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'sklearn', 'nilearn', 'matplotlib', 'scipy', 'pandas', 'xgboost'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert "evaluate" in done.stdout


def test_imports_run_downwards():
    """The layer contract of pyproject.toml holds (import-linter)."""
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0
