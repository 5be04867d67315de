"""An identification, read for a review: is each visit the animal that the gallery proposes?

Each known animal that was proposed is one visit more, named after it. The probability that a visit
shows it is the mean of its photographs' probabilities, or the encounter's own for its leader.

Letters: V visits, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from exreid.errors import ReviewError
from exreid.report.reviewed import DECISIONS, ReviewedRun
from exreid.report.run_pairs import LEAST, MOST, apart_pairs
from exreid.review.belief import pair_graph
from exreid.review.decisions import Decision, Purpose, append_decisions, user_name
from exreid.review.state import subject_of
from exreid.storage.run_files import (
    NEW_ANIMALS,
    NUMBER,
    TEXT,
    WHOLE,
    read_run_json,
    read_run_table,
)

KNOWN = "known animal: "
"""Begins the name of a known animal's visit."""
SOURCE, NEW_PAIRS = "identified_by.json", "new_pairs.parquet"
LISTED, MOST_CANDIDATES = 1e-3, 3
"""An animal is a visit's candidate where it is more probable than this, or among the first so
many."""
UNLISTED = 1e-3
NEW_FILE = "new_animals.parquet"
PAIR_COLUMNS = ("first", "second", "first_row", "second_row", "probability")
STATED = {1: 0.5, 2: 0.3, 3: 0.2}
"""The probability of a candidate by its rank, where the gallery measures none."""
GROUPED = 0.8
"""Of two visits of one group of new animals, in runs of earlier versions, which keep none."""


@dataclass(frozen=True)
class Proposals:
    """What an identification says of its visits."""

    photos: pd.DataFrame
    """A row for each photograph, of the given ones and of the gallery's, with its ``node``."""
    candidates: pd.DataFrame
    """The known animals (``second``) that each visit (``first``) may show: their nodes, the rows of
    the photographs (``first_row``, ``second_row``), and the ``probability``."""
    new: pd.DataFrame
    """Pairs of visits that were called new, in the same columns; ``grouped`` where they were taken
    for one animal."""
    names: dict[str, str]
    """The known animals' names, by node."""
    measured: bool
    """Whether the probabilities are."""


def read_proposals(folder: Path) -> Proposals:
    """RunError for damaged files."""
    photos = read_run_table(folder / "photos.parquet", {"image_id": TEXT, "side": TEXT})
    frame = photos.to_pandas().astype(object)
    frame = frame[frame["side"].isin(["query", "gallery"])].reset_index(drop=True)
    query_N = (frame["side"] == "query").to_numpy()
    visit_N = frame["encounter"].where(frame["encounter"].notna(), frame["image_id"])
    node_N = visit_N.where(query_N, KNOWN + frame["identity"].astype(str))
    known = frame.loc[~query_N, "identity"].astype(str)
    names = {f"{KNOWN}{name}": name for name in dict.fromkeys(known)}
    clash = sorted(set(node_N[query_N]) & set(names))
    if clash:
        raise ReviewError(f"{folder}: an encounter is called {clash[0]!r}. Give it another name.")
    frame = frame.assign(node=node_N)
    candidates, measured = _candidates(folder, frame)
    return Proposals(frame, candidates, _among_new(folder, frame), names, measured)


