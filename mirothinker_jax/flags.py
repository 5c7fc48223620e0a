"""The command line of every command, turned into a frozen Config before jax is imported.

    config = flags.parse(sys.argv[1:], description="Trains …", program="python -m mirothinker_jax.train")

A config file is Python: it runs with the rights of the user. It returns an ml_collections ConfigDict, so a
setting may follow another one (`c.agent.context_tokens = c.grpo.training.get_ref("sequence_length")`) and an
override reaches both. Unusual: overrides are read by the type that the dataclass declares, not by the type
of the value in the file, and every mistake ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import inspect
import re
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mirothinker_jax.config import Config
from mirothinker_jax.config_tree import ConfigError, Key, build, keys, type_name, unknown_key

T = TypeVar("T")

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse(
    argv: Sequence[str],
    cls: type[T] = Config,
    description: str = "",
    program: str = "python -m mirothinker_jax.train",
    example: str = "configs/toy/pipeline.py",
) -> T:
    """The settings that `argv` (without the program's name) asks for.

    `--help` prints the manual and exits with 0. A mistake prints one line that names the key or the file and
    the way out, and exits with 2.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        sys.stdout.write(manual(cls, description, program, example))
        sys.exit(0)
    try:
        return read(argv, cls, program, example)
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


def read(argv: Sequence[str], cls: type[T], program: str, example: str) -> T:
    """`parse` for callers in Python: raises ConfigError instead of leaving the process."""
    known = {key.name: key for key in keys(cls)}
    path, overrides = _split(argv, known)
    if path is None:
        raise ConfigError(f"no config file; give one, for example: {program} --config {example}")
    values = _load(path)
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
        f"usage: {program} --config FILE.py [--config.KEY=VALUE ...]",
        "",
        "examples:",
        f"  {program} --config {example}",
        f"  {program} --config {example} --config.run_dir=runs/second --config.seed=1",
        "",
        "FILE.py defines get_config(); it returns mirothinker_jax.config.default() with some values changed.",
        "FILE.py:ARGUMENT calls get_config(ARGUMENT), where the file takes one (configs/qwen: a model).",
        "Values on the command line win over the file; a tuple is written (0,1,2) or sft,dpo; a lone",
        "--config.KEY sets a boolean. Keys, with their types and defaults:",
    ]
    group = None
    for key in keys(cls):
        if key.name.rpartition(".")[0] != group:
            group = key.name.rpartition(".")[0]
            lines += ["", f"{group or 'the run'}:"]
        default = ",".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
        lines.append(f"  --config.{key.name}={default!s}  ({type_name(key.hint)})")
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
                raise ConfigError(f"{name} has no value; write {name}={'PATH.py' if not key else 'VALUE'}")
            text = rest.pop(0)
        if key:
            overrides[key] = text
        else:
            path = text
    return path, overrides


def _load(given: str) -> Any:
    """What the file's get_config() returns, as a ConfigDict; of FILE.py:ARGUMENT, get_config(ARGUMENT)."""
    from ml_collections import ConfigDict

    name, colon, argument = given.partition(".py:")
    path = Path(f"{name}.py" if colon else given)
    if not path.is_file():
        raise ConfigError(f"config file {path} does not exist{_near(path)}")
    spec = importlib.util.spec_from_file_location(f"mirothinker_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(
                f"{path} defines no get_config(); it must return mirothinker_jax.config.default(), edited"
            )
        _check_argument(path, module.get_config, argument if colon else None)
        values = module.get_config(argument) if colon else module.get_config()
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{error.filename or path}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        stack = traceback.extract_tb(error.__traceback__)
        frames = [f for f in stack if Path(f.filename).resolve() == path.resolve()]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise ConfigError(f"{where}: {type(error).__name__}: {_message(error)}") from error
    if not hasattr(values, "items"):
        raise ConfigError(f"{path}: get_config() returned {type(values).__name__}, not a ConfigDict")
    return values if isinstance(values, ConfigDict) else ConfigDict(dict(values))


def _check_argument(path: Path, get_config: Callable[..., Any], argument: str | None) -> None:
    """Raises ConfigError where get_config wants an argument behind the file's name and has none, or the other way."""
    parameters = inspect.signature(get_config).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if required and not argument:
        raise ConfigError(
            f"{path} needs a {required[0]} behind its name: --config {path}:{required[0].upper()}"
        )
    if argument is not None and not parameters:
        raise ConfigError(f"{path} takes nothing behind its name; write --config {path}, without :{argument}")


def _message(error: Exception) -> str:
    """The error's own words. ml_collections puts some in quotes, and lists a whole group at a wrong key."""
    text = str(error)
    with contextlib.suppress(ValueError, SyntaxError):
        text = str(ast.literal_eval(text))
    return re.sub(r' Other fields present: "\{.*\}"', ";", text)


def _near(path: Path) -> str:
    """`; did you mean …` with the files of the checkout's configs folder that look like `path`."""
    there = sorted(str(p) for p in Path("configs").rglob("*.py"))
    near = difflib.get_close_matches(str(path), there, n=3, cutoff=0.5)
    if not near:
        near = [p for p in there if Path(p).stem == path.stem][:3]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are: {', '.join(there)}" if there else ""
