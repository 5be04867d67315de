"""Config files and overrides."""

from pathlib import Path

from tests.fuzz import mutation
from tests.fuzz.outcome import call

ROOT = Path(__file__).parents[2]


def configs(world, rng, folder):
    """A config file, mutated as text, as a tree or as bytes; then shown, or validated with."""
    import yaml

    file = folder / "config.yaml"
    source = rng.choice(sorted((ROOT / "configs").rglob("*.yaml")))
    text = source.read_text(encoding="utf-8")
    command = (
        "tune" if "tune" in source.name else "finetune" if "finetune" in source.name else "probe"
    )
    match rng.randrange(8):
        case 0 | 1:
            file.write_bytes(mutation.mutated_bytes(text.encode(), rng))
        case 2 | 3:
            mutated = mutation.mutated_text(text, rng)
            file.write_bytes(mutated.encode("utf-8", "surrogatepass"))
        case 4:
            lines = text.splitlines()
            rng.shuffle(lines)
            file.write_text("\n".join(lines), encoding="utf-8")
        case 5 if rng.random() < 0.3:
            _odd_file(file, rng)
        case _:
            tree = mutation.mutated_tree(yaml.safe_load(text) or {}, rng)
            file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    if rng.random() < 0.1 and command == "probe":
        return call("validate", "--quick", "--config", file, f"output.root={folder}/o").faults
    ended = call(command, "--print-config", "--config", file)
    return ended.faults + ([] if ended.code in (0, 2) else [f"exit {ended.code} of --print-config"])


def _odd_file(file, rng):
    match rng.randrange(4):
        case 0:
            file.mkdir()
        case 1:
            file.symlink_to(file)
        case 2:
            lines = ["a0: &a0 [x, x]"]
            lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
            file.write_text("\n".join(lines))
        case _:
            file.write_text("a: " + "[" * 5000)


def overrides(world, rng, folder):
    """Overrides: right keys with any words, and mutated ones. Text is what it says."""
    import yaml

    from exreid.config.io import leaf_keys
    from exreid.config.probe import ProbeConfig
    from exreid.config.sweep import TuneConfig
    from exreid.config.training import FinetuneConfig

    command, model = rng.choice(
        (("probe", ProbeConfig), ("finetune", FinetuneConfig), ("tune", TuneConfig))
    )
    words, told = [], {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice(leaf_keys(model))
        value = rng.choice(mutation.WORDS)
        if rng.random() < 0.5:
            value = mutation.mutated_text(rng.choice((value, "data", "[1, 5]", "0.5")), rng)
        if rng.random() < 0.1:
            key = mutation.mutated_text(key, rng)
        words.append(f"{key}={value}")
        told.pop(key, None)
        if _is_text(model, key):
            told[key] = value
    words = [word for word in words if "\0" not in word and not word.startswith("-")]
    ended = call(command, "--print-config", *words)
    found = ended.faults
    if ended.code not in (0, 2):
        found = found or [f"exit {ended.code} of --print-config"]
    if told and "valid string" in ended.err:
        found = found or [f"text refused: {' '.join(ended.err.split())[:200]}"]
    if found or ended.code != 0:
        return found
    tree = yaml.safe_load(ended.out)
    for key, value in told.items():
        if not _plain(value):
            continue
        got = tree
        for part in key.split("."):
            got = got[part]
        if got != value:
            found.append(f"silent: {key}={value!r} became {got!r}")
    return found


def _plain(value):
    """Text that may be nothing but itself (no quotes, no empty value, no null, no home)."""
    return (
        value.isprintable()
        and value == value.strip()
        and value not in ("", "null")
        and not value.startswith("~")
        and (not set("\"'$\\") & set(value))
    )


def _is_text(model, key):
    for part in key.split(".")[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return False
        model = field.annotation
    field = getattr(model, "model_fields", {}).get(key.rsplit(".", 1)[-1])
    return field is not None and field.annotation in (str, str | None)
