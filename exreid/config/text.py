"""From the text of a config to values: by the type of each key, not by YAML's guess.

YAML alone takes an unquoted 007 for 7, 12:30 for 750, yes for a truth value and `data #2` for
`data`. Here a text key gets its text, a number key a number, and a word is null only where the key
can be null. In a file, quotes make any value text; the value of an override of a text key is the
written text. Nothing is looked up (``${...}``), and nothing grows without bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from exreid.config.base import Tree
from exreid.errors import ConfigError

MOST_BYTES = 2**20
"""Of a config file; the largest sweeps have some thousands."""
MOST_VALUES = 50_000
"""Values of a config, those of an alias counted each time that it is used."""
DEEPEST = 50
NULLS = frozenset({"null", "Null", "NULL", "~"})
TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
WHOLE = re.compile(r"[-+]?[0-9]{1,400}")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
LOOK_UP = re.compile(r"\$\{.*?\}", re.DOTALL)
PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


def tree_of_yaml(content: str | bytes, model: type[BaseModel], *, source: str) -> Tree:
    """A YAML document as plain dicts, lists and values, each as its key in ``model`` takes it."""
    try:
        node = yaml.compose(content, Loader=yaml.BaseLoader)
        tree = {} if node is None else _Reading().value(node, model, "", 0)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except Exception as error:  # the parser raises ValueError and RecursionError as well
        raise ConfigError(f"{source}: not valid YAML: {_reason(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: a config is a mapping of blocks such as 'dataset:'.")
    return tree


def value_of_override(key: str, text: str, model: type[BaseModel]) -> object:
    """The value of ``key=text``: a text key's is the text; lists and blocks are read as YAML."""
    wanted = _alternatives(_annotation(model, key.split(".")))
    _check_text(key, "an override's key")
    _check_text(text, key)
    if str in wanted:
        if not text:
            remedy = f"Write {key}=null for none" if NoneType in wanted else "Leave it out"
            raise ConfigError(f"{key}= has no value. {remedy}.")
        return scalar(text, wanted)
    block = any(_is_block(kind) for kind in wanted)
    listed = any(get_origin(kind) in (tuple, list) for kind in wanted) and text.startswith("[")
    if not (block or listed or object in wanted) or (not text and not block):
        return scalar(text, wanted)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        value = None if node is None else _Reading().value(node, wanted, key, 0)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{key}: {text!r} is not valid YAML: {_reason(error)}") from error
    if block and not isinstance(value, dict):
        raise ConfigError(f"{key}: is a block of keys, such as {key}.NAME=VALUE; it is {text!r}.")
    return value


def scalar(text: str, wanted: list[object]) -> str | int | float | None:
    """The value of an unquoted word where these types are wanted; else the word itself.

    >>> scalar("007", [str]), scalar("007", [int]), scalar("12:30", [int]), scalar("no", [bool])
    ('007', 7, '12:30', False)
    >>> scalar("null", [str]), scalar("null", [str, NoneType]), scalar("1e-4", [object])
    ('null', None, 0.0001)
    """
    anything = object in wanted
    if (NoneType in wanted or anything) and text in NULLS:
        return None
    if str in wanted:
        return text
    word = text.lower()
    if (bool in wanted and word in TRUTHS) or (anything and word in ("true", "false")):
        return TRUTHS[word]
    if anything or int in wanted or float in wanted:
        if WHOLE.fullmatch(text):
            return int(text)
        if NUMBER.fullmatch(text):
            return float(text)
    return text


