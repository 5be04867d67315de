"""What `exreid gallery` prints of a gallery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exreid.commands.terminal import OUT
from exreid.explain.answer_words import quality_words
from exreid.progress import counted

if TYPE_CHECKING:
    from exreid.gallery.folder import StoredGallery
    from exreid.runs.gallery_apply import Applied
    from exreid.runs.gallery_build import Built

SHOWN_HISTORY = 8


def show_log(gallery: StoredGallery) -> int:
    """Print the edits; returns the exit code."""
    if not gallery.edits:
        said = "No animal was renamed, merged or split, no photograph removed, no review applied."
        OUT.print(said, markup=False)
    for edit in gallery.edits:
        when = edit.when[:16].replace("T", " ")
        OUT.print(f"{when} UTC  {edit.who}  {edit.words()}", markup=False, soft_wrap=True)
    return 0


def show_built(built: Built) -> None:
    """Print a gallery that was made or added to."""
    show(built.gallery)
    done = (
        f"{counted(built.added, 'photograph')} added, {built.already:,} were in it already; "
        f"{counted(built.extracted, 'feature')} made and "
        f"{counted(built.pairs_matched, 'pair')} matched now; "
        f"{sum(built.timings_s.values()):.0f} s."
    )
    lines = [done]
    if built.gate_figures:
        lost, spared = (float(str(built.gate_figures[f"gate_{of}"])) for of in ("lost", "spared"))
        lines.append(
            f"benchmark.gate rules out {100 * lost:.0f}% of the pairs of one animal, and "
            f"{100 * spared:.0f}% of those of two animals."
        )
    if built.rejected:
        lines.append(
            f"{len(built.rejected)} left out, with reasons in "
            f"{built.gallery.folder / 'rejected.csv'}."
        )
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)


def show(gallery: StoredGallery) -> None:
    """Print what is in a gallery, how well it tells its animals apart, and its history."""
    about, config = gallery.manifest, gallery.config
    models = ", ".join(
        model.type + (" with weights from a checkpoint" if model.checkpoint else "")
        for model in (config.model, *config.benchmark.fusion.models)
    )
    head = (
        f"{gallery.folder}: {counted(about['photographs'], 'photograph')} of "
        f"{counted(about['animals'], 'animal')}, {counted(about['encounters'], 'encounter')}"
    )
    lines = [
        head,
        f"  method {about['method']} ({models}), fingerprint {gallery.fingerprint}",
    ]
    fit = about["open_set"]
    if gallery.is_earlier:
        lines.append(
            "  probabilities and decisions are an earlier version's: exreid gallery add fits "
            "them again"
        )
    elif gallery.quality is not None:
        lines += [f"  {sentence}" for sentence in quality_words(gallery.quality, config)]
    elif fit is None:
        lines.append("  does not decide known/new (benchmark.open_set.enabled=false)")
    else:
        lines.append(
            "  Verdict: unknown. An earlier version of exreid built this gallery; the next exreid "
            "gallery add measures it."
        )
    if gallery.decides and not (gallery.quality and gallery.quality.no_rate):
        lines.append(f"  {_threshold_words(gallery.decision)}")
    px = about["thumbnails_px"]
    lines.append(f"  thumbnails of {px} px" if px else "  no thumbnails")
    lines += [f"  {line}" for line in _history(gallery)]
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)


def _threshold_words(content: dict[str, Any]) -> str:
    """A sentence on the threshold in the gallery's ``open_set.json``."""
    rate = content["stated_false_match_rate"]
    known = f"An animal counts as known where its probability is over {100 * content['bar']:.1f}%"
    if content["rule"] == "balanced":
        return f"{known}, which tells known from new best (rule=balanced)."
    return f"{known}." if rate is None else f"{known}: at most {100 * rate:g}% of new animals pass."


def _history(gallery: StoredGallery) -> list[str]:
    """How the gallery came to be, the earliest first: a line for each time that it was written."""
    edits = [(edit.when, edit.words()) for edit in gallery.edits]
    written: list[tuple[str, str]] = []
    count = 0
    history = gallery.manifest["history"]
    for number, change in enumerate(history):
        photographs, when = int(change["photographs"]), str(change["written"])  # type: ignore[arg-type]
        before = str(history[number - 1]["written"]) if number else ""
        by_edit = any(before[:19] <= made[:19] <= when[:19] for made, _ in edits)
        if number == 0:
            written.append((when, f"built of {counted(photographs, 'photograph')}"))
        elif not by_edit and photographs != count:
            written.append((when, f"{counted(photographs - count, 'photograph')} added"))
        elif not by_edit:
            written.append((when, "fitted again"))
        count = photographs
    lines = sorted([*written, *edits])
    shown = lines[-SHOWN_HISTORY:]
    more = len(lines) - len(shown)
    texts = [f"{when[:16].replace('T', ' ')} UTC  {text}" for when, text in shown]
    first = [f"{counted(more, 'earlier change')}: exreid gallery log"] if more else []
    return [*first, *texts, f"written by exreid {history[-1]['exreid']}"]


def show_applied(gallery: StoredGallery, applied: Applied) -> None:
    """Say what a review has put into the gallery."""
    parts = [f"{counted(applied.visits, 'confirmed visit')}."]
    if applied.left:
        out = counted(applied.left, "visit stays", "visits stay")
        parts.append(f"{out} out, as nobody has confirmed an animal there.")
    if applied.already:
        have = "of their photographs are in the gallery already."
        parts.append(f"{applied.already:,} {have}")
    if applied.built is None:
        parts.append("Nothing is new: the gallery is as it was.")
    else:
        said = applied.built.gallery.edits[-1].words()
        parts.append(f"{said[0].upper()}{said[1:]}.")
    OUT.print(" ".join(parts), markup=False, soft_wrap=True)
    if applied.built is not None:
        show(applied.built.gallery)
        again = f"To take it back: exreid gallery undo {gallery.folder}"
        OUT.print(again, markup=False, soft_wrap=True)
