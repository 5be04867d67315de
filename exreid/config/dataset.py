"""The config of a data set: which images, whose they are, and how they are read."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from exreid.config.base import CellText, ColourByte, PathText, StrictModel

MISSING_VALUES = (
    *("NA", "N/A", "#N/A", "<NA>", "n.a.", "NaN", "NaT", "None", "null", "nil"),
    *("-", "--", "?", "??", "."),
    *("unknown", "unk", "unidentified", "not identified", "undetermined", "not available"),
    *("missing", "no id", "not known", "unassigned"),
)


class DatasetConfig(StrictModel):
    """Which images, of which animals, and how they are read."""

    preset: str | None = None
    """A public data set (exreid datasets lists them): its columns and its split, unless other keys
    say otherwise."""
    root: PathText = "."
    """Folder of the data set; a path in the metadata is relative to it. Local, or an fsspec URL."""
    metadata_file: PathText | None = None
    """CSV (comma, semicolon or tab; UTF-8 or UTF-16), Parquet or XLSX table with one row per image,
    or another program's file (COCO, Camtrap DP, ...), relative to root. None: CzechLynx's own file
    name, then metadata.csv, metadata.parquet and datapackage.json."""
    path_col: str = "path"
    """Column with the image's path, relative to root."""
    label_col: str = "unique_name"
    """Column with the identity of the animal."""
    split_col: str = "split-time_closed"
    """Column that says which split a row belongs to."""
    make_split: Literal["closed_set", "identity_disjoint", "time_aware"] | None = None
    """For tables without a split: make one (train/test) instead of reading split_col. It never
    cuts an encounter; the seed decides. The run writes it to split.csv."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """With make_split: the share of images that go to test."""
    train_split_value: CellText = "train"
    """Value of split_col for training images."""
    val_split_value: CellText = "test"
    """Value of split_col for validation images."""
    query_split_value: CellText = "test"
    """Value of split_col for queries. The same as database_split_value: leave-one-out."""
    database_split_value: CellText = "train"
    """Value of split_col for the database, the gallery of known animals."""
    mask_col: str | None = "mask"
    """Column with the animal's mask: COCO RLE or polygons. May be absent while no mask is used."""
    bbox_cols: tuple[str, ...] = ("bbox",)
    """One column with the animal's box ([x, y, w, h] as a list, JSON, or text with commas or
    spaces), or four; on the photograph as it is displayed. bbox may be absent; [] reads no boxes.
    Where a column theta (radians) is, boxes are turned about their centre, clockwise."""
    bbox_format: Literal["xywh_px", "xyxy_px", "xywh_norm"] | None = None
    """xywh_px: left, top, width, height in pixels. xyxy_px: left, top, right, bottom. xywh_norm: as
    fractions of the photograph. None: xywh_px, and xywh_norm where no number is over 1."""
    encounter_cols: tuple[str, ...] = ()
    """Columns that together name an encounter, such as one burst, e.g. [source, encounter]."""
    viewpoint_col: str | None = None
    """Column with the side or pose of the animal."""
    date_col: str | None = "date"
    """Column with the date, with or without a time: 14.03.2016, 14/03/2016 (day first),
    2016-03-14, 2016:03:14 22:00:00, 14-Mar-2016, ... May be absent. A date that cannot be read is
    an error where dates are used (make_split=time_aware), and no date elsewhere."""
    missing_values: tuple[CellText, ...] = MISSING_VALUES
    """Words, in any case, that mean an empty cell in the columns that keys name. Give another list
    if an animal has such a name; []: no such words."""
    unknown_identities: tuple[CellText, ...] = ()
    """More words that mean an unknown animal, in label_col only."""
    image_size: PositiveInt | None = None
    """Side in pixels of the square image that the backbone sees. None: the backbone's own."""
    resize: Literal["auto", "crop", "stretch", "pad"] = "auto"
    """How a photograph becomes square: centre crop, stretched, or padded. auto: as the backbone
    was published."""
    no_background: bool = False
    """Fill everything outside the mask."""
    crop: Literal["auto", "none", "box", "mask"] = "auto"
    """The part of a photograph that is used. auto: the row's box, or all without one. none: all.
    box: the row's box, mask: the box around its mask; of a row without it, the other one."""
    crop_to_mask: bool = False
    """The same as crop=mask."""
    no_mask: Literal["raise", "skip", "whole"] = "raise"
    """With crop=box, crop=mask or no_background, a row without box and mask: as a bad mask (see
    on_error), left out and listed in rejected.csv, or the whole photograph."""
    crop_margin: NonNegativeFloat = 0.1
    """Of a crop: margin on each side, as a fraction of the box's longer side."""
    fill_rgb: tuple[ColourByte, ColourByte, ColourByte] | None = None
    """Colour of what is filled or padded. None: the mean colour of the backbone's training."""
    reduced_decode: bool = True
    """Decode large JPEGs at 1/2, 1/4 or 1/8 if the target size allows it. Faster, but changes one
    answer in fifty: publish with false."""
    on_error: Literal["raise", "skip"] = "raise"
    """A bad row, image or mask: stop with an error, or leave it out and list it in rejected.csv."""

    @model_validator(mode="after")
    def _regions_need_a_column(self) -> Self:
        if self.mask_col is None and not self.bbox_cols and self.needs_region:
            raise ValueError("no_background and crop need dataset.mask_col or dataset.bbox_cols")
        if self.crop_to_mask and self.crop not in ("auto", "mask"):
            raise ValueError(f"crop_to_mask=true contradicts crop={self.crop}: leave it out")
        if len(self.bbox_cols) not in (0, 1, 4):
            raise ValueError("bbox_cols is one column with four numbers, or four columns")
        return self

    @property
    def cropped(self) -> Literal["auto", "none", "box", "mask"]:
        """``crop``, with what ``crop_to_mask`` says."""
        return "mask" if self.crop_to_mask else self.crop

    @property
    def needs_region(self) -> bool:
        """Whether every image needs a box or a mask."""
        return self.no_background or self.cropped in ("box", "mask")
