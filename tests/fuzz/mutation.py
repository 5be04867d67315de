"""Seeded damage to bytes, text, tables and trees."""

import json

WORDS = [
    *("", " ", "0", "-1", "1", "007", "1e400", "-0.0", "nan", "NaN", "inf", "NA", "None", "null"),
    *("~", "?", "-", "unknown", "true", "no", "12:30", "1_000", "0x10", "@x", "[1,", "{a: 1}"),
    *("[]", "{}", "data #2", "a: b", "%s", "{}", "\\", "'", '"', "'a", "..", "../..", "/", "~/x"),
    *("/dev/null", "/proc/self/mem", "s3://", "file:///etc/passwd", "memory://a::b", "${x}", "${"),
    *("${oc.env:HOME}", "*a", "&a b", "!!python/object:os.system", "<<", "---", "=1+1", "@SUM(A1)"),
    *("Zoë", "Zoe\u0308", "a\u00a0b", "\u200b", "\ud83d\ude00", "\ufeff", "a\tb", "a\nb", "a\x00b"),
    *("9" * 30, "a" * 3000, "2023/01/10", "31.02.2016", "0000-00-00", "10-Mar-2023", "1e3", "1."),
]
VALUES = [
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**40, 0.5, 1e308, float("inf"), float("nan")),
    *("", "a", "0", "\ud800", "x" * 2000, [], {}, [[]], [None], {"a": []}, [1, "a"], {"": None}),
]


def mutated_bytes(data, rng, times=None):
    """Bytes with a few blocks flipped, cut, zeroed, repeated or put in."""
    data = bytearray(data)
    for _ in range(times or rng.choice((1, 1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        size = rng.choice((1, 1, 2, 4, 16, 64, 512, 4096))
        match rng.randrange(9):
            case 0 | 1 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                end = min(place + size, len(data))
                data[place:end] = bytes(end - place)
            case 3:
                data = data[:place]
            case 4:
                del data[place : place + size]
            case 5:
                data[place:place] = rng.randbytes(min(size, 64))
            case 6:
                data[place:place] = data[place : place + size]
            case 7:
                data[place : place + size] = rng.randbytes(min(size, 64))
            case _:
                number = rng.choice(
                    (0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
                )
                width = rng.choice((1, 2, 4, 8))
                text = (number % 256**width).to_bytes(width, rng.choice(("little", "big")))
                data[place : place + width] = text
    return bytes(data)


def damaged_bytes(data, rng):
    """What disks and transfers do: one bit, one zeroed block, a cut, or nothing left."""
    data = bytearray(data)
    place = rng.randrange(max(1, len(data)))
    match rng.randrange(6):
        case 0 | 1 | 2 if data:
            data[place] ^= 1 << rng.randrange(8)
        case 3:
            end = min(place + rng.choice((64, 512, 4096)), len(data))
            data[place:end] = bytes(end - place)
        case 4:
            del data[place:]
        case _:
            data = bytearray() if rng.random() < 0.3 else data + rng.randbytes(rng.choice((1, 64)))
    return bytes(data)


def mutated_text(text, rng):
    """Text with characters and words changed."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(text) + 1)
        end = min(len(text), place + rng.choice((0, 1, 1, 2, 8, 40)))
        put = rng.choice(
            (rng.choice(WORDS), "", text[place:end] * 2, chr(rng.randrange(1, 0x2FFF)))
        )
        text = text[:place] + put + text[end:]
    return text


def mutated_tree(tree, rng):
    """A copy of plain dicts and lists with one place changed, dropped, added or repeated."""
    tree = json.loads(json.dumps(tree))
    places = []

    def visit(node):
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(tree)
    for _ in range(rng.choice((1, 1, 1, 3))):
        if not places:
            break
        node, key = rng.choice(places)
        if (isinstance(node, list) and key >= len(node)) or (
            isinstance(node, dict) and key not in node
        ):
            continue
        match rng.randrange(8):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[rng.choice(WORDS)] = rng.choice(VALUES)
            case 2 if isinstance(node[key], str):
                node[key] = mutated_text(node[key], rng)
            case 3 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
                node[key] = rng.choice(
                    (-node[key], node[key] * 1000 + 1, node[key] / 3, str(node[key]))
                )
            case 4:
                node[key] = [node[key]]
            case 5:
                node[key] = rng.choice(WORDS)
            case _:
                node[key] = rng.choice(VALUES)
    return tree


def mutated_rows(rows, rng):
    """Cells changed, rows repeated and dropped, columns dropped and renamed: header and rows.

    >>> import random
    >>> mutated_rows([["a"], ["1"]], random.Random(1))[0]
    ['a']
    """
    rows = [list(row) for row in rows]
    for _ in range(rng.choice((1, 2, 4, 8))):
        if len(rows) < 2 or not rows[0]:
            break
        i, j = rng.randrange(1, len(rows)), rng.randrange(len(rows[0]))
        match rng.randrange(12):
            case 0:
                rows.insert(i, list(rng.choice(rows[1:])))
            case 1:
                del rows[i]
            case 2 if rng.random() < 0.3:
                for row in rows:
                    del row[j]
            case 3 if rng.random() < 0.3:
                rows[0][j] = rng.choice((rng.choice(WORDS), rows[0][0], rows[0][j].upper()))
            case 4:
                word = rng.choice(WORDS)
                for row in rows[1:]:
                    row[j] = word
            case 5 if rng.random() < 0.5:
                rng.shuffle(rows[0])
            case 6 | 7:
                rows[i][j] = mutated_text(rows[i][j], rng)
            case _:
                rows[i][j] = rng.choice(WORDS)
    return rows