def _candidates(folder: Path, photos: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """The known animals that each visit may show, with their most alike photographs."""
    columns = {"query_id": TEXT, "identity": TEXT, "best_gallery_id": TEXT, "score": NUMBER}
    more = {"probability": NUMBER}
    table = read_run_table(folder / "answers.parquet", {**columns, "rank": WHOLE}, empty=more)
    answers = table.to_pandas()
    row_of = {image: row for row, image in enumerate(photos["image_id"])}
    answers = answers[answers["best_gallery_id"].isin(row_of)]
    node_of = photos["node"].to_dict()
    answers["second_row"] = answers["best_gallery_id"].map(row_of)
    answers["first_row"] = answers["query_id"].map(row_of)
    answers["first"] = answers["first_row"].map(node_of)
    answers["second"] = KNOWN + answers["identity"].astype(str)
    measured = bool(answers["probability"].notna().any())
    if not measured:
        answers["probability"] = answers["rank"].map(STATED).fillna(LISTED)
    shown = photos.loc[photos["side"] == "query", "node"].value_counts()
    answers = answers.sort_values(["score", "rank"], ascending=[False, True], kind="stable")
    by_pair = answers.groupby(["first", "second"], sort=False)
    best = by_pair[["first_row", "second_row"]].first()
    total = by_pair["probability"].sum()
    best["probability"] = total / shown.reindex(total.index.get_level_values(0)).to_numpy()
    best = best.reset_index()
    leaders = _leaders(folder)
    pooled = best["first"].map({visit: p for visit, (_, p) in leaders.items()})
    leads = best["first"].map({visit: KNOWN + name for visit, (name, _) in leaders.items()})
    is_leader = (leads == best["second"]) & pooled.notna()
    own = best["probability"].where(is_leader, 0.0).groupby(best["first"]).transform("sum")
    rest = best["probability"] * ((1 - pooled) / (1 - own).clip(lower=LEAST)).clip(upper=1.0)
    rest = np.minimum(rest, 0.999 * pooled)  # the encounter's own leader is proposed first
    best["probability"] = pooled.where(is_leader, rest.where(pooled.notna(), best["probability"]))
    rank = best.groupby("first")["probability"].rank(method="first", ascending=False)
    best = best[(best["probability"] >= LISTED) | (rank <= MOST_CANDIDATES)]
    best["probability"] = best["probability"].clip(LEAST, MOST)
    return best.reset_index(drop=True), measured


def _leaders(folder: Path) -> dict[str, tuple[str, float]]:
    """By encounter: its leader, and the probability that it is right."""
    file = folder / "encounters.parquet"
    if not file.exists():
        return {}
    more = {"leader": TEXT, "known_probability": NUMBER}
    table = read_run_table(file, {"encounter": TEXT}, empty=more).to_pandas()
    told = table[table["leader"].notna() & table["known_probability"].notna()]
    return {
        visit: (name, float(p))
        for visit, name, p in told[["encounter", "leader", "known_probability"]].to_numpy()
    }


def _among_new(folder: Path, photos: pd.DataFrame) -> pd.DataFrame:
    """Pairs of visits that were called new, with their most alike photographs, and whether they
    were taken for one animal."""
    row_of = {image: row for row, image in enumerate(photos["image_id"])}
    file, pairs = folder / NEW_PAIRS, list[tuple[str, str, float]]()
    group_of: dict[str, int] = {}
    if (folder / NEW_FILE).exists():
        table = read_run_table(folder / NEW_FILE, NEW_ANIMALS).to_pandas()
        group_of = dict(zip(table["query_id"], table["group"], strict=True))
        if not file.exists():
            members = [ids["query_id"].tolist() for _, ids in table.groupby("group")]
            pairs = [(a, b, GROUPED) for ids in members for a, b in combinations(ids, 2)]
    if file.exists():
        columns = {"first_id": TEXT, "second_id": TEXT, "probability": NUMBER}
        pairs = list(
            read_run_table(file, columns).to_pandas()[list(columns)].itertuples(index=False)
        )
    found: dict[tuple[str, str], tuple[int, int, float, bool]] = {}
    for one, other, probability in sorted(pairs, key=lambda pair: -pair[2]):
        first, second = row_of[one], row_of[other]
        nodes = photos["node"].iloc[first], photos["node"].iloc[second]
        if nodes[0] > nodes[1]:
            nodes, first, second = nodes[::-1], second, first
        chance = min(max(probability, LEAST), MOST)
        if nodes[0] != nodes[1]:
            found.setdefault(nodes, (first, second, chance, group_of[one] == group_of[other]))
    rows = [(*nodes, *about) for nodes, about in found.items() if about[2] >= LISTED or about[3]]
    return pd.DataFrame(rows, columns=[*PAIR_COLUMNS, "grouped"])


def read_identification(folder: Path, *, wrong: float) -> ReviewedRun:
    """ReviewError where nothing was proposed."""
    proposals = read_proposals(folder)
    photos = proposals.photos
    pairs = pd.concat(
        [part[list(PAIR_COLUMNS)] for part in (proposals.candidates, proposals.new)],
        ignore_index=True,
    )
    turned = (pairs["first"] > pairs["second"]).to_numpy()
    for one, other in (("first", "second"), ("first_row", "second_row")):
        pairs.loc[turned, [one, other]] = pairs.loc[turned, [other, one]].to_numpy()
    names, node_N = np.unique(photos["node"].to_numpy(str), return_inverse=True)
    place = {str(name): v for v, name in enumerate(names)}
    pairs = pairs.assign(first_v=pairs["first"].map(place), second_v=pairs["second"].map(place))
    pairs = pairs.drop_duplicates(["first_v", "second_v"]).sort_values(["first_v", "second_v"])
    pair_P2 = pairs[["first_v", "second_v"]].to_numpy(np.int64)
    known_V = np.array([name in proposals.names for name in place])
    query_N = (photos["side"] == "query").to_numpy()
    apart = [apart_pairs(photos[query_N], node_N[query_N]), _one_each(pair_P2, known_V)]
    graph = pair_graph(
        len(names),
        pair_P2,
        pairs["probability"].to_numpy(np.float64),
        unlisted=min(UNLISTED, float(pairs["probability"].min()) if len(pairs) else UNLISTED),
        apart_N2=np.unique(np.concatenate(apart), axis=0),
    )
    # Visits of known animals are not compared with each other: no score is no evidence against.
    graph = replace(graph, unlisted=0.0)
    best = {
        (str(a), str(b)): (int(i), int(j))
        for a, b, i, j in pairs[["first", "second", "first_row", "second_row"]].to_numpy()
    }
    source = _source(folder)
    taken = source.get("animals")
    gallery = source.get("gallery")
    return ReviewedRun(
        folder,
        photos,
        node_N.astype(np.int64),
        subject_of(list(place), graph),
        best,
        wrong,
        kind="identify",
        known=proposals.names,
        taken=frozenset(taken if isinstance(taken, list) else proposals.names.values()),
        gallery=gallery if isinstance(gallery, str) else None,
        tells_probability=proposals.measured,
    )


def _source(folder: Path) -> dict[str, object]:
    """What the run says of its gallery; runs of earlier versions say nothing."""
    file = folder / SOURCE
    return dict(read_run_json(file)) if file.exists() else {}


def _one_each(pair_P2: np.ndarray, known_V: np.ndarray) -> np.ndarray:
    """All pairs of known animals that visits could join, int64 (N, 2): each is another animal."""
    shape = (len(known_V), len(known_V))
    graph = coo_matrix((np.ones(len(pair_P2)), tuple(pair_P2.T)), shape)
    part_V = connected_components(graph, directed=False)[1]
    pairs = [np.zeros((0, 2), np.int64)]
    for part in np.unique(part_V[known_V]):
        members = np.flatnonzero(known_V & (part_V == part))
        first, second = np.triu_indices(len(members), 1)
        pairs.append(np.stack([members[first], members[second]], axis=1))
    return np.concatenate(pairs)


def write_questions(folder: Path, when: str) -> None:
    """Write the run's ``decisions.csv``: for each visit the question of its proposed animal, and
    for a new one its name, to be answered in the column ``verdict``."""
    proposals = read_proposals(folder)
    grouped = proposals.new[proposals.new["grouped"].astype(bool)]
    new, who = _new_visits(folder, proposals), user_name()
    later = set(grouped["second"])
    ranked = proposals.candidates.sort_values("probability", ascending=False, kind="stable")
    top = ranked.drop_duplicates("first").set_index("first")
    rows = []

    def ask(first: str, second: str, name: str = "", probability: float | None = None) -> None:
        if second:
            first, second = sorted((first, second))
        purpose: Purpose = "queue" if second else ""
        row = Decision(first, second, "", name, who, when, 0.0, probability, purpose, None)
        rows.append(row)

    given = proposals.photos[proposals.photos["side"] == "query"]
    for visit in dict.fromkeys(given["node"]):
        if visit in top.index:
            node = str(top.loc[visit, "second"])
            told = round(float(top.loc[visit, "probability"]), 6) if proposals.measured else None
            ask(visit, node, proposals.names[node], told)
        if visit in new and visit not in later:
            ask(visit, "")
    for first, second, probability in grouped[["first", "second", "probability"]].to_numpy():
        ask(first, second, probability=round(float(probability), 6))
    append_decisions(folder / DECISIONS, rows)


def _new_visits(folder: Path, proposals: Proposals) -> set[str]:
    """The visits of which a photograph was called new."""
    file = folder / NEW_FILE
    if not file.exists():
        return set()
    ids = set(read_run_table(file, NEW_ANIMALS)["query_id"].to_pylist())
    photos = proposals.photos
    return set(photos.loc[photos["image_id"].isin(ids), "node"])
