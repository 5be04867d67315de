"""HotSpotter as IBEIS has it, its author's own later program."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"

import ibeis
import numpy as np
from _rival import Task, read_task


def main(task: Task) -> None:
    """Scores by photograph, with the program's defaults; without its foreground detector, whose
    weights are a download."""
    folder = Path(tempfile.mkdtemp()) / "database"
    ibs = ibeis.opendb(dbdir=str(folder), allow_newdir=True, use_cache=False, web=False)
    images = ibs.add_images(list(task.table["path"]), auto_localize=False)
    if None in images or len(set(images)) < len(images):
        raise SystemExit("IBEIS takes no photograph twice, and could not read or tell apart some.")
    wh_px = zip(ibs.get_image_widths(images), ibs.get_image_heights(images), strict=True)
    boxes = [(0, 0, width, height) for width, height in wh_px]
    animals = np.array(
        ibs.add_annots(images, bbox_list=boxes, name_list=list(task.table["unique_name"]))
    )
    queries, gallery = animals[task.is_query], animals[~task.is_query]
    with task.timed("features_s"):
        ibs.get_annot_num_feats(animals.tolist())
    request = ibs.new_query_request(queries.tolist(), gallery.tolist(), cfgdict={"fg_on": False})
    with task.timed("answers_s"):
        answers = request.execute()
    scores_QG = np.full((len(queries), len(gallery)), np.nan)
    place_of = {animal: place for place, animal in enumerate(gallery.tolist())}
    row_of = {animal: row for row, animal in enumerate(queries.tolist())}
    for answer in answers:
        for animal, score in zip(answer.daid_list, answer.annot_score_list, strict=True):
            scores_QG[row_of[answer.qaid], place_of[animal]] = score
    task.save("HotSpotter", scores_QG, len(queries) * len(gallery))


if __name__ == "__main__":
    main(read_task(Path(sys.argv[1])))
