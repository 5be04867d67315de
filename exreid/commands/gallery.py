"""`exreid gallery`: build one, add to it, show it, and change its animals' names."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from exreid.commands.common import (
    Command,
    config_arguments,
    config_of,
    data_overrides,
    features_kept,
    named_path,
    path,
)
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import with_overrides
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.explain.told import quality_words
from exreid.progress import counted
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from exreid.gallery.folder import StoredGallery
    from exreid.runs.gallery_build import Built

USAGE = """
  exreid gallery build FOLDER --out DIR [--config FILE] [key=value ...]
      a gallery of the data set's photographs, or of those of one split
  exreid gallery add DIR FOLDER [key=value ...]
      the photographs of a data set that are not in the gallery yet
  exreid gallery info DIR
      what is in it, and how well it tells its animals apart
  exreid gallery rename DIR OLD NEW
      another name for an animal
  exreid gallery merge DIR KEPT OTHER
      both are one animal: the photographs of OTHER get the name KEPT
  exreid gallery split DIR OLD NEW PHOTO|ENCOUNTER ...
      these photographs of OLD show another animal, NEW
  exreid gallery undo DIR
      take back the last rename, merge or split; again: the one before
  exreid gallery log DIR
      who changed which names, and when
"""
ACTIONS = ("build", "add", "info", "rename", "merge", "split", "undo", "log")
OWN_KEY = re.compile(r"(ray|output)\.\w+=")
"""Words after an edit that are config keys, and no names."""


def _gallery_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}\n{USAGE}"
    parser.add_argument("action", choices=ACTIONS)
    config_arguments(parser)
    parser.add_argument("--out", type=path, help="build: the gallery's folder")
    parser.add_argument("--split", help="only images with this dataset.split_col; default: all")
    parser.add_argument(
        "--thumbnail-px",
        type=int,
        default=512,
        help="build: longer side of the small pictures that the gallery brings; 0: none",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="let models that are not on this machine be downloaded",
    )
    parser.add_argument("--json", action="store_true", help="info: print JSON")


def _gallery(options: argparse.Namespace) -> int:
    if options.action == "build":
        return _build(options)
    if not options.overrides or "=" in options.overrides[0]:
        raise ConfigError(f"exreid gallery {options.action} DIR: name the gallery's folder.")
    from exreid.gallery.folder import open_gallery

    gallery = open_gallery(named_path(options.overrides[0]))
    if options.action == "add":
        return _add(gallery, options)
    if options.action == "log":
        return _show_log(gallery)
    if options.action != "info":
        return _edit(gallery, options)
    if options.json:
        OUT.print(json.dumps(gallery.manifest, indent=1), markup=False, soft_wrap=True)
    else:
        _show(gallery)
    return 0


def _build(options: argparse.Namespace) -> int:
    if options.out is None:
        raise ConfigError("exreid gallery build --out DIR: name the folder to write.")
    if options.thumbnail_px != 0 and options.thumbnail_px < 32:
        raise ConfigError("--thumbnail-px: 0, or 32 pixels at least.")
    config = config_of(options, ProbeConfig)
    from exreid.runs.gallery_build import build_gallery, decided

    with features_kept(config), progress_shown() as progress:
        built = build_gallery(
            decided(config),
            options.out,
            split=options.split,
            thumbnail_px=options.thumbnail_px,
            progress=progress,
            verbose=options.verbose,
        )
    _show_built(built)
    return 0


def _add(gallery: StoredGallery, options: argparse.Namespace) -> int:
    from exreid.runs.gallery_change import ADD_KEYS, add_to_gallery

    _refuse_config(options)
    overrides = _of_new_data(gallery.config, data_overrides(options.overrides[1:]))
    config = with_overrides(gallery.config, overrides, ADD_KEYS)
    with features_kept(config), progress_shown() as progress:
        built = add_to_gallery(
            gallery,
            config,
            split=options.split,
            download=options.download,
            progress=progress,
            verbose=options.verbose,
        )
    _show_built(built)
    return 0


def _edit(gallery: StoredGallery, options: argparse.Namespace) -> int:
    """Rename, merge, split or undo."""
    from exreid.gallery import edits
    from exreid.runs.gallery_change import ADD_KEYS, edit_gallery, edit_of

    _refuse_config(options)
    words = [word for word in options.overrides[1:] if not OWN_KEY.match(word)]
    keys = [word for word in options.overrides[1:] if OWN_KEY.match(word)]
    config = with_overrides(gallery.config, keys, ADD_KEYS)
    table, missing = gallery.table, config.dataset.missing_values
    match options.action, words:
        case "rename", [old, new]:
            names = edits.rename(table, old, new, missing)
        case "merge", [kept, other]:
            names = edits.merge(table, kept, other)
        case "split", [old, new, *places]:
            names = edits.split(table, old, new, places, missing)
        case "undo", []:
            names = edits.undo(gallery.edits)
        case _:
            raise ConfigError(f"exreid gallery {options.action}: how it is written:\n{USAGE}")
    with features_kept(config), progress_shown() as progress:
        built = edit_gallery(
            gallery,
            config,
            edit_of(gallery, options.action, names),
            download=options.download,
            progress=progress,
            verbose=options.verbose,
        )
    said = built.gallery.edits[-1].words()
    OUT.print(f"{said[0].upper()}{said[1:]}.", markup=False, soft_wrap=True)
    _show(built.gallery)
    return 0


def _refuse_config(options: argparse.Namespace) -> None:
    if options.config is not None or options.preset is not None:
        raise ConfigError(
            f"exreid gallery {options.action}: takes the gallery's own config; give key=value."
        )


def _show_log(gallery: StoredGallery) -> int:
    if not gallery.edits:
        OUT.print("No animal was renamed, merged or split.", markup=False)
    for edit in gallery.edits:
        when = edit.when[:16].replace("T", " ")
        OUT.print(f"{when} UTC  {edit.who}  {edit.words()}", markup=False, soft_wrap=True)
    return 0


def _of_new_data(config: ProbeConfig, overrides: list[str]) -> list[str]:
    """The overrides with the default table, if the new folder has no table of the gallery's
    name."""
    keys = dict(word.split("=", 1) for word in overrides)
    root, name = keys.get("dataset.root"), config.dataset.metadata_file
    if root is None or name is None or "dataset.metadata_file" in keys:
        return overrides
    here = not is_remote(root) and not (named_path(root) / name).exists()
    return [*overrides, "dataset.metadata_file=null"] if here else overrides


def _show_built(built: Built) -> None:
    _show(built.gallery)
    done = (
        f"{counted(built.added, 'photograph')} added, {built.already:,} were in it already; "
        f"{counted(built.extracted, 'feature')} made and "
        f"{counted(built.pairs_matched, 'pair')} matched now; "
        f"{sum(built.timings_s.values()):.0f} s."
    )
    lines = [done]
    if built.rejected:
        lines.append(
            f"{len(built.rejected)} left out, with reasons in "
            f"{built.gallery.folder / 'rejected.csv'}."
        )
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)


def _show(gallery: StoredGallery) -> None:
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
    if gallery.edits:
        edited = counted(len(gallery.edits), "edit")
        lines.append(
            f"  {edited} of names (exreid gallery log); the last: {gallery.edits[-1].words()}"
        )
    last = about["history"][-1]
    lines.append(f"  written {last['written']} by exreid {last['exreid']}")
    for line in lines:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)


def _threshold_words(content: dict[str, Any]) -> str:
    """A sentence on the threshold in the gallery's ``open_set.json``."""
    rate = content["stated_false_match_rate"]
    known = f"An animal counts as known where its probability is over {100 * content['bar']:.1f}%"
    if content["rule"] == "balanced":
        return f"{known}, which tells known from new best (rule=balanced)."
    return f"{known}." if rate is None else f"{known}: at most {100 * rate:g}% of new animals pass."


GALLERY = Command(
    "Make a gallery of known animals, add to it, correct it, show it.",
    _gallery_arguments,
    _gallery,
)
