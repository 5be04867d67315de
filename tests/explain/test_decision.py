"""The card's words say what its values are, and warn where they should."""

import pytest

from exreid.explain.decision import DecisionCard, Reach, card_sentences, card_warnings
from exreid.explain.words import stated_percent

KNOWN_FROM = (
    "An animal counts as known from 80.0% on: then at most 5% of new animals pass for known."
)


def test_a_known_animal_in_plain_words():
    card = DecisionCard(
        "Luna",
        said="Looks like Luna (93%)",
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
        "Looks like Luna (93%).",
        KNOWN_FROM,
        "It leads the next animal, Mira, by 0.2 (a score of 0.71 against 0.51).",
        "The gallery has 12 photographs of Luna; 9 were compared by keypoints.",
    ]
    assert card_warnings(card) == []


def test_a_new_animal_and_a_close_call():
    card = DecisionCard(
        "Luna",
        "No known animal; nearest Luna (46%)",
        decision="new",
        probability=0.46,
        threshold=0.5,
        margin=0.0,
        runner_up="Mira",
    )
    sentences = card_sentences(card)
    assert sentences[:2] == [
        "No known animal; nearest Luna (46%).",
        "An animal counts as known from 50.0% on.",
    ]
    assert "Its score is no better than that of the next animal, Mira." in sentences
    assert card_warnings(card) == [
        "A close call: the probability is within 5 points of the threshold.",
        "Mira has the same score; only the order of the table decided.",
    ]


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ((2, 3), "New animal 2: this and 2 other photographs may show the same animal."),
        ((5, 2), "New animal 5: this and 1 other photograph may show the same animal."),
        ((1, 1), "New animal 1: no other photograph here resembles it enough."),
        (None, None),
    ],
)
def test_a_new_animals_group_is_named(group, said):
    sentences = card_sentences(DecisionCard("Luna", decision="new", group=group))
    assert (said in sentences) == (group is not None)
    assert any("New animal" in sentence for sentence in sentences) == (group is not None)


def test_without_a_decision_and_with_a_pairs_probability():
    said = "Nearest: Luna (60%)"
    card = DecisionCard("Luna", said, probability=0.6, probability_of="pair", threshold=0.5)
    assert card_sentences(card) == [
        "Nearest: Luna (60%).",
        "Of pairs that look as much alike as this one, 60% show the same animal.",
    ]


def test_no_candidate_at_all():
    assert card_sentences(DecisionCard(None)) == [
        "No candidate: the gallery has nothing that may answer this photograph."
    ]
    assert card_warnings(DecisionCard(None, "", "new", 0.5, threshold=0.5)) == []


def test_what_makes_evidence_weak_is_said():
    card = DecisionCard("Luna", reach=Reach(1, 0))
    warnings = card_warnings(card, same_encounter=True, viewpoints=("left", "right"))
    assert len(warnings) == 4
    for part in ("few photographs", "shortlist", "same encounter", "shows left"):
        assert part in " ".join(warnings)
    assert "The gallery has 1 photograph of Luna; 0 were compared by keypoints." in card_sentences(
        card
    )
    assert card_warnings(DecisionCard("Luna"), viewpoints=("left", None)) == []
    assert card_warnings(DecisionCard("Luna"), viewpoints=("left", "left")) == []


@pytest.mark.parametrize(
    ("threshold", "words"),
    [(2.0, "no animal counts as known"), (-1.0, "every animal counts as known")],
)
def test_a_threshold_beyond_all_probabilities_is_put_in_words(threshold, words):
    card = DecisionCard("Luna", "", "new", 0.3, threshold=threshold)
    assert words in card_sentences(card)[1]


def test_a_stated_percentage_never_promises_certainty():
    values = [0.0, 0.009, 0.01, 0.504, 0.99, 0.991, 1.0]
    expected = ["under 1%", "under 1%", "1%", "50%", "99%", "over 99%", "over 99%"]
    assert [stated_percent(value) for value in values] == expected
