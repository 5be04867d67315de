"""Reading what a person reviews: discoveries, identifications, and the names of galleries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.errors import ReviewError, RunError
from exreid.report.reviewed import ReviewedRun, visit_flanks
from exreid.report.reviewed_gallery import SOURCE, read_gallery_review
from exreid.report.reviewed_identification import read_identification
from exreid.report.run_pairs import apart_pairs, read_pairs
from exreid.review.belief import TEMPER, pair_graph
from exreid.review.state import subject_of
from exreid.storage.run_files import PHOTOS, TEXT, WHOLE, read_run_table
from exreid.storage.run_record import read_record
from exreid.storage.urls import is_remote

UNLISTED = 1e-3
"""The probability that two visits outside each other's shortlists show one animal; the lowest of
those inside, where that is lower."""


def read_discovered(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of a discovery's animals, and what is known of the same photographs, row by row."""
    columns = {"image_id": TEXT, "encounter": TEXT, "group": WHOLE}
    animals = read_run_table(folder / "animals.parquet", columns, key="image_id").to_pandas()
    photos = read_run_table(folder / "photos.parquet", PHOTOS, key="image_id").to_pandas()
    photos = photos.astype(object).set_index("image_id", drop=False).loc[animals["image_id"]]
    return animals, photos.reset_index(drop=True)


def read_review(folder: Path, *, wrong: float = 1.0) -> ReviewedRun:
    """What a review asks about. RunError for a folder that is neither a finished discovery or
    identification nor the review of a gallery."""
    if (folder / SOURCE).is_file():
        return read_gallery_review(folder, wrong=wrong)
    record = read_record(folder)
    if record.kind not in ("discover", "identify") or record.status != "completed":
        raise RunError(
            f"{folder}: a review takes a completed run of exreid discover or identify, or a "
            f"gallery, and this is a run of exreid {record.kind} whose status is {record.status!r}."
        )
    if record.kind == "identify":
        return read_identification(folder, wrong=wrong)
    animals, photos = read_discovered(folder)
    names, visit_N = np.unique(animals["encounter"].to_numpy(str), return_inverse=True)
    pairs = read_pairs(folder, animals, names)
    apart_N2 = apart_pairs(photos, visit_N)
    probability_P = pairs.pop("probability").to_numpy()
    lowest = min(UNLISTED, float(probability_P.min(initial=1.0)))
    graph = pair_graph(
        len(names),
        pairs[["first", "second"]].to_numpy(np.int64),
        probability_P,
        unlisted=lowest,
        apart_N2=apart_N2,
        flank_V=visit_flanks(photos, visit_N, len(names)),
        temper=TEMPER,
    )
    best = {
        (str(names[a]), str(names[b])): (int(i), int(j))
        for a, b, i, j in pairs.itertuples(index=False)
    }
    subject = subject_of([str(name) for name in names], graph)
    return ReviewedRun(folder, photos, visit_N, subject, best, wrong)


def with_photographs(run: ReviewedRun, root: str | None, gallery: str | None) -> ReviewedRun:
    """The run with its photographs where they have moved to: those of an identification's known
    animals into ``gallery``, all others into ``root``. ReviewError for a folder that is not there,
    as nobody can answer without photographs."""
    photos, known_N = run.photos.copy(), run.known_V[run.visit_N]
    if gallery is not None and not known_N.any():
        raise ReviewError("--gallery is for identifications; --root names the photographs' folder.")
    for option, given, of in (("--root", root, ~known_N), ("--gallery", gallery, known_N)):
        if given is not None:
            photos.loc[of, "root"] = given
        for place in sorted({str(root) for root in photos.loc[of, "root"].dropna()}):
            if not is_remote(place) and not Path(place).is_dir():
                raise ReviewError(
                    f"{run.folder}: its photographs were in {place}, which is not there. Say where "
                    f"they are now: {option} FOLDER."
                )
    return replace(run, photos=photos, gallery=gallery or run.gallery)
