"""The report of a large run: how long it takes, how large it is, how soon its pages show.

The run is made, without a model: 10,000 queries, their matches and photographs (``--quick``: 500).
Pages are opened from disk in a headless Chromium or Chrome, where one is installed with its driver.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from _report import Report, arguments

FULL: dict[str, Any] = {"queries": 10_000, "gallery": 5_000, "animals": 300}
QUICK: dict[str, Any] = {"queries": 500, "gallery": 500, "animals": 60}


def main() -> None:
    """Write it, write it again, and open it."""
    # Here, so that the processes for pictures, which import this file, stay small.
    from _made_run import MadeRun, make_run

    from exreid.runs.report import write_report

    options = arguments(__doc__ or "")
    made = MadeRun(**(QUICK if options.quick else FULL))
    report = Report(f"A report of {made.queries:,} queries, {made.kept_matches} pairs of each")
    with tempfile.TemporaryDirectory() as folder:
        run, _ = make_run(Path(folder), made)
        out = run / "report"
        for name in ("first time", "again, nothing changed", "again, pages anew"):
            if name.endswith("anew"):
                (out / "report.json").unlink()
            start = time.perf_counter()
            first = write_report(run)
            report.add(f"write, {name}", time.perf_counter() - start, "s")
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report.add("most memory, this process", used / 1024, "MiB")
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        report.add("most memory, a process for pictures", used / 1024, "MiB")
        for part, pattern in (("photographs", "[tp]/*/*"), ("data", "data/*"), ("pages", "*.html")):
            size = sum(file.stat().st_size for file in out.glob(pattern))
            report.add(f"size of {part}", size / 2**20, "MiB")
        _open(report, first.parent)
    report.show(options.json)


def _open(report: Report, out: Path) -> None:
    """First paint of each page, and the time until one photograph's page is there."""
    try:
        from _browser import Browser
    except ImportError:
        print("selenium is not installed (extra: test), so no page is opened.")
        return
    browser = Browser.start()
    if browser is None:
        print("no Chromium or Chrome with its driver is installed, so no page is opened.")
        return
    with browser:
        for page in ("index.html", "queries.html", "trust.html"):
            browser.open(out / page)
            report.add(f"first paint of {page}", browser.first_paint_ms(), "ms")
        browser.open(out / "queries.html")
        start = time.perf_counter()
        browser.wait("#grid li")
        report.add("list of photographs, after load", 1000 * (time.perf_counter() - start), "ms")
        start = time.perf_counter()
        browser.run("document.querySelector('#grid a').click()")
        browser.wait("#detail h1")
        report.add(
            "a photograph's page, after the click", 1000 * (time.perf_counter() - start), "ms"
        )
        report.add("memory of the page's script", browser.heap_mib(), "MiB")


if __name__ == "__main__":
    main()
