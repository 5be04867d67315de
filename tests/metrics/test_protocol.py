"""A paper's table: its cells, and that none is computed twice."""

import json

import pytest

from benchmarks._protocol import cells_of, run_cells
from exreid.errors import ConfigError

SMALL = ["ray.num_actors=0", "dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"]
SMALL += ["benchmark.local_top_k=32", "benchmark.local_size=96"]


def test_a_method_that_matches_pairs_has_a_cell_for_each_budget():
    cells = cells_of(None, [], budgets=(5, None), checkpoint="matcher.pth")
    budget_of = {cell.name: cell.config.benchmark.candidate_k for cell in cells}
    assert budget_of == {
        "cosine": None,
        "classifier": None,
        "local_index": None,
        "local_lightglue, 5": 5,
        "local_lightglue, all": None,
        "wildfusion, 5": 5,
        "wildfusion, all": None,
        "local_lightglue adapted, 5": 5,
        "local_lightglue adapted, all": None,
    }
    adapted = cells[-1].config
    assert adapted.benchmark.matcher_checkpoint == "matcher.pth"
    assert adapted.output.run_id == "local_lightglue-adapted-all"
    assert cells[4].config.benchmark.matcher_checkpoint is None


def test_a_finished_cell_is_read_and_a_known_pair_not_matched(few, tmp_path):
    words = [*SMALL, f"dataset.root={few}", f"output.root={tmp_path}"]
    kinds = {"methods": ["cosine", "local_lightglue"]}
    first = run_cells(cells_of(None, words, budgets=(2,), **kinds))
    written = [(folder / "result.json").read_bytes() for folder in first]
    again = run_cells(cells_of(None, words, budgets=(2, 3), **kinds))
    assert again[:2] == first
    assert [(folder / "result.json").read_bytes() for folder in first] == written
    counts = json.loads((again[2] / "result.json").read_text())["counts"]
    assert counts["pairs_known"] == 2 * counts["queries"]
    assert counts["pairs_matched"] == 3 * counts["queries"]
    with pytest.raises(ConfigError, match="finished run of another config"):
        run_cells(cells_of(None, [*words, "seed=5"], budgets=(2,), **kinds))
