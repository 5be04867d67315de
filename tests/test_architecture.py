"""Imports go one way, and Ray stays in one place."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "exreid"

PARTS = [
    *("errors", "progress", "records", "plugins"),
    *("config", "metrics", "storage", "data", "models", "calibration", "features", "matching"),
    *(
        "openset",
        "review",
        "training",
        "explain",
        "distributed",
        "pipeline",
        "gallery",
        "report",
        "runs",
    ),
    *("api", "commands", "cli"),
]
"""Each part may import those before it."""


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.stem != "__init__"
)


def test_every_part_has_its_place():
    assert {_part_of(file) for file in FILES} == set(PARTS)


def test_each_part_imports_only_what_stands_before_it():
    wrong = []
    for file in FILES:
        part = _part_of(file)
        used = {name.split(".")[1] for name in _imports(file) if name.startswith("exreid.")}
        for other in used - {*PARTS[: PARTS.index(part) + 1], "__version__"}:
            wrong.append(f"{file.relative_to(PACKAGE)} imports exreid.{other}")
    assert wrong == []


def test_only_distributed_imports_ray():
    users = {
        _part_of(file)
        for file in FILES
        if any(name == "ray" or name.startswith("ray.") for name in _imports(file))
    }
    assert users == {"distributed"}


THINGS = "animals|boxes|encounters|entries|files|images|masks|pairs|photographs|rows|times"


def test_a_sentence_that_begins_with_a_count_says_one_photograph_and_two_photographs():
    bare = re.compile(rf'f"\{{(?!counted|[A-Z_]+\}})[^{{}}]+\}} ({THINGS})\b(?!/)')
    wrong = [
        f"{file.relative_to(PACKAGE)}: {found[0]} (see exreid.progress.counted)"
        for file in FILES
        for found in bare.finditer(file.read_text())
    ]
    assert wrong == []
