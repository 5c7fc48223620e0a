"""The command line of every command, turned into a frozen Config before jax is imported.

    config = flags.parse(sys.argv[1:], description="Trains …", command="train")

A config file is Python: it runs with the rights of the user. It returns an ml_collections ConfigDict, so a
setting may follow another one (`c.agent.context_tokens = c.grpo.training.get_ref("sequence_length")`) and an
override reaches both. Unusual: overrides are read by the type that the dataclass declares, not by the type
of the value in the file, and every mistake ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import platform
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mirothinker_jax import __version__
from mirothinker_jax.config import Config
from mirothinker_jax.config_file import load, names
from mirothinker_jax.config_tree import ConfigError, Key, build, keys, type_name, unknown_key

T = TypeVar("T")
# (config file or None, keys that the command line sets) → the values that it sets them in, a ConfigDict.
Base = Callable[[str | None, Collection[str]], Any]

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse(
    argv: Sequence[str],
    cls: type[T] = Config,
    description: str = "",
    command: str = "train",
    example: str = "toy/pipeline",
    base: Base | None = None,
) -> T:
    """The settings that `argv` (without the program's name) asks for.

    `command`: of this package, with arguments of its own behind it where it needs any, for the examples. `base` says
    what the settings are set in, where a command can do without a config file.
    `--help` prints the manual and exits with 0, `--version` the versions. A mistake prints one line that names the key
    or the file and the way out, and exits with 2.
    """
    program = started_as(command)
    if any(argument in ("-h", "--help") for argument in argv):
        sys.stdout.write(manual(cls, description, program, example))
        sys.exit(0)
    if "--version" in argv:
        sys.stdout.write(f"{version()}\n")
        sys.exit(0)
    try:
        return read(argv, cls, program, example, base)
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def read(argv: Sequence[str], cls: type[T], program: str, example: str, base: Base | None = None) -> T:
    """`parse` for callers in Python: raises ConfigError instead of leaving the process."""
    known = {key.name: key for key in keys(cls)}
    path, overrides = _split(argv, known)
    if path is None and base is None:
        raise ConfigError(f"no config file; give one, for example: {program} --config {example}")
    values = base(path, overrides.keys()) if base is not None else load(path or "")
    # The declared types judge the values (build does), not those that the file happened to put in.
    with values.unlocked(), values.ignore_type():
        for name, text in overrides.items():
            *groups, last = name.split(".")
            owner = values
            for group in groups:
                if not hasattr(owner.get(group), "items"):
                    raise ConfigError(
                        f"{path}: get_config() returned no group {group}, which config.{name} sets"
                    )
                owner = owner[group]
            owner[last] = parse_value(known[name], text)
    return build(cls, values)


def some_groups(cls: type, path: str | None) -> Any:
    """What the config file says of the groups of `cls`, which has not all of them; nothing where there is no file."""
    from ml_collections import ConfigDict

    values = ConfigDict() if path is None else load(path)
    groups = {key.name.partition(".")[0]: "." in key.name for key in keys(cls)}
    with values.unlocked():
        for name in list(values):
            if name not in groups:
                del values[name]
        for name in (name for name, is_group in groups.items() if is_group and name not in values):
            values[name] = ConfigDict()
    return values


def split(argv: Sequence[str], cls: type = Config) -> tuple[list[str], list[str]]:
    """What of a command line is about the config, for `parse`, and the rest, for a command's own arguments.

    >>> split(["--config", "toy/smoke", "--out", "x", "--config.seed=1", "why?"])
    (['--config', 'toy/smoke', '--config.seed=1'], ['--out', 'x', 'why?'])
    """
    lone = {f"--config.{key.name}" for key in keys(cls) if key.hint is bool}
    config: list[str] = []
    rest: list[str] = []
    left = list(argv)
    while left:
        argument = left.pop(0)
        if argument != "--config" and not argument.startswith(("--config.", "--config=")):
            rest.append(argument)
            continue
        config.append(argument)
        if "=" not in argument and argument not in lone and left and not left[0].startswith("--"):
            config.append(left.pop(0))
    return config, rest


class CommandParser(argparse.ArgumentParser):
    """A command's own arguments. Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"error: {message}; see {self.prog} --help\n")
        sys.exit(2)


def version() -> str:
    """What a bug report should begin with: this package's version, jax's and Python's."""
    jax = importlib.metadata.version("jax")
    return f"mirothinker-jax {__version__} (jax {jax}, Python {platform.python_version()})"


def started_as(command: str) -> str:
    """How this process's command is written: `mirothinker-train` where the installed script started it."""
    name, space, rest = command.partition(" ")
    script = f"mirothinker-{name}"
    started = script if Path(sys.argv[0]).name == script else f"python -m mirothinker_jax.{name}"
    return f"{started}{space}{rest}"


def parse_value(key: Key, text: str) -> Any:
    """`text` as the type of `key`; a tuple is written `(0,1,2)`, `sft,dpo` or as a Python literal."""

    def wrong(expected: str) -> NoReturn:
        raise ConfigError(f"config.{key.name}={text} is not {expected}")

    def one(text: str, hint: Any) -> Any:
        if hint is str:
            return text
        if hint is bool:
            return _BOOLEANS[text.lower()] if text.lower() in _BOOLEANS else wrong("true or false")
        try:
            return hint(text)
        except ValueError:
            wrong("a whole number" if hint is int else "a number" if hint is float else type_name(hint))

    hint, arguments = key.hint, typing.get_args(key.hint)
    if types.NoneType in arguments:
        if text.lower() == "none":
            return None
        (hint,) = (a for a in arguments if a is not types.NoneType)
        arguments = typing.get_args(hint)
    if typing.get_origin(hint) is not tuple:
        return one(text, hint)
    try:  # strings that hold commas or spaces come quoted, as in Python
        literal = ast.literal_eval(text)
        if isinstance(literal, (tuple, list)) and all(type(item) is arguments[0] for item in literal):
            return tuple(literal)
    except (ValueError, SyntaxError):
        pass
    inner = text.strip().removeprefix("(").removesuffix(")").removeprefix("[").removesuffix("]")
    return tuple(one(item.strip(), arguments[0]) for item in inner.split(",") if item.strip())


def manual(cls: type, description: str, program: str, example: str) -> str:
    """What `--help` prints: the command, two examples, and every key with type, default and meaning."""
    lines = [
        *textwrap.wrap(description, 100),
        "",
        f"usage: {program} --config CONFIG [--config.KEY=VALUE ...] | --version",
        "",
        "examples:",
        f"  {program} --config {example}",
        f"  {program} --config {example} --config.run_dir=runs/second --config.seed=1",
        "",
        "CONFIG is the path of a Python file, or the name of a config that comes with the package:",
        *textwrap.wrap(", ".join(names()), 100, initial_indent="  ", subsequent_indent="  "),
        "The file defines get_config(); it returns mirothinker_jax.config.default() with some values changed.",
        "CONFIG:ARGUMENT calls get_config(ARGUMENT), where it takes one (qwen: a model; mirothinker: a size).",
        "Values on the command line win over the file; a tuple is written (0,1,2) or sft,dpo; a lone",
        "--config.KEY sets a boolean. Keys, with their types and defaults:",
    ]
    group = None
    for key in keys(cls):
        if key.name.rpartition(".")[0] != group:
            group = key.name.rpartition(".")[0]
            lines += ["", f"{group or 'the run'}:"]
        default = ",".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
        shown = "…" if default is None else default  # where another setting decides, which the meaning says
        lines.append(f"  --config.{key.name}={shown!s}  ({type_name(key.hint)})")
        lines += textwrap.wrap(key.meaning, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines).lstrip("\n") + "\n"


def _split(argv: Sequence[str], known: dict[str, Key]) -> tuple[str | None, dict[str, str]]:
    """The config file's path, and override key → text; the last of several values wins."""
    path, overrides = None, {}
    rest = list(argv)
    while rest:
        name, equals, text = rest.pop(0).partition("=")
        if name != "--config" and not name.startswith("--config."):
            raise ConfigError(
                f"unknown argument {name}; settings are given as --config.KEY=VALUE (see --help)"
            )
        key = name.removeprefix("--config").removeprefix(".")
        if key and key not in known:
            if any(k.startswith(f"{key}.") for k in known):
                raise ConfigError(
                    f"config.{key} is a group of settings; set one of its keys: --config.{key}.KEY=VALUE"
                )
            raise ConfigError(unknown_key(key, known))
        if not equals and key and known[key].hint is bool:
            text = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{name} has no value; write {name}={'VALUE' if key else 'CONFIG'}")
            text = rest.pop(0)
        if key:
            overrides[key] = text
        else:
            path = text
    return path, overrides
