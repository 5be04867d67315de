"""Reading a config: YAML, then dotted overrides, then the typed tree; and writing it again."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import ErrorDetails

from exreid.config.base import StrictModel, Tree
from exreid.config.public import with_preset
from exreid.config.text import MOST_BYTES, to_yaml_text, tree_of_yaml, value_of_override
from exreid.errors import ConfigError

Model = TypeVar("Model", bound=StrictModel)

# Where a run writes, who watches it and on which machines it runs do not change its numbers.
NOT_IN_FINGERPRINT = ("output", "wandb", "ray")
MOST_SHOWN = 200
"""Characters of a wrong value that a message shows."""

PRESETS = ("quick", "accurate", "published")
PRESETS_FOLDER = Path(__file__).parent / "presets"


def load_config(
    model: type[Model],
    file: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    preset: str | None = None,
) -> Model:
    """The config of a preset (one of `PRESETS`), changed by a YAML file, changed by
    ``dotted.key=value`` overrides.

    The type of a key decides how its text is read (see `exreid.config.text`): a text key's value
    is its text, ``benchmark.top_k=[1,5]`` a list, ``model.checkpoint=null`` none. Raises
    ConfigError naming the key, and the nearest right key or value.
    """
    values = read_tree(model, file, overrides)
    if preset is not None:
        values = _laid_over(read_tree(model, PRESETS_FOLDER / f"{preset}.yaml"), values)
    return from_values(model, values, source=str(file) if file else "the overrides")


def read_tree(
    model: type[StrictModel], file: str | Path | None = None, overrides: Sequence[str] = ()
) -> Tree:
    """The values of the file and the overrides, as plain dicts and lists, unchecked; below them
    those of ``dataset.preset``."""
    tree: Tree = {}
    if file is not None:
        tree = tree_of_yaml(_read(Path(file)), model, source=str(file))
    for override in overrides:
        key, text = _parted(override)
        *blocks, leaf = key.split(".")
        above: Tree = {leaf: value_of_override(key, text, model)}
        for block in reversed(blocks):
            above = {block: above}
        tree = _laid_over(tree, above)
    return with_preset(tree)


def with_overrides(config: Model, overrides: Sequence[str], allowed: Sequence[str]) -> Model:
    """A config with overrides of keys of ``allowed``, where ``block.`` means all keys of a block.
    ConfigError for any other key."""
    for override in overrides:
        key, _ = _parted(override)
        if not any(
            key == name or (name.endswith(".") and key.startswith(name)) for name in allowed
        ):
            raise ConfigError(
                f"{key}: cannot be set here. These can: "
                f"{', '.join(name + '*' if name.endswith('.') else name for name in allowed)}."
            )
    changes = read_tree(type(config), None, overrides)
    tree = _laid_over(config.model_dump(mode="json"), changes)
    return from_values(type(config), tree, source="the overrides")


def _laid_over(below: Tree, above: Tree) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def from_values(model: type[Model], values: object, *, source: str) -> Model:
    """The typed config of plain dicts and lists; ConfigError with every wrong key at once."""
    try:
        # Through JSON, so that a YAML list may fill a tuple while all else stays strict.
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        lines = [_explain(model, details) for details in error.errors(include_url=False)]
        raise ConfigError("\n".join([f"{source}: {len(lines)} wrong:", *lines])) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{source}: {error}") from error


def to_yaml(config: StrictModel) -> str:
    """The whole config, defaults included, as YAML that `load_config` reads back."""
    return to_yaml_text(config.model_dump(mode="json"))


def fingerprint(config: StrictModel) -> str:
    """16 hex digits of everything in the config that can change the numbers."""
    tree = config.model_dump(mode="json")
    if isinstance(tree.get("dataset"), dict):
        tree["dataset"].pop("preset", None)  # its keys are there
    kept = {key: value for key, value in tree.items() if key not in NOT_IN_FINGERPRINT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def describe_keys(model: type[StrictModel]) -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, type, default, meaning) of each leaf, in the order of the tree."""
    for name, leaf_model, field in _leaves(model):
        default = leaf_model.model_fields[field].get_default()
        shown = json.dumps(default, default=str) if default is not None else "null"
        yield name, _type_name(leaf_model, field), shown, _one_line(leaf_model, field)


def leaf_keys(model: type[StrictModel]) -> list[str]:
    """The dotted key of each leaf."""
    return [name for name, *_ in _leaves(model)]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        of_run = path.name == "config.snapshot.yaml"
        remedy = "Give a run's folder" if of_run else "Check --config"
        raise ConfigError(f"{path}: no such config file. {remedy}.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; --config takes a YAML file.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}. Check --config.") from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: is over {MOST_BYTES // 2**20} MB, too large for a config.")
    return data


def _parted(override: str) -> tuple[str, str]:
    """The key and the text of an override."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!a} is not an override: write dotted.key=value.")
    return key, text


def _explain(model: type[StrictModel], details: ErrorDetails) -> str:
    """One line on one wrong key."""
    location = [str(part) for part in details["loc"]]
    key = ".".join(location) or "config"
    if details["type"] == "extra_forbidden":
        return f"  {key}: unknown key.{nearest_key(model, key)}"
    value = details.get("input")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return f"  {key}: {message}."
    shown = repr(value)
    line = (
        f"  {key}: {message}; it is {shown[:MOST_SHOWN]}{'...' if len(shown) > MOST_SHOWN else ''}."
    )
    if details["type"] == "tuple_type" and isinstance(value, str):
        line += f" Write [{value[:MOST_SHOWN].strip('[] ')}]."
    if details["type"] == "literal_error" and isinstance(value, str):
        options = str(details["ctx"]["expected"]).replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(value, [o.strip("'") for o in options], n=1, cutoff=0.5)
        line += f" Did you mean {near[0]!r}?" if near else ""
    return line


def nearest_key(model: type[StrictModel], wanted: str) -> str:
    """A hint at the key that was meant by an unknown dotted one."""
    location = wanted.split(".")
    known = leaf_keys(model)
    blocks = list(model.model_fields)
    by_leaf = [name for name in known if name.rsplit(".", 1)[-1] == location[-1]]
    near = by_leaf or difflib.get_close_matches(wanted, known + blocks, n=2, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    siblings = [name for name in known if name.startswith(".".join(location[:-1]) + ".")]
    return f" Known here: {', '.join(siblings or blocks)}."


def _leaves(
    model: type[StrictModel], prefix: str = ""
) -> Iterator[tuple[str, type[StrictModel], str]]:
    for field, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(cast(type[StrictModel], kind), f"{prefix}{field}.")
        else:
            yield f"{prefix}{field}", model, field


def _type_name(model: type[StrictModel], field: str) -> str:
    schema = model.model_json_schema()["properties"][field]
    choices = [_schema_name(part) for part in schema.get("anyOf", [schema])]
    return "|".join(choices)


def _schema_name(schema: JsonSchemaValue) -> str:
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return "list"
    return {"integer": "int", "number": "float", "string": "text", "boolean": "true|false"}.get(
        schema.get("type", ""), str(schema.get("type", "any"))
    )


def _one_line(model: type[StrictModel], field: str) -> str:
    return " ".join((model.model_fields[field].description or "").split())
