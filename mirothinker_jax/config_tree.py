"""The tree of settings, walked: values into dataclasses, dataclasses into JSON, and the list of all keys.

Unusual: what a key means is read from the comments beside it in the source of its dataclass, so that
`--help` and the source cannot disagree. Imports neither jax nor ml_collections.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import json
import math
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
# Of keys whose values are paths.
PATH_ENDINGS = ("path", "_dir", "_file", "init_from", "tools.record", "tools.replay", "tools.corpus")
PATH_ENDINGS += ("tasks.train", "tasks.heldout")
# user:password@ and a port may be there, a path and a query too.
_SERVICE_URL = re.compile(
    r"https?://(?:[^\s/?#@]*@)?(?:\[[0-9a-f:.]+\]|[^\s/?#:@\[\]]+)(?::\d{1,5})?(?:[/?]\S*)?", re.IGNORECASE
)


UNSET: Any = None  # of any type: a preset's value takes its place


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: the key, what is wrong, the way out."""


def check(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition` holds.

    Inside a dataclass of settings the message begins with the key: as the class knows it (`rows`), or with
    the names of groups above it (`training.batch_size`); `build` completes it to `config.sft.training.batch_size`.
    """
    if not condition:
        raise ConfigError(message)


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ConfigError unless `value` is one of `choices`."""
    check(value in choices, f"{key} is {value!r}; choose one of {', '.join(choices)}")


def check_address(key: str, url: str) -> None:
    """Raises ConfigError for what is neither empty nor the address of a service."""
    check(
        not url or _SERVICE_URL.fullmatch(url) is not None,
        f"{key} is {url!r}, which is no address; write it as http://host:port/path",
    )


def numbers_by_name(key: str, entries: Iterable[str]) -> dict[str, float]:
    """`entries` of the form NAME:NUMBER, of either sign, as a dict. Raises ConfigError for another form.

    >>> numbers_by_name("grpo.reward_terms", ("brevity:0.2", "cost:-1"))
    {'brevity': 0.2, 'cost': -1.0}
    """
    numbers: dict[str, float] = {}
    for entry in entries:
        match = re.fullmatch(r"([^:\s]+):([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)", entry)
        check(match is not None, f"{key} holds {entry!r}; write NAME:NUMBER, such as brevity:0.2")
        assert match is not None
        check(match[1] not in numbers, f"{key} names {match[1]} twice; give it once")
        numbers[match[1]] = float(match[2])
    return numbers


def check_local(key: str, path: str) -> None:
    """Raises ConfigError for a URL, alone or among paths separated by commas: run folders grow by appended lines and
    renames, which no object store has."""
    url = re.search(r"(?:^|,)\s*((?!tfds:)[A-Za-z][\w+.-]+:/[^,]*)", path)
    check(
        url is None,
        f"{key} is {path!r}, and URLs are not read or written; give a path: of a bucket, mount it (Cloud Storage FUSE, "
        "mountpoint-s3) and name the folder there",
    )


@dataclass(frozen=True)
class Key:
    """One setting: its dotted name below `config.`, type, default, and what it means (may be empty)."""

    name: str
    hint: Any
    default: Any
    meaning: str


def keys(cls: type, prefix: str = "") -> list[Key]:
    """Every setting of the tree, depth first, in the order of the source."""
    hints = typing.get_type_hints(cls)
    meanings = _comments(cls)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found += keys(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            found.append(Key(f"{prefix}{field.name}", hint, value, meanings.get(field.name, "")))
    return found


def build(cls: type[T], values: Any, prefix: str = "") -> T:
    """Turns a mapping (dict or ConfigDict) into the frozen dataclass `cls`, checking keys and types.

    Keys that are left out keep their defaults, and so do those that are None as their default is. A whole number
    serves as a float, and a list or a lone item as a tuple. A path may begin with ~, and must not be a URL.

    Raises:
      ConfigError: one line that names the key, for an unknown key, a wrong type or an invalid value.
    """
    hints = typing.get_type_hints(cls)
    unset = {field.name for field in dataclasses.fields(typing.cast(Any, cls)) if field.default is None}
    arguments = {}
    for key, value in dict(values).items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError(unknown_key(name, [k.name for k in keys(cls, prefix)]))
        if value is None and key in unset:
            continue
        if not dataclasses.is_dataclass(hints[key]):
            arguments[key] = _convert(name, value, hints[key])
        elif hasattr(value, "items"):
            arguments[key] = build(typing.cast(type, hints[key]), value, f"{name}.")
        else:
            raise ConfigError(f"config.{name} is {value!r}; it is a group of settings: set config.{name}.KEY")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(_absolute(prefix, str(error))) from None


def to_plain(config: Any) -> dict[str, Any]:
    """The whole tree as plain JSON values (tuples become lists): what is saved beside a checkpoint."""
    return json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key → value of a nested dict.

    >>> flat({"seed": 0, "model": {"hidden": 8}})
    {'seed': 0, 'model.hidden': 8}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key whose value differs between two resolved trees, in the order of the keys.

    >>> difference({"seed": 0, "model": {"hidden": 8}}, {"seed": 0, "model": {"hidden": 16}})
    ['model.hidden: 8 → 16']
    """
    before, after = flat(old), flat(new)
    both = [(k, before.get(k, "(absent)"), after.get(k, "(absent)")) for k in {**before, **after}]
    return [f"{key}: {a} → {b}" for key, a, b in both if a != b]


def unknown_key(name: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist: with the key that was probably meant.

    `training.learning_rate` finds a key that ends in the same word; a typo finds the nearest spelling.
    """
    known = list(known)
    last = name.rpartition(".")[2]
    # Several keys may end in the same word (each stage has its learning rate): the nearest whole name wins.
    namesakes = [k for k in known if k.rpartition(".")[2] == last]
    near = difflib.get_close_matches(name, namesakes or known, n=1, cutoff=0.0 if namesakes else 0.6)
    if not near:
        words = {k.rpartition(".")[2]: k for k in reversed(known)}
        near = [words[w] for w in difflib.get_close_matches(last, words, n=1)]
    hint = f"did you mean config.{near[0]}?" if near else "--help lists all keys"
    return f"unknown key config.{name}; {hint}"


def type_name(hint: Any) -> str:
    """The type as `--help` and messages write it: `int`, `tuple[str, ...]`, `int | None`."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """`value` as `hint`, or a ConfigError that names the key."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        return tuple(_convert(name, v, arguments[0]) for v in items)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        (hint,) = (a for a in arguments if a is not types.NoneType)
        return _convert(name, value, hint)
    if hint is str and name.endswith(PATH_ENDINGS):
        check_local(f"config.{name}", str(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(
            f"config.{name} is {value!r} ({type(value).__name__}); it must be of type {type_name(hint)}"
        )
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"config.{name} is {value}; it must be a finite number")
    if hint is str and name.endswith(PATH_ENDINGS):
        return ",".join(_expand_home(name, part) for part in str(value).split(","))
    return value


def _expand_home(name: str, path: str) -> str:
    """`path` with the home folder for a leading ~, which shells leave alone behind an equals sign."""
    if not path.lstrip().startswith("~"):
        return path
    try:
        return str(Path(path.strip()).expanduser())
    except RuntimeError:
        raise ConfigError(
            f"config.{name} is {path!r}, and there is no such user; write ./{path.strip()} for a file of that name"
        ) from None


def _absolute(prefix: str, message: str) -> str:
    """A dataclass names its keys from where it stands; here that becomes the name from the root.

    `rows …` and `training.batch_size …` raised under `sft.training.` both become `config.sft.training.batch_size …`.
    """
    parts = prefix.rstrip(".").split(".") if prefix else []
    overlap = next(
        i for i in range(len(parts) + 1) if message.startswith("".join(f"{p}." for p in parts[i:]))
    )
    return "config." + "".join(f"{p}." for p in parts[:overlap]) + message


@functools.cache
def _comments(cls: type) -> dict[str, str]:
    """Field name → the comment at the end of its line, else the comment lines right above it."""
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:  # a class typed into an interpreter has no source
        return {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            words = token.string.lstrip("# ")
            (alone if token.line.strip() == token.string else beside)[token.start[0]] = words
    meanings = {}
    for node in ast.parse(source).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno
            while (line := line - 1) in alone:
                above.insert(0, alone[line])
            meanings[node.target.id] = beside.get(node.end_lineno or node.lineno) or " ".join(above)
    return meanings
