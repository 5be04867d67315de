"""`exreid report`."""

from __future__ import annotations

import argparse
import os

from exreid.commands.common import Command, plain_arguments
from exreid.commands.terminal import OUT, progress_shown
from exreid.storage import mirror


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a finished probe's folder, or its URL")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="RUN", help="runs to set beside it"
    )
    parser.add_argument("--out", help="folder or URL to write to; without it, RUN_DIR/report")
    parser.add_argument(
        "--root", type=os.path.expanduser, help="the photographs' folder, where it has moved"
    )
    parser.add_argument(
        "--gallery",
        type=os.path.expanduser,
        help="an identification's gallery, where it has moved",
    )
    parser.add_argument("--site", metavar="COLUMN", help="column of the metadata with the place")
    parser.add_argument("--workers", type=int, help="processes that make pictures")


def _report(options: argparse.Namespace) -> int:
    from exreid.runs.report import write_report

    with progress_shown() as progress:
        first = write_report(
            mirror.local_folder(options.run_dir),
            mirror.local_root(options.out, key="--out") if options.out else None,
            compare=[mirror.local_folder(run) for run in options.compare],
            root=options.root,
            gallery_root=options.gallery,
            site_column=options.site,
            workers=options.workers,
            progress=progress,
        )
    OUT.print(f"Open {first}", markup=False, soft_wrap=True)
    if mirror.url_of(first) is not None:
        OUT.print(f"Also at {mirror.shown(first.parent)}", markup=False, soft_wrap=True)
    return 0


REPORT = Command("Pages that show a run's answers and why.", _report_arguments, _report)
