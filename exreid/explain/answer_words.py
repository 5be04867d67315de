"""Answers and verdicts on galleries in words: the same words and numbers in the terminal, in CSV
and JSON, in pictures and in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exreid.config.probe import ProbeConfig
from exreid.explain.words import stated_percent
from exreid.progress import counted
from exreid.records import Counts, GalleryQuality

AnswerKind = Literal["known", "new", "unsure", "not decided", "no candidate"]
COUNTED = ("photographs", "visits", "groups")
EVEN = 0.5
"""A probability over it says that the animal is more probably the named one than not."""
UNSURE = (
    "Perhaps: the probability and the promised rate of false matches point to different sides. "
    "Look at the photographs."
)
VERDICTS = {
    "good": "good. This gallery tells its animals apart.",
    "usable": "usable with a person's eye. Check each answer by its photographs.",
    "poor": "poor. This gallery cannot tell these animals apart.",
    "unknown": "not measured. No animal has photographs of two encounters to practise on.",
}


@dataclass(frozen=True)
class ToldAnswer:
    """One answer in words."""

    kind: AnswerKind
    """``unsure``: the threshold and the probability point to different sides."""
    sentence: str
    """With the answer's probability, the only number."""


def told_answer(
    animal: str | None,
    probability: float | None,
    decision: str | None,
) -> ToldAnswer:
    """The answer from the leading animal, the probability that it is right (None without one) and
    the decision ``known`` or ``new`` (None without one).

    >>> told_answer("Zita", 0.84, "known").sentence, told_answer("Zita", 0.06, "new").sentence
    ('Looks like Zita (84%)', 'No known animal; nearest Zita (6%)')
    >>> told_answer("Zita", 0.93, "new")
    ToldAnswer(kind='unsure', sentence='Perhaps Zita (93%)')
    """
    if animal is None:
        kind: AnswerKind = "new" if decision == "new" else "no candidate"
        return ToldAnswer(kind, "No known animal" if decision == "new" else "No candidate")
    named = animal if probability is None else f"{animal} ({stated_percent(probability)})"
    if decision is None:
        return ToldAnswer("not decided", f"Nearest: {named}")
    if probability is not None and (decision == "known") != (probability > EVEN):
        return ToldAnswer("unsure", f"Perhaps {named}")
    if decision == "known":
        return ToldAnswer("known", f"Looks like {named}")
    return ToldAnswer("new", f"No known animal; nearest {named}")


def found_words(known: int, new: int, unsure: int, *, new_animals: int = 0) -> str:
    """The numbers of photographs by decision, in words.

    >>> found_words(1, 17, 0, new_animals=15), found_words(0, 3, 0)
    ('1 looks like a known animal, 17 look new (15 new animals)', 'none matched a known animal')
    """
    if new and not known and not unsure:
        text = "none matched a known animal"
        return f"{text} ({counted(new_animals, 'new animal')})" if new_animals else text
    parts = []
    if known:
        alike = "1 looks like a known animal"
        parts.append(alike if known == 1 else f"{known:,} look like known animals")
    if new:
        parts.append("1 looks new" if new == 1 else f"{new:,} look new")
        if new_animals:
            parts[-1] += f" ({counted(new_animals, 'new animal')})"
    if unsure:
        parts.append("1 is unsure" if unsure == 1 else f"{unsure:,} are unsure")
    return ", ".join(parts)


def quality_words(quality: GalleryQuality, config: ProbeConfig) -> list[str]:
    """The verdict on a gallery, its numbers, and what to try where it is not good."""
    sentences = [f"Verdict: {VERDICTS[quality.level]}"]
    if quality.level != "unknown":
        sentences.append(_evidence(quality))
    if quality.no_rate:
        sentences.append(quality.no_rate)
    if not quality.encounters_known and quality.level != "unknown":
        sentences.append(
            "Encounters are unknown (dataset.encounter_cols), so photographs of one encounter "
            "answer each other: these numbers are too good, and no verdict is over usable."
        )
    if quality.level in ("poor", "unknown"):
        sentences.append(
            "With such a gallery exreid identify shows the nearest animals, and decides nothing."
        )
    if quality.level in ("poor", "usable"):
        sentences.append(f"To try: {'; '.join(_to_try(config))}.")
    return sentences


def _evidence(quality: GalleryQuality) -> str:
    apart = "" if not quality.encounters_known else ", never by the same encounter"
    parts = []
    if quality.top_1 is not None:
        parts.append(f"first answer right {_share(quality.top_1)}")
    if quality.recognised is not None:
        rate, passed = quality.false_match_rate, quality.passed
        if rate is not None:
            passing = f" while at most {_share(rate)} of new animals pass for known"
        else:
            passing = (
                "" if passed is None else f" while {_share(passed)} of new ones pass for known"
            )
        parts.append(f"known animals recognised {_share(quality.recognised)}{passing}")
    if quality.new_auroc is not None:
        parts.append(f"known told from new (AUROC) {quality.new_auroc:.2f}")
    return (
        f"Practice on photographs of {quality.known_animals} of its animals{apart}: "
        f"{'; '.join(parts)}."
    )


def _share(fraction: float) -> str:
    return f"{100 * fraction:.0f}%"


def _to_try(config: ProbeConfig) -> list[str]:
    tries = []
    if config.benchmark.method == "cosine":
        tries.append("local features (benchmark.method=wildfusion benchmark.candidate_k=50)")
    else:
        tries.append("a backbone trained on animals (model.type=megadescriptor-l-384)")
    tries.append("more photographs of each animal, of other encounters and of both sides")
    if not config.dataset.needs_region:
        tries.append("masks (dataset.mask_col, dataset.crop=mask)")
    return tries


def discovered_words(counts: Counts, whence: str) -> list[str]:
    """What a discovery found, the cut, and where the probabilities come from (``whence``).

    >>> told = {"photographs": 9, "visits": 5, "groups": 3, "groups_of_one_visit": 2, "cut": 0.5}
    >>> discovered_words(told, "")[0]
    '9 photographs of 5 visits make 3 groups, 2 of them of one visit alone.'
    """
    photographs, visits, groups = (_whole(counts, name) for name in COUNTED)
    made = counted(photographs, "photograph")
    if visits < photographs:
        made += f" of {counted(visits, 'visit')}"
    alone = _whole(counts, "groups_of_one_visit")
    some = f", {alone:,} of them of one visit alone" if alone else ""
    words = [f"{made} make{'s' if photographs == 1 else ''} {counted(groups, 'group')}{some}."]
    if "animals_low" in counts:
        low, high = (_whole(counts, name) for name in ("animals_low", "animals_high"))
        some = counted(high, "animal") if low == high else f"{low:,} to {counted(high, 'animal')}"
        words.append(
            f"They show {some} (95% interval), if these split into groups as the "
            "animals did that the probabilities were measured on."
        )
    else:
        words.append("How far that is from the number of animals was not measured; --gallery does.")
    words.append(
        f"Visits are in one group while the mean probability between them is at least "
        f"{100 * float(str(counts['cut'])):.3g}%."
    )
    return [*words, whence] if whence else words


def _whole(counts: Counts, name: str) -> int:
    number = counts[name]
    assert isinstance(number, int)
    return number
