"""The decision card: what was decided for one photograph, why, and what to doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NEAR_THE_BAR = 0.05
"""Probabilities this near to the bar are called a close call."""
FEW_IMAGES = 2

ProbabilityOf = Literal["leader", "pair"]


@dataclass(frozen=True)
class Contribution:
    """What one method says about the leader's best image."""

    method: str
    raw: float | None = None
    """Its own score: a cosine, a number of matches."""
    probability: float | None = None
    """That score, calibrated: the chance that such a pair shows one animal."""
    contribution: float | None = None
    """What it adds to the score; those of all methods add up to it."""


@dataclass(frozen=True)
class Reach:
    """How much of the leader in the gallery was looked at."""

    gallery_images: int
    """Images of this animal that the query could be answered with."""
    matched_locally: int | None = None
    """Of these, how many were compared by their keypoints; None where no method does that."""


@dataclass(frozen=True)
class DecisionCard:
    """Everything that the card says, as plain values; None is "not known"."""

    leader: str | None
    """The animal that the gallery's best image shows."""
    decision: Literal["known", "new"] | None = None
    """None: no decision was asked for."""
    probability: float | None = None
    probability_of: ProbabilityOf = "leader"
    """What it is the probability of: that the leader is the animal, from its score and its lead
    (open set); or only that the best pair shows one animal (calibration)."""
    bar: float | None = None
    """Probability over which an animal is called known."""
    false_match_rate: float | None = None
    """New animals that pass for known ones at this bar, as stated when it was chosen."""
    score: float | None = None
    margin: float | None = None
    """The leader's score minus that of the next *animal*."""
    runner_up: str | None = None
    contributions: tuple[Contribution, ...] = ()
    reach: Reach | None = None
    warnings: tuple[str, ...] = ()
    group: tuple[int, int] | None = None
    """Of photographs called new that may show one animal: its number, and how many there are."""


def decision_card(
    leader: str | None,
    *,
    same_encounter: bool = False,
    viewpoints: tuple[str | None, str | None] = (None, None),
    local_matches: int | None = None,
    extra_warnings: Sequence[str] = (),
    **values: object,
) -> DecisionCard:
    """The card with the warnings that its own values call for; ``values`` are fields of
    `DecisionCard`.

    ``same_encounter``: the leader's best image is of the query's own visit. ``viewpoints``: the
    side that the query and that image show. ``local_matches``: of the two, by their keypoints.
    """
    card = DecisionCard(leader, **values)  # type: ignore[arg-type]
    warnings = list(_warnings(card))
    if same_encounter:
        warnings.append(
            "The best image is of the same visit as the query: that they look alike is no "
            "independent evidence."
        )
    query_side, other_side = viewpoints
    if query_side and other_side and query_side != other_side:
        warnings.append(
            f"The query shows {query_side}, the best image {other_side}: their coats differ."
        )
    if local_matches == 0:
        warnings.append("Not one point of the two coats was matched.")
    values["warnings"] = (*warnings, *extra_warnings)
    return DecisionCard(leader, **values)  # type: ignore[arg-type]


def card_sentences(card: DecisionCard) -> list[str]:
    """The card in plain words, the decision first, warnings last.

    >>> card_sentences(DecisionCard("Luna", "known", 0.93, bar=0.8, false_match_rate=0.05))[:2]
    ['Known animal: Luna.', 'The probability that it is Luna is 93%; above 80% an animal counts as \
known, at which 5% of new animals would pass for known ones.']
    """
    sentences = [_decision(card)]
    if card.group is not None:
        sentences.append(_group(*card.group))
    if card.leader is None:
        return [*sentences, *card.warnings]
    if card.probability is not None:
        sentences.append(_probability(card))
    if card.margin is not None:
        sentences.append(_margin(card))
    sentences.extend(_contributions(card))
    if card.reach is not None:
        sentences.append(_reach(card.leader, card.reach))
    return [*sentences, *card.warnings]


