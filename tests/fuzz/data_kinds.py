"""Tables, photographs and masks."""

import csv
import io
import json
import os
import re
import shutil
import struct

from tests.fuzz import mutation
from tests.fuzz.checks import extracted, identified, probe_adds_up
from tests.fuzz.outcome import call, raised


def tables(world, rng, folder):
    """The metadata table: cells, columns, rows, encodings, separators, formats."""
    rows = mutation.mutated_rows(world.rows(), rng)
    counted, name = len(rows) - 1, "metadata.csv"
    text = io.StringIO()
    csv.writer(text, delimiter=rng.choice((",", ",", ",", ";", "\t"))).writerows(rows)
    data = text.getvalue().encode(
        rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16", "cp1252", "latin-1")), "replace"
    )
    match rng.randrange(6):
        case 0:
            data, counted = mutation.mutated_bytes(data, rng), None
        case 1:
            data, counted, name = _parquet(rows, rng), None, "metadata.parquet"
        case 2 if rng.random() < 0.5:
            head = [str(cell) for cell in rows[0]]
            records = [dict(zip(head, row, strict=False)) for row in rows[1:]]
            data = json.dumps(
                rng.choice((records, {"images": records, "annotations": []}))
            ).encode()
            counted, name = None, rng.choice(("metadata.json", "metadata.csv"))
    if any(not any(cell.strip() for cell in row) for row in rows[1:]) or _odd_cells(rows):
        counted = None
    (folder / name).write_bytes(data)
    keys = [*world.keys(folder / "out"), f"dataset.metadata_file={folder / name}"]
    if rng.random() < 0.4:
        keys += rng.choice(
            (
                ["dataset.encounter_cols=[source,encounter]"],
                ["dataset.make_split=closed_set"],
                ["dataset.make_split=time_aware"],
                ["dataset.make_split=identity_disjoint"],
                ["dataset.crop_to_mask=true"],
                ["dataset.viewpoint_col=pose"],
                ["safety=warn"],
            )
        )
    way = rng.randrange(10)
    if way < 5:
        ended = call("validate", *(["--quick"] if way < 4 else []), *keys)
        found = re.search(r"(\d+) good rows, (\d+) bad", ended.out)
        if counted is not None and found and sum(map(int, found.groups())) != counted:
            return [f"accounting: {counted} rows in, {found.group()}"]
        return ended.faults
    if way < 8:
        return extracted(folder, [*keys, "dataset.on_error=skip"], counted)
    if way == 8:
        return call("extract", "--out", folder / "e.parquet", *keys).faults
    ended = call("probe", *keys, "dataset.on_error=skip", "output.run_id=r")
    return ended.faults + probe_adds_up(folder / "out/benchmark_runs/r", ended)


def _odd_cells(rows):
    """Whether a reader of CSV may rightly see other rows than were written."""
    return (
        any(set(cell) & set('\n\r\0\ufeff"') for row in rows for cell in row)
        or len({len(row) for row in rows}) > 1
    )


def _parquet(rows, rng):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for place, head in enumerate(rows[0]):
        cells = [row[place] if place < len(row) else None for row in rows[1:]]
        if rng.random() < 0.15:
            cells = [rng.choice(mutation.VALUES[:14]) for _ in cells]
        columns[head] = cells
    sink = io.BytesIO()
    arrays = {}
    for head, cells in columns.items():
        try:
            arrays[head] = pa.array(cells)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError):
            texts = [str(cell).encode("utf-8", "replace").decode() for cell in cells]
            arrays[head] = pa.array(texts)
    named = {head.encode("utf-8", "replace").decode(): cells for head, cells in arrays.items()}
    pq.write_table(pa.table(named), sink)
    data = sink.getvalue()
    return mutation.mutated_bytes(data, rng) if rng.random() < 0.4 else data


def images(world, rng, folder):
    """Photographs: damaged bytes of every format, through the reader and through runs."""
    from exreid.data.image_files import load_image
    from exreid.errors import ImageError

    source = rng.choice(sorted((world.folder / "pictures").iterdir()))
    data = source.read_bytes()
    data = (mutation.damaged_bytes if rng.random() < 0.3 else mutation.mutated_bytes)(data, rng)
    if rng.random() < 0.05:
        data = _odd_image(rng)
    if rng.random() < 0.75:
        found, decoded = raised(
            lambda: load_image(data, min_side_px=rng.choice((None, 32))), ImageError
        )
        if decoded is not None and decoded.image.mode != "RGB":
            found.append(f"silent: an image of mode {decoded.image.mode}")
        return found
    bad = folder / "photos" / f"bad{source.suffix}"
    bad.parent.mkdir()
    bad.write_bytes(data)
    shutil.copy(source, bad.parent / source.name)
    shutil.copy(world.new / "new_0.jpg", bad.parent / "good.jpg")
    names = [bad.name, source.name, "good.jpg"]
    if rng.random() < 0.5:
        text = "path,unique_name,split-time_closed\n"
        text += "".join(f"{name},a,train\n" for name in names)
        (bad.parent / "metadata.csv").write_text(text)
        keys = [*world.keys(folder / "out", bad.parent), "dataset.on_error=skip"]
        return extracted(folder, keys, len(names))
    return identified(world, folder, bad.parent, len(names))


