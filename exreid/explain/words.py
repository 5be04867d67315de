"""Plain words for the content of a run's files, in pages and in pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence

METRIC_WORDS = {
    "top_1": (
        "First answer right",
        (
            "Share of photographs whose best match shows the same animal. A photograph of an "
            "animal that the gallery does not have counts as a miss."
        ),
    ),
    "mAP": (
        "Ordering of all matches (mAP)",
        (
            "1: every photograph of the animal comes before all others. A photograph "
            "without any other of its animal counts as 0."
        ),
    ),
    "mAP_with_positive": (
        "Ordering, where there is a match",
        "As mAP, over the photographs alone whose animal is in the gallery.",
    ),
    "mINP": (
        "How soon the last match is found (mINP)",
        "1 would mean that even the hardest photograph of the animal is found at once.",
    ),
    "shortlist_recall": (
        "Matches on the shortlist",
        "Share of an animal's photographs that the quick first search passes to the close look.",
    ),
    "shortlist_hit": (
        "Ceiling of the close look",
        (
            "Share of photographs with a right candidate on the shortlist: the close look "
            "cannot do better."
        ),
    ),
    "new_auroc": (
        "Telling known from new",
        "Chance that a known animal gets a higher probability than a new one. 50% is guessing.",
    ),
    "right_auroc": (
        "Telling right answers from new animals",
        "The same, over the known animals alone whose first answer is right.",
    ),
    "BAKS": (
        "Known animals recognised",
        (
            "Over known animals, the mean share of their photographs that were counted as known "
            "and named rightly (BAKS)."
        ),
    ),
    "BAUS": (
        "New animals noticed",
        "Over new animals, the mean share of their photographs that were counted as new (BAUS).",
    ),
    "open_set_score": ("Known and new together", "The geometric mean of the two above."),
    "false_match_rate": (
        "New animals taken for known ones",
        "Share of photographs of new animals that were counted as known. Lower is better.",
    ),
    "ari": (
        "Groups like the animals (ARI)",
        (
            "The adjusted Rand index over photographs: 100% where groups and animals are the same, "
            "0 as by chance."
        ),
    ),
    "ari_visits": (
        "The same, with each visit alone",
        "What the visits say without any matching: the groups should be better.",
    ),
    "ami": (
        "Groups tell of the animals (AMI)",
        "The adjusted mutual information: 100% where both are the same, 0 as by chance.",
    ),
    "pair_precision": (
        "Photographs that are rightly together",
        "Of all pairs of photographs in one group, the share that shows one animal.",
    ),
    "pair_recall": (
        "Photographs of one animal that are together",
        "Of all pairs of photographs of one animal, the share that is in one group.",
    ),
    "bcubed_precision": (
        "Purity of a photograph's group (BCubed)",
        "The mean over photographs of the share of their group that shows their animal.",
    ),
    "bcubed_recall": (
        "Share of an animal in a photograph's group (BCubed)",
        "The mean over photographs of the share of their animal that is in their group.",
    ),
    "count_error": (
        "More groups than animals",
        "How many more groups there are than animals, as a share of these; below 0, fewer.",
    ),
}
PATTERNS = (
    (
        r"top_(\d+)",
        "Right within the first {0}",
        "Share of photographs with the right animal among the best {0} matches.",
    ),
    (
        r"encounter_top_(\d+)",
        "Encounters: right within the first {0}",
        (
            "All photographs of one encounter answered together: share with the right animal among "
            "the best {0}."
        ),
    ),
    (
        r"balanced_top_(\d+)",
        "Right within the first {0}, per animal",
        "The same, with every animal counting once, however many photographs it has.",
    ),
    (
        r"identity_top_(\d+)",
        "Right animal within the first {0}",
        "Share of photographs whose animal is among the best {0} animals.",
    ),
    (
        r"tpr_at_fpr_(\d+)",
        "Known animals accepted at {0}% false matches",
        "With a threshold that lets {0}% of new animals pass for known: known animals accepted.",
    ),
    (
        r"dir_at_fpr_(\d+)",
        "Known animals named at {0}% false matches",
        (
            "With a threshold that lets {0}% of new animals pass: share of known animals accepted "
            "and named rightly."
        ),
    ),
    (
        r"top_(\d+)_with_positive",
        "Right animal among the first {0}, where there is a match",
        "The same, of the photographs alone whose animal is in the gallery.",
    ),
    (
        r"mAP_at_(\w+)_with_positive",
        "Ordering of the shortlist, where there is a match",
        "mAP over the shortlist alone, of photographs whose animal is in the gallery.",
    ),
    (r"mAP_at_(\w+)", "Ordering of the shortlist", "mAP over the shortlist alone."),
)
COUNTS = {
    "queries": ("Queries", "The photographs whose animal is searched for; each is answered alone."),
    "gallery_images": ("Photographs in the gallery", "Of known animals; these are searched."),
    "query_identities": ("Animals of the queries", ""),
    "gallery_identities": ("Animals in the gallery", ""),
    "queries_without_positive": (
        "Photographs without a match",
        "The gallery has no photograph of their animal that may be used: new animals.",
    ),
    "queries_same_file": (
        "Photographs that are in the gallery as the same file",
        "Answering them proves nothing.",
    ),
    "queries_same_picture": (
        "Photographs that the gallery has almost the same",
        "Such as frames of one burst, or copies that were saved again.",
    ),
    "queries_of_cut_encounters": (
        "Photographs whose encounter is in the gallery too",
        "Light, place and pose are the same there, so a match is no independent evidence.",
    ),
    "copies_under_two_animals": (
        "Photographs that are under two animals",
        "One of the two names must be wrong.",
    ),
    "blank_images": ("Blank photographs", "One colour all over."),
    "images_left_out": ("Photographs left out", "They could not be read; listed under Trust."),
    "gate_true_pairs": (
        "Pairs of one animal on two encounters of the gallery",
        "What benchmark.gate costs is measured on them.",
    ),
    "gate_lost": (
        "Share of these pairs that the gate takes for implausible",
        "Its cost: these candidates rank below all others, though they are right.",
    ),
    "gate_spared": (
        "Share of the pairs of two animals that it takes for implausible",
        "Its gain.",
    ),
    "pairs_searched": ("Pairs compared by the index", "By their nearest descriptors."),
    "index_recall": (
        "Share of the nearest photographs that the index found",
        "It looks at some of a large gallery's keypoints only.",
    ),
    "index_recall_of": ("of these, as a sample", ""),
    "pairs_matched": ("Pairs looked at closely", "By their keypoints."),
    "calibration_pairs": ("Pairs behind the probabilities", "All from the gallery."),
    "calibration_positives": ("of these, of one animal", ""),
}
OUTCOMES = {
    "right": "right animal first",
    "wrong": "another animal first",
    "new": "animal not in the gallery",
    "open": "animal not known",
}
"""What the top identity of a query is: ``right``, the query's own; ``wrong``, another one; ``new``
where the gallery does not have the query's; ``open`` where the query's is not known."""
DECISIONS = {"known": "look like known animals", "new": "look new", "unsure": "unsure"}
MARKS = {"right": "✓", "wrong": "✕", "new": "✦", "open": "?", "known": "=", "unsure": "?"}
"""Of outcomes and decisions."""
METHODS = {
    "cosine": "overall likeness",
    "classifier": "overall likeness, learned for each known animal",
    "local_index": "keypoints that few animals share",
    "index": "keypoints that few animals share",
    "local_lightglue": "matched keypoints",
    "wildfusion": "overall likeness and matched keypoints together",
    "identify": "identification of new photographs",
    "fused": "all together",
}


def metric_words(name: str) -> tuple[str, str]:
    """Label and meaning of a metric; its own name where there are none."""
    if name in METRIC_WORDS:
        return METRIC_WORDS[name]
    for pattern, label, meaning in PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            words = label.format(*match.groups()), meaning.format(*match.groups())
            return (_of_one(words[0]), _of_one(words[1])) if match[1] == "1" else words
    return name.replace("_", " "), ""


def _of_one(text: str) -> str:
    """A text about k things, made to fit one."""
    text = text.replace("within the first 1", "first").replace(
        "is among the best 1 animals", "leads"
    )
    return text.replace("among the best 1", "first").replace(" matches.", ".")


def count_words(name: str) -> tuple[str, str]:
    """Label and meaning of a count."""
    return COUNTS.get(name, (name.replace("_", " ").capitalize(), ""))


def method_words(method: str) -> str:
    """A method, or one of those that are fused, in words: of these all but cosines are extractors
    of keypoints.

    >>> method_words("cosine:efficientnet-lite0"), method_words("sift")
    ('overall likeness', 'matched keypoints')
    """
    return METHODS.get(method.split(":", 1)[0], "matched keypoints")


def fused_words(methods: Sequence[str]) -> list[str]:
    """The words of methods that are fused, with the name where two have the same words.

    >>> fused_words(["cosine:efficientnet-lite0", "sift", "disk"])
    ['overall likeness', 'matched keypoints (sift)', 'matched keypoints (disk)']
    """
    words = [method_words(method) for method in methods]
    return [
        f"{word} ({method.removeprefix('cosine:')})" if words.count(word) > 1 else word
        for method, word in zip(methods, words, strict=True)
    ]


def verdict_sentence(verdict: str, first_rank: int) -> str:
    """A picture's sentence on a query's answer; ``first_rank``: of the query's identity, 0 where
    the gallery lacks it. Verdicts are outcomes, and ``no candidate``."""
    if verdict == "wrong":
        if first_rank == 0:
            return "Wrong: a new animal was taken for a known one."
        return (
            "Wrong: the first candidate is another animal; the right one comes at rank "
            f"{first_rank}."
        )
    return {
        "right": "Right: the first candidate is the same animal.",
        "new": "A new animal: the gallery has no photograph of it.",
        "no candidate": "No candidate.",
    }[verdict]


def percent(fraction: float) -> str:
    """A measured share, with one decimal.

    >>> percent(0.1234)
    '12.3%'
    """
    return f"{100 * fraction:.1f}%"


def stated_percent(probability: float) -> str:
    """A probability as people read it: never a certainty that rounding made.

    >>> stated_percent(0.934), stated_percent(0.9999), stated_percent(1e-5), stated_percent(0.0)
    ('93%', 'over 99%', 'under 1%', 'under 1%')
    """
    if probability > 0.99:
        return "over 99%"
    if probability < 0.01:
        return "under 1%"
    return f"{100 * probability:.0f}%"


def threshold_percent(probability: float | None) -> str:
    """A threshold, fine enough to tell it from the probabilities near it."""
    return "" if probability is None else f"{100 * probability:.1f}%"
