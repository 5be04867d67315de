"""A paper's table on the files at hand: methods beside each other, over candidate budgets.

Every method is probed on the same split: cosine, a classifier on the embeddings, the index of
descriptors, LightGlue and WildFusion, and LightGlue with --matcher-checkpoint; those that match
pairs once for each of --budgets. Run again with the same --out, it goes on: a finished cell is not
computed again, and no pair is matched twice. --out gets table.md, table.tex and table.csv, and in
``comparison`` the files of exreid compare: budget.png has accuracy against budget.
Without --root, generated animals show how it works.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from _protocol import BUDGETS, METHODS, cells_of, run_cells

from exreid.data.synthetic import write_dataset
from exreid.report.method_table import FORMATS, method_table
from exreid.runs.compare import run_compare

GENERATED = ("dataset.encounter_cols=[source,encounter]", "ray.num_actors=0")
METRICS = ("top_1", "balanced_top_1", "top_5", "identity_top_5")
ENDINGS = {"markdown": "md", "latex": "tex", "csv": "csv"}


def main() -> None:
    """Run the cells, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--root", help="dataset.root; default: generated animals")
    add("--config", help="a file of exreid probe, which every cell begins with")
    add("--out", help="where runs, caches and tables go; default: thrown away")
    add("--methods", nargs="+", default=METHODS, choices=METHODS, help="only these")
    add("--budgets", nargs="+", type=_budget, default=BUDGETS, metavar="B",
        help="candidates of each query: numbers, or all")  # fmt: skip
    add("--matcher-checkpoint", help="of exreid finetune with train.what=matcher")
    add("--metrics", nargs="+", default=METRICS, help="the columns of the table")
    add("--quick", action="store_true", help="without LightGlue, or a few pairs of it")
    add("overrides", nargs="*", help="keys of every cell: dataset.preset=NAME ray.address=auto")
    options = parser.parse_intermixed_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root, words = options.root, options.overrides
        if root is None and options.config is None:
            root, words = str(folder / "animals"), [*GENERATED, *words]
            write_dataset(Path(root), identities=8, images_per_identity=6, seed=4)
        words = [*words, *([f"dataset.root={root}"] if root is not None else [])]
        out = Path(options.out or folder / "runs")
        cells = cells_of(
            options.config,
            [*words, f"output.root={out}"],
            methods=options.methods,
            budgets=(2, 5) if options.quick else options.budgets,
            checkpoint=options.matcher_checkpoint,
        )
        folders = run_cells(cells)
        names = [cell.name for cell in cells]
        comparison = run_compare(folders, out / "comparison", names=names, overwrite=True)
        table = method_table(comparison, options.metrics)
        for kind, write in FORMATS.items():
            (out / f"table.{ENDINGS[kind]}").write_text(write(table), encoding="utf-8")
        print(FORMATS["markdown"](table))


def _budget(text: str) -> int | None:
    return None if text == "all" else int(text)


if __name__ == "__main__":
    main()
