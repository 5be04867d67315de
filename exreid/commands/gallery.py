"""`exreid gallery`: build one, add to it, show it, take photographs out, change animals' names."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING

from exreid.commands.common import (
    Command,
    config_arguments,
    data_overrides,
    features_kept,
    named_path,
    path,
)
from exreid.commands.gallery_info import show, show_applied, show_built, show_log
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import with_overrides
from exreid.config.probe import ProbeConfig, gallery_config
from exreid.errors import ConfigError
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from exreid.gallery.folder import StoredGallery

USAGE = """
  exreid gallery build FOLDER --out DIR [--config FILE] [key=value ...]
      a gallery of the data set's photographs, or of those of one split
  exreid gallery add DIR FOLDER [key=value ...]
      the photographs of a data set that are not in the gallery yet
  exreid gallery info DIR
      what is in it, and how well it tells its animals apart
  exreid gallery apply DIR RUN/decisions.csv
      the photographs whose animals exreid review has confirmed, with their names
  exreid gallery rename DIR OLD NEW
      another name for an animal
  exreid gallery merge DIR KEPT OTHER
      both are one animal: the photographs of OTHER get the name KEPT
  exreid gallery split DIR OLD NEW PHOTO|ENCOUNTER ...
      these photographs of OLD show another animal, NEW
  exreid gallery remove DIR PHOTO|ANIMAL ...
      take out these photographs, or all of an animal; undo puts them back
  exreid gallery undo DIR
      take back the last apply, rename, merge, split or remove; again: the one before
  exreid gallery log DIR
      who changed what, and when
"""
ACTIONS = ("build", "add", "info", "apply", "rename", "merge", "split", "remove", "undo", "log")
OWN_KEY = re.compile(r"(ray|output)\.\w+=")
"""Words after an edit that are config keys, and no names."""


def _gallery_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}\n{USAGE}"
    parser.add_argument("action", choices=ACTIONS)
    config_arguments(parser)
    parser.set_defaults(load=gallery_config)
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
    from exreid.gallery.opening import open_gallery

    gallery = open_gallery(named_path(options.overrides[0]))
    if options.action == "add":
        return _add(gallery, options)
    if options.action == "apply":
        return _apply(gallery, options)
    if options.action == "log":
        return show_log(gallery)
    if options.action != "info":
        return _edit(gallery, options)
    if options.json:
        OUT.print(json.dumps(gallery.manifest, indent=1), markup=False, soft_wrap=True)
    else:
        show(gallery)
    return 0


def _build(options: argparse.Namespace) -> int:
    if options.out is None:
        raise ConfigError("exreid gallery build --out DIR: name the folder to write.")
    if options.thumbnail_px != 0 and options.thumbnail_px < 32:
        raise ConfigError("--thumbnail-px: 0, or 32 pixels at least.")
    config = gallery_config(options.config, data_overrides(options.overrides), options.preset)
    from exreid.runs.gallery_build import build_gallery

    with features_kept(config), progress_shown() as progress:
        built = build_gallery(
            config,
            options.out,
            split=options.split,
            thumbnail_px=options.thumbnail_px,
            progress=progress,
            verbose=options.verbose,
        )
    show_built(built)
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
    show_built(built)
    return 0


def _edit(gallery: StoredGallery, options: argparse.Namespace) -> int:
    """Rename, merge, split, remove or undo."""
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
        case "remove", [_, *_]:
            names = edits.remove(table, words)
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
    show(built.gallery)
    return 0


def _apply(gallery: StoredGallery, options: argparse.Namespace) -> int:
    from exreid.runs.gallery_apply import apply_decisions
    from exreid.runs.gallery_change import ADD_KEYS

    _refuse_config(options)
    moved = [word for word in options.overrides[1:] if word.startswith("dataset.root=")]
    keys = [word for word in options.overrides[1:] if OWN_KEY.match(word)]
    words = [word for word in options.overrides[1:] if word not in moved and word not in keys]
    if len(words) != 1:
        raise ConfigError("exreid gallery apply DIR RUN/decisions.csv: name one file of decisions.")
    config = with_overrides(gallery.config, keys, ADD_KEYS)
    with features_kept(config), progress_shown() as progress:
        applied = apply_decisions(
            gallery,
            config,
            named_path(words[0]),
            root=with_overrides(config, moved, ADD_KEYS).dataset.root if moved else None,
            download=options.download,
            progress=progress,
            verbose=options.verbose,
        )
    show_applied(gallery, applied)
    return 0


def _refuse_config(options: argparse.Namespace) -> None:
    if options.config is not None or options.preset is not None:
        raise ConfigError(
            f"exreid gallery {options.action}: takes the gallery's own config; give key=value."
        )


def _of_new_data(config: ProbeConfig, overrides: list[str]) -> list[str]:
    """The overrides with the default table, if the new folder has no table of the gallery's
    name."""
    keys = dict(word.split("=", 1) for word in overrides)
    root, name = keys.get("dataset.root"), config.dataset.metadata_file
    if root is None or name is None or "dataset.metadata_file" in keys:
        return overrides
    here = not is_remote(root) and not (named_path(root) / name).exists()
    return [*overrides, "dataset.metadata_file=null"] if here else overrides


GALLERY = Command(
    "Make a gallery of known animals, add to it, correct it, show it.",
    _gallery_arguments,
    _gallery,
)
