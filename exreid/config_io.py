"""Reading a config: YAML, then dotted overrides, then the typed tree; and writing it again."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from exreid.config_base import StrictModel
from exreid.errors import ConfigError

Model = TypeVar("Model", bound=StrictModel)

# Where a run writes, who watches it and on which machines it runs do not change its numbers.
NOT_IN_FINGERPRINT = ("output", "wandb", "ray")


def load_config(
    model: type[Model], file: str | Path | None = None, overrides: Sequence[str] = ()
) -> Model:
    """The config of a YAML file with ``dotted.key=value`` overrides laid over it.

    Values are read as YAML: ``benchmark.top_k=[1,5]``, ``model.checkpoint=null``.
    Raises ConfigError naming the key, and the nearest right key or value.
    """
    values = read_tree(file, overrides)
    return from_values(model, values, source=str(file) if file else "the overrides")


def read_tree(file: str | Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the file and the overrides say, as plain dicts and lists, unchecked."""
    try:
        tree: Any = OmegaConf.create({})
        if file is not None:
            tree = OmegaConf.merge(tree, _read_yaml(Path(file)))
        tree = OmegaConf.merge(tree, OmegaConf.from_dotlist(_checked(overrides)))
        return cast(dict[str, Any], OmegaConf.to_container(tree, resolve=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{file or 'overrides'}: {str(error).splitlines()[0]}") from error


def with_overrides(config: Model, overrides: Sequence[str], allowed: Sequence[str]) -> Model:
    """A config with some of its keys said anew: those of ``allowed``, where ``block.`` stands for
    all keys of a block. ConfigError for any other."""
    for override in _checked(overrides):
        key = override.partition("=")[0]
        if not any(key == one or (one.endswith(".") and key.startswith(one)) for one in allowed):
            raise ConfigError(
                f"{key}: cannot be set here. These can: "
                f"{', '.join(one + '*' if one.endswith('.') else one for one in allowed)}."
            )
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the overrides: {str(error).splitlines()[0]}") from error
    # Merged here, since OmegaConf would look for interpolations in what is there already.
    tree = _laid_over(config.model_dump(mode="json"), cast(dict[str, Any], given))
    return from_values(type(config), tree, source="the overrides")


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def from_values(model: type[Model], values: Any, *, source: str) -> Model:
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
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def fingerprint(config: StrictModel) -> str:
    """16 hex digits of everything in the config that can change the numbers."""
    tree = config.model_dump(mode="json")
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


def _read_yaml(path: Path) -> Any:
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file. Check --config.") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path}: is a folder; --config takes a YAML file.") from error
    except OmegaConfBaseException:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not OmegaConf.is_dict(tree):
        raise ConfigError(f"{path}: a config is a mapping of blocks such as 'dataset:'.")
    return tree


def _checked(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"{override!r} is no override; write dotted.key=value.")
    return list(overrides)


def _explain(model: type[StrictModel], details: ErrorDetails) -> str:
    """One line on one wrong key."""
    location = [str(part) for part in details["loc"]]
    key = ".".join(location) or "config"
    if details["type"] == "extra_forbidden":
        return f"  {key}: unknown key.{nearest_key(model, key)}"
    given = details.get("input")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return f"  {key}: {message}."
    line = f"  {key}: {message}; it is {given!r}."
    if details["type"] == "literal_error" and isinstance(given, str):
        options = str(details["ctx"]["expected"]).replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(given, [o.strip("'") for o in options], n=1, cutoff=0.5)
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


def _schema_name(schema: dict[str, Any]) -> str:
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