def to_yaml_text(tree: Mapping[str, object]) -> str:
    """A tree as YAML that `tree_of_yaml` reads back."""
    return yaml.dump(
        dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


class _Dumper(yaml.SafeDumper):
    """Also quotes words that `scalar` reads as numbers and the library does not."""


def _quoted(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "'" if scalar(text, [object]) != text else None
    if not text.isprintable():
        style = '"'  # the library writes line separators unescaped, and reads blanks
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


class _Reading:
    """Reads one document, and counts its values."""

    def __init__(self) -> None:
        self.values = 0

    def value(self, node: yaml.Node, wanted: object, place: str, depth: int) -> object:
        """The value of a node where a type, or one of a list of them, is wanted."""
        wanted = wanted if isinstance(wanted, list) else _alternatives(wanted)
        self.values += 1
        if self.values > MOST_VALUES or depth > DEEPEST:
            raise ConfigError(
                f"{_line(node)}: too much for a config: over {MOST_VALUES} values, or more than "
                f"{DEEPEST} levels, its aliases (*name) written out."
            )
        if node.tag not in PLAIN_TAGS:
            raise ConfigError(f"{_line(node)}: {node.tag}: values are written without a tag.")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, wanted, place, depth)
        if isinstance(node, yaml.SequenceNode):
            return [
                self.value(item, _of_item(wanted, i), f"{place}.{i}", depth + 1)
                for i, item in enumerate(node.value)
            ]
        return self._scalar(node, wanted, place)

    def _scalar(self, node: yaml.Node, wanted: list[object], place: str) -> object:
        text: str = node.value
        _check_text(text, f"{_line(node)}: {place}")
        if _is_quoted(node):
            return text
        if any(_is_block(kind) for kind in wanted) and (not text or text in NULLS):
            return {}  # a block whose keys are all left out
        return scalar(text, wanted) if text else None

    def _mapping(
        self, node: yaml.MappingNode, wanted: list[object], place: str, depth: int
    ) -> Tree:
        merged: Tree = {}
        own: Tree = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{_line(key)}: a key is a word.")
            name = key.value
            _check_text(name, f"{_line(key)}: a key")
            if name == "<<" and not _is_quoted(key):
                parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in reversed(parts):
                    block = self.value(part, wanted, place, depth + 1)
                    if not isinstance(block, dict):
                        raise ConfigError(f"{_line(part)}: <<: takes a block, such as *name.")
                    merged |= block
                continue
            if name in own:
                raise ConfigError(f"{_line(key)}: {name!r} is given twice.")
            inside = f"{place}.{name}" if place else name
            own[name] = self.value(value, _of_key(wanted, name), inside, depth + 1)
        return merged | own


def _alternatives(annotation: object) -> list[object]:
    """The plain types that an annotation allows.

    >>> _alternatives(Annotated[Literal["a", "b"], 1] | tuple[int, ...] | None)
    [<class 'str'>, tuple[int, ...], <class 'NoneType'>]
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(parts[0])
    if origin in (Union, UnionType):
        return [kind for part in parts for kind in _alternatives(part)]
    if origin is Literal:
        return list(dict.fromkeys(type(value) for value in parts))
    return [annotation]


def _annotation(model: type[BaseModel], names: list[str]) -> object:
    """The type of a dotted key; object, which takes anything, for an unknown one."""
    annotation: object = model
    for name in names:
        annotation = _of_key(_alternatives(annotation), name)
    return annotation


def _of_key(wanted: list[object], name: str) -> object:
    for kind in wanted:
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields:
            return kind.model_fields[name].annotation
        if get_origin(kind) is dict:
            return get_args(kind)[1]
    return object


def _of_item(wanted: list[object], place: int) -> object:
    for kind in wanted:
        parts = get_args(kind)
        if get_origin(kind) is list or (get_origin(kind) is tuple and parts[-1] is Ellipsis):
            return parts[0]
        if get_origin(kind) is tuple and place < len(parts):
            return parts[place]
    return object


def _is_block(wanted: object) -> bool:
    model = isinstance(wanted, type) and issubclass(wanted, BaseModel)
    return model or get_origin(wanted) is dict


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{place}: {text!a} is not valid Unicode.") from None
    if "\0" in text:
        raise ConfigError(f"{place}: {text!r} has a character 0 in it.")
    if reference := LOOK_UP.search(text):
        raise ConfigError(
            f"{place}: {reference.group()} is not looked up, since a config that was sent could "
            "copy secrets into what a run writes. Write the value itself; of a variable of the "
            "shell, give it as an override: key=$NAME."
        )


def _is_quoted(node: yaml.Node) -> bool:
    return getattr(node, "style", None) not in (None, "")


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"


def _reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, RecursionError):
        return "too many levels."
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{place}{error.problem or error.context}."
    return f"{' '.join(str(error).split()) or type(error).__name__}."