def percent(fraction: float) -> str:
    """A probability as people read it: never a certainty that rounding made.

    >>> percent(0.934), percent(0.9999), percent(1e-5), percent(0.0)
    ('93%', 'over 99%', 'under 1%', 'under 1%')
    """
    if fraction > 0.99:
        return "over 99%"
    if fraction < 0.01:
        return "under 1%"
    return f"{100 * fraction:.0f}%"


def _decision(card: DecisionCard) -> str:
    if card.leader is None:
        return "No candidate: the gallery has nothing that this photograph may be answered with."
    if card.decision == "known":
        return f"Known animal: {card.leader}."
    if card.decision == "new":
        return f"Probably a new animal; of the known ones {card.leader} is the nearest."
    return f"Nearest animal: {card.leader}. Whether it is known at all was not asked."


def _group(number: int, photos: int) -> str:
    if photos == 1:
        return f"No other photograph that was called new resembles it enough (new {number})."
    others = "1 other photograph" if photos == 2 else f"{photos - 1} other photographs"
    return f"This and {others} that were called new may show one animal (new {number})."


def _probability(card: DecisionCard) -> str:
    assert card.probability is not None
    if card.probability_of == "leader":
        text = f"The probability that it is {card.leader} is {percent(card.probability)}"
    else:
        text = (
            f"Of pairs that look as much alike as this one, {percent(card.probability)} show one "
            "and the same animal"
        )
    if card.bar is not None and card.decision is not None:
        if card.bar >= 1:
            text += "; by the bar chosen on the gallery no animal counts as known"
        elif card.bar < 0:
            text += "; by the bar chosen on the gallery every animal counts as known"
        else:
            text += f"; above {percent(card.bar)} an animal counts as known"
        if card.false_match_rate is not None:
            rate = f"{100 * card.false_match_rate:.3g}%"
            text += f", at which {rate} of new animals would pass for known ones"
    return f"{text}."


def _margin(card: DecisionCard) -> str:
    assert card.margin is not None
    after = f"the next animal, {card.runner_up}," if card.runner_up else "every other animal"
    if card.margin <= 0:
        return f"Its score is no better than that of {after.rstrip(',')}."
    of = "" if card.score is None else f" (a score of {card.score:.3g} against "
    of += "" if card.score is None else f"{card.score - card.margin:.3g})"
    return f"It leads {after} by {card.margin:.2g}{of}."


def _contributions(card: DecisionCard) -> list[str]:
    parts = [c for c in card.contributions if c.contribution is not None]
    sentences = []
    if len(parts) > 1:
        total = sum(c.contribution for c in parts if c.contribution is not None)
        each = " and ".join(f"{c.contribution:.3g} from {c.method}" for c in parts)
        sentences.append(f"The score of {total:.3g} is the sum of {each}.")
    for one in card.contributions:
        if one.raw is not None and one.probability is not None:
            sentences.append(
                f"By {one.method}: {one.raw:.4g}; {percent(one.probability)} of pairs with such a "
                "score show one animal."
            )
        elif one.raw is not None:
            sentences.append(f"By {one.method}: {one.raw:.4g}.")
    return sentences


def _reach(leader: str, reach: Reach) -> str:
    images = "1 image" if reach.gallery_images == 1 else f"{reach.gallery_images} images"
    text = f"The gallery has {images} of {leader}"
    if reach.matched_locally is None:
        return f"{text}."
    were = "was" if reach.matched_locally == 1 else "were"
    return f"{text}, {reach.matched_locally} {were} matched locally."


def _warnings(card: DecisionCard) -> list[str]:
    found: list[str] = []
    if card.leader is None:
        return found
    near = None if card.bar is None or card.probability is None else card.probability - card.bar
    if card.decision is not None and near is not None and abs(near) < NEAR_THE_BAR:
        found.append("A close call: the probability is within 5 points of the bar.")
    if card.margin is not None and card.margin <= 0 and card.runner_up:
        found.append(f"{card.runner_up} has the same score; only the order of the table decided.")
    reach = card.reach
    if reach is not None and reach.gallery_images <= FEW_IMAGES:
        found.append("The gallery knows this animal by few images.")
    if reach is not None and reach.matched_locally == 0 and reach.gallery_images:
        found.append("None of its images was compared by keypoints: they are not on the shortlist.")
    return found
