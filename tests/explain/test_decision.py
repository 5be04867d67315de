"""The card's words say what its values are, and warn where they should."""

import pytest

from exreid.explain.decision import DecisionCard, Reach, card_sentences, card_warnings
from exreid.explain.words import stated_percent

PROBABILITY = (
    "The probability that it is Luna is 93%; above 80% an animal counts as known, at which 5% of "
    "new animals would pass for known ones."
)


def test_a_known_animal_in_plain_words():
    card = DecisionCard(
        "Luna",
        decision="known",
        probability=0.93,
        threshold=0.8,
        false_match_rate=0.05,
        score=0.71,
        margin=0.2,
        runner_up="Mira",
        reach=Reach(12, 9),
    )
    assert card_sentences(card) == [
        "Known animal: Luna.",
        PROBABILITY,
        "It leads the next animal, Mira, by 0.2 (a score of 0.71 against 0.51).",
        "The gallery has 12 images of Luna, 9 were matched locally.",
    ]
    assert card_warnings(card) == []


def test_a_new_animal_and_a_close_call():
    card = DecisionCard(
        "Luna", decision="new", probability=0.46, threshold=0.5, margin=0.0, runner_up="Mira"
    )
    sentences = card_sentences(card)
    assert sentences[0] == "Probably a new animal; of the known ones Luna is the nearest."
    assert sentences[1].startswith("The probability that it is Luna is 46%; above 50%")
    assert "Its score is no better than that of the next animal, Mira." in sentences
    assert card_warnings(card) == [
        "A close call: the probability is within 5 points of the bar.",
        "Mira has the same score; only the order of the table decided.",
    ]


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ((2, 3), "This and 2 other photographs that were called new may show one animal (new 2)."),
        ((5, 2), "This and 1 other photograph that were called new may show one animal (new 5)."),
        ((1, 1), "No other photograph that was called new resembles it enough (new 1)."),
        (None, None),
    ],
)
def test_a_new_animals_group_is_named(group, said):
    sentences = card_sentences(DecisionCard("Luna", "new", group=group))
    assert (said in sentences) == (group is not None)
    assert any("(new " in sentence for sentence in sentences) == (group is not None)


def test_without_a_decision_and_with_a_pairs_probability():
    card = DecisionCard("Luna", probability=0.6, probability_of="pair", threshold=0.5)
    assert card_sentences(card) == [
        "Nearest animal: Luna. Whether it is known at all was not asked.",
        "Of pairs that look as much alike as this one, 60% show one and the same animal.",
    ]


def test_no_candidate_at_all():
    assert card_sentences(DecisionCard(None)) == [
        "No candidate: the gallery has nothing that this photograph may be answered with."
    ]
    assert card_warnings(DecisionCard(None, "new", 0.5, threshold=0.5)) == []


def test_what_makes_evidence_weak_is_said():
    card = DecisionCard("Luna", reach=Reach(1, 0))
    warnings = card_warnings(card, same_encounter=True, viewpoints=("left", "right"))
    assert len(warnings) == 4
    for part in ("few images", "shortlist", "same visit", "shows left"):
        assert part in " ".join(warnings)
    assert "The gallery has 1 image of Luna, 0 were matched locally." in card_sentences(card)
    assert card_warnings(DecisionCard("Luna"), viewpoints=("left", None)) == []
    assert card_warnings(DecisionCard("Luna"), viewpoints=("left", "left")) == []


@pytest.mark.parametrize(
    ("threshold", "words"),
    [(2.0, "no animal counts as known"), (-1.0, "every animal counts as known")],
)
def test_a_threshold_beyond_all_probabilities_is_put_in_words(threshold, words):
    card = DecisionCard("Luna", "new", 0.3, threshold=threshold)
    assert words in card_sentences(card)[1]


def test_a_stated_percentage_never_promises_certainty():
    values = [0.0, 0.009, 0.01, 0.504, 0.99, 0.991, 1.0]
    expected = ["under 1%", "under 1%", "1%", "50%", "99%", "over 99%", "over 99%"]
    assert [stated_percent(value) for value in values] == expected