def _odd_image(rng):
    """A few bytes that claim a great picture."""
    import zlib

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    side = rng.choice((11000, 60000, 2**31 - 1))
    head = struct.pack(">IIBBBBB", side, side, rng.choice((8, 16)), rng.choice((0, 2, 6)), 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def masks(world, rng, folder):
    """Mask cells: run lengths, polygons, JSON and not; and mask pictures."""
    import numpy as np

    from exreid.data.images import Preprocessing, prepare_image
    from exreid.data.masks import decode_mask
    from exreid.errors import ImageError, MaskError

    cells = [row[world.rows()[0].index("mask")] for row in world.rows()[1:]]
    cell = rng.choice(cells)
    points = [rng.choice((5.0, 40, 70.5, 90, 0, 400)) for _ in range(rng.choice((6, 8, 40)))]
    tree = rng.choice(
        (
            {"size": [72, 96], "counts": [1000, 2000, 3912]},
            {"size": [72, 96], "counts": rng.choice(cells)[30:90]},
            [points],
            points,
            {"segmentation": [points], "area": 1.0, "bbox": [0, 0, 1, 1]},
            json.loads(cell),
        )
    )
    match rng.randrange(4):
        case 0:
            cell = json.dumps(mutation.mutated_tree(tree, rng))
        case 1:
            cell = repr(mutation.mutated_tree(tree, rng))
        case 2:
            cell = mutation.mutated_text(json.dumps(tree), rng)
        case _:
            cell = mutation.mutated_text(cell, rng)
    way = rng.randrange(10)
    if way < 5:
        found, mask = raised(lambda: decode_mask(cell, (96, 72)), MaskError)
        if mask is not None and (mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size):
            found.append(f"silent: a mask of shape {mask.shape}, {mask.dtype}")
        return found
    if way < 8:
        pre = Preprocessing((64, 64), "crop", 0.9, "bicubic", way == 5, True, 0.1, (0, 0, 0))
        data = (world.folder / "pictures" / rng.choice(("a.jpg", "turned.jpg"))).read_bytes()
        return raised(lambda: prepare_image(data, cell, pre), (ImageError, MaskError))[0]
    if way == 8:
        rows = world.rows()
        rows[rng.randrange(1, len(rows))][rows[0].index("mask")] = cell
        with (folder / "metadata.csv").open(
            "w", newline="", encoding="utf-8", errors="surrogatepass"
        ) as stream:
            csv.writer(stream).writerows(rows)
        keys = [*world.keys(folder / "out"), f"dataset.metadata_file={folder / 'metadata.csv'}"]
        keys += ["dataset.on_error=skip", "dataset.crop_to_mask=true"]
        return extracted(folder, keys, None if "\0" in cell else len(rows) - 1)
    return _drawn_masks(world, rng, folder)


def _drawn_masks(world, rng, folder):
    """Mask pictures for ``--masks``."""
    import numpy as np
    from PIL import Image

    drawn = folder / "masks"
    drawn.mkdir()
    shape = rng.choice(((384, 512), (384, 512), (512, 384), (10, 10)))
    array = np.zeros(shape, np.uint8)
    array[: shape[0] // 2] = rng.choice((1, 255, 7))
    picture = Image.fromarray(array)
    picture = picture.convert(rng.choice(("L", "RGB", "1", "P", "I", "F")))
    picture.save(drawn / "new_0.tif")
    if rng.random() < 0.5:
        data = (drawn / "new_0.tif").read_bytes()
        (drawn / "new_0.tif").write_bytes(mutation.mutated_bytes(data, rng))
    return identified(world, folder, world.new, 3, "--masks", drawn)


def photographs(world, rng, folder):
    """Folders given to identify: odd names, links, devices, pipes, twins, nothing."""
    photos, count = folder / "photos", rng.choice((1, 2, 3))
    photos.mkdir()
    for number in range(count):
        name = rng.choice(
            (
                f"a{number}.jpg",
                f"a{number}.JPG",
                f"Zoë{number}.jpg",
                f"=1+{number}.jpg",
                f" {number} .jpg",
                f"visit_1/a{number}.png",
                f"x{number}\n.jpg",
                f"[bold]{number}.jpg",
                f"{'a' * 200}{number}.jpg",
                f"%d{number}.jpg",
                f'a,{number}".jpg',
            )
        )
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(world.new / f"new_{number}.jpg", photos / name)
    match rng.randrange(9):
        case 0:
            raw = os.fsencode(photos) + b"/\xff\xfe.jpg"
            shutil.copy(world.new / "new_0.jpg", raw)
            count = None
        case 1:
            (photos / "zero.jpg").symlink_to("/dev/zero")
            count = None
        case 2:
            os.mkfifo(photos / "pipe.jpg")
            count = None
        case 3:
            (photos / "loop.jpg").symlink_to("loop.jpg")
            count = None
        case 4:
            (photos / "folder.jpg").mkdir()
        case 5:
            (photos / "empty.jpg").write_bytes(b"")
            count += 1
        case 6:
            (photos / "notes.txt").write_text("no photograph")
        case 7:
            shutil.copy(next(world.data.rglob("*.jpg")), photos / "known.jpg")
            count += 1
    more = []
    if rng.random() < 0.3:
        table = folder / "table.csv"
        rows = mutation.mutated_rows(
            [["path", "encounter", "date"], ["a0.jpg", "e", "2023-01-01"]], rng
        )
        with table.open("w", newline="", encoding="utf-8", errors="replace") as stream:
            csv.writer(stream).writerows(rows)
        more += ["--metadata", table]
    if rng.random() < 0.2:
        more += ["--report"]
    return identified(world, folder, photos, count, *more)
