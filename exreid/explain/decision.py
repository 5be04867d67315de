"""The decision card: the decision for one query, its reasons, and its doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exreid.explain.words import stated_percent, threshold_percent
from exreid.progress import counted

CLOSE_CALL = 0.05
"""Probabilities this near to the threshold are called a close call."""
FEW_IMAGES = 2

ProbabilityOf = Literal["identity", "pair"]


@dataclass(frozen=True)
class Contribution:
    """One method's score of the best image of the top identity."""

    method: str
    raw: float | None = None
    """Its raw score: a cosine, a number of matches."""
    contribution: float | None = None
    """Its addend to the score, which is the sum over all methods."""


@dataclass(frozen=True)
class Reach:
    """The gallery's images of the top identity, and those that were compared."""

    gallery_images: int
    """Its images that may answer the query."""
    matched_locally: int | None = None
    """Of these, how many were compared by their keypoints; None where no method does that."""


@dataclass(frozen=True)
class DecisionCard:
    """The content of the card, as plain values; None is "not known"."""

    identity: str | None
    """The top identity: that of the best gallery image."""
    said: str = ""
    """The answer in words, with its probability: see `exreid.explain.answer_words`."""
    decision: Literal["known", "new"] | None = None
    """None: no decision was asked for."""
    probability: float | None = None
    probability_of: ProbabilityOf = "identity"
    """``identity``: that the query shows the top identity, from its score and its margin (open
    set). ``pair``: only that the best pair shows one animal (calibration)."""
    threshold: float | None = None
    """Probability over which an animal is called known."""
    false_match_rate: float | None = None
    """New animals that pass for known ones at it, as stated when it was chosen."""
    score: float | None = None
    margin: float | None = None
    """The score minus that of the next identity."""
    runner_up: str | None = None
    """The next identity."""
    contributions: tuple[Contribution, ...] = ()
    reach: Reach | None = None
    group: tuple[int, int] | None = None
    """The group of images called new that may show one animal: its number, and its images."""
    warnings: tuple[str, ...] = ()


def card_sentences(card: DecisionCard) -> list[str]:
    """The card in plain words, the answer first; warnings and contributions are told beside it.

    >>> card_sentences(DecisionCard("Luna", "Looks like Luna (93%)", "known", 0.93, threshold=0.8))
    ['Looks like Luna (93%).', 'An animal counts as known from 80.0% on.']
    """
    sentences = [_answer(card)]
    if card.group is not None:
        sentences.append(_group(*card.group))
    if card.identity is None:
        return sentences
    if card.probability is not None:
        sentences += filter(None, [_probability(card, card.probability)])
    if card.margin is not None:
        sentences.append(_margin(card, card.margin))
    if card.reach is not None:
        sentences.append(_reach(card.identity, card.reach))
    return sentences


def card_warnings(
    card: DecisionCard,
    *,
    same_encounter: bool = False,
    viewpoints: tuple[str | None, str | None] = (None, None),
) -> list[str]:
    """What to doubt about the card's values.

    ``same_encounter``: the best image is of the query's own visit. ``viewpoints``: the side that
    the query and that image show.
    """
    warnings = _weak_values(card) if card.identity is not None else []
    if same_encounter:
        warnings.append(
            "The best match is of the same encounter: that the two look alike is no independent "
            "evidence."
        )
    query_side, other_side = viewpoints
    if query_side and other_side and query_side != other_side:
        warnings.append(
            f"This photograph shows {query_side}, the best match {other_side}: their coats differ."
        )
    return warnings


def _weak_values(card: DecisionCard) -> list[str]:
    warnings = []
    probability, threshold = card.probability, card.threshold
    near = None if probability is None or threshold is None else abs(probability - threshold)
    if card.decision is not None and near is not None and near < CLOSE_CALL:
        warnings.append("A close call: the probability is within 5 points of the threshold.")
    if card.margin is not None and card.margin <= 0 and card.runner_up:
        warnings.append(
            f"{card.runner_up} has the same score; only the order of the table decided."
        )
    reach = card.reach
    if reach is not None and reach.gallery_images <= FEW_IMAGES:
        warnings.append("The gallery has few photographs of this animal.")
    if reach is not None and reach.matched_locally == 0 and reach.gallery_images:
        warnings.append(
            "None of its photographs was compared by its keypoints: they are not on the shortlist."
        )
    return warnings


def _answer(card: DecisionCard) -> str:
    if card.identity is None:
        return "No candidate: the gallery has nothing that may answer this photograph."
    return f"{card.said}."


def _group(number: int, images: int) -> str:
    if images == 1:
        return f"New animal {number}: no other photograph here resembles it enough."
    others = counted(images - 1, "other photograph")
    return f"New animal {number}: this and {others} may show the same animal."


def _probability(card: DecisionCard, probability: float) -> str | None:
    """What the probability of the answer means; None where nothing was decided by it."""
    if card.probability_of == "pair":
        share = stated_percent(probability)
        return f"Of pairs that look as much alike as this one, {share} show the same animal."
    if card.threshold is None or card.decision is None:
        return None
    if card.threshold >= 1:
        return "By the threshold of this gallery no animal counts as known."
    if card.threshold < 0:
        return "By the threshold of this gallery every animal counts as known."
    text = f"An animal counts as known from {threshold_percent(card.threshold)} on"
    if card.false_match_rate is not None:
        text += f": then at most {100 * card.false_match_rate:.3g}% of new animals pass for known"
    return f"{text}."


def _margin(card: DecisionCard, margin: float) -> str:
    after = f"the next animal, {card.runner_up}," if card.runner_up else "every other animal"
    if margin <= 0:
        return f"Its score is no better than that of {after.rstrip(',')}."
    if card.score is None:
        return f"It leads {after} by {margin:.2g}."
    scores = f"a score of {card.score:.3g} against {card.score - margin:.3g}"
    return f"It leads {after} by {margin:.2g} ({scores})."


def _reach(identity: str, reach: Reach) -> str:
    count = reach.gallery_images
    text = f"The gallery has {counted(count, 'photograph')} of {identity}"
    if reach.matched_locally is None:
        return f"{text}."
    were = "was" if reach.matched_locally == 1 else "were"
    return f"{text}; {reach.matched_locally} {were} compared by keypoints."
