"""Imports go one way, and Ray stays in one place."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "exreid"

# What each part may import from exreid, besides errors and itself.
MAY_IMPORT = {
    "errors": set(),
    "records": set(),
    "config_base": set(),
    "config_ranking": {"config_base"},
    "config_benchmark": {"config_base", "config_ranking"},
    "config": {"config_base", "config_benchmark"},
    "config_training": {"config", "config_base", "config_benchmark"},
    "config_text": set(),
    "config_io": {"config_base", "config_text"},
    "config_space": {"config_base", "config_io"},
    "config_tune": {
        *("config", "config_base", "config_io", "config_space", "config_training"),
    },
    "data": {"records", "config", "config_base", "config_benchmark"},
    "models": {"records", "config", "config_base", "config_benchmark", "data"},
    "training": {"records", "config", "config_training", "data", "models"},
    "features": {"records", "config", "config_base", "config_benchmark", "data", "models"},
    "matching": {"records", "config", "data", "models", "features", "metrics"},
    "metrics": {"records"},
    "explain": {
        *("records", "config", "config_base", "config_benchmark"),
        *("data", "models", "features", "matching", "metrics"),
    },
    "distributed": {
        *("records", "config", "config_training", "data", "models", "features"),
        *("matching", "metrics", "training"),
    },
    "runs": {
        *(
            "records",
            "config",
            "config_base",
            "config_benchmark",
            "config_ranking",
            "config_training",
            "config_space",
            "config_tune",
            "config_io",
            "config_text",
            "data",
            "models",
            "features",
        ),
        *("matching", "metrics", "training", "distributed", "explain"),
    },
    "commands": {
        *("records", "config", "config_base", "config_training", "config_tune", "config_io"),
        *("data", "models", "runs"),
    },
    "cli": {"commands", "config", "config_io", "data"},
}


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


def test_each_part_imports_only_what_stands_before_it():
    wrong = []
    for file in FILES:
        part = _part_of(file)
        used = {name.split(".")[1] for name in _imports(file) if name.startswith("exreid.")}
        for other in used - MAY_IMPORT[part] - {part, "errors", "__version__"}:
            wrong.append(f"{file.relative_to(PACKAGE)} imports exreid.{other}")
    assert wrong == []


def test_only_distributed_imports_ray():
    users = {
        _part_of(file)
        for file in FILES
        if any(name == "ray" or name.startswith("ray.") for name in _imports(file))
    }
    assert users == {"distributed"}


def test_the_table_of_parts_has_no_circle():
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        ready = [p for p, uses in MAY_IMPORT.items() if p not in order and uses <= set(order)]
        assert ready, f"a circle among {set(MAY_IMPORT) - set(order)}"
        order.extend(ready)
