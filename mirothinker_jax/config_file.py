"""What a config file says, by the file's path or by its name among the configs that come with the package.

    load("my/config.py")            # a path that exists wins
    load("toy/smoke")               # else it is a name; `names()` are all of them
    load("qwen/sft:runs/qwen3-8b")  # what follows a colon is what get_config is called with

Not safe: a config file is Python, and runs with the rights of the user.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirothinker_jax.config_tree import ConfigError


def names() -> list[str]:
    """Of the configs that come with the package, such as "toy/smoke"; sorted."""
    folder = _packaged()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.py"))


def load(given: str) -> Any:
    """What get_config() of the file `given` returns, as an ml_collections ConfigDict.

    Raises:
      ConfigError: there is no such file or name, it has no get_config(), takes another number of arguments or
        fails; one line, with the line of the file that failed.
    """
    from ml_collections import ConfigDict

    name, path, argument = _find(given)
    spec = importlib.util.spec_from_file_location(f"mirothinker_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {name} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise ConfigError(
                f"{path} defines no get_config(); it must return mirothinker_jax.config.default(), edited"
            )
        _check_argument(name, module.get_config, argument)
        values = module.get_config() if argument is None else module.get_config(argument)
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


def _packaged() -> Path:
    """The folder of the package's configs: inside an installed one (setup.py puts it there), beside a checkout's."""
    installed = Path(__file__).with_name("configs")
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def _find(given: str) -> tuple[str, Path, str | None]:
    """The config's path or name, its file, and what follows the colon. A path may hold colons of its own."""
    parts = given.split(":")
    splits: list[tuple[str, str | None]] = [(given, None)]
    splits += [(":".join(parts[:i]), ":".join(parts[i:])) for i in range(1, len(parts))]
    for name, argument in splits:
        with contextlib.suppress(OSError):  # longer than a path may be
            if Path(name).is_file():
                return name, Path(name), argument
    known = names()
    for name, argument in splits:
        if name.removesuffix(".py") in known:
            return name, _packaged() / f"{name.removesuffix('.py')}.py", argument
    raise ConfigError(
        f"there is no config file {parts[0]}, and no config of that name comes with the package; "
        f"{_near(Path(parts[0]), known)}"
    )


def _near(path: Path, known: list[str]) -> str:
    """`did you mean …?` with files beside `path`, or else names, that look like it; all names where none does."""
    beside = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.glob("*.py")), 2, 0.7)
    name = path.as_posix().removeprefix("configs/").removesuffix(".py")
    near = [k for k in known if k.startswith(f"{name}/") or Path(k).name == path.stem]
    near = near or [str(path.with_name(file)) for file in beside]
    near = near or difflib.get_close_matches(name, known, 2, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"


def _check_argument(name: str, get_config: Callable[..., Any], argument: str | None) -> None:
    """Raises ConfigError where get_config wants an argument behind its name and has none, or the other way."""
    parameters = inspect.signature(get_config).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if required and not argument:
        raise ConfigError(
            f"{name} needs a {required[0]} behind its name: --config {name}:{required[0].upper()}"
        )
    if argument is not None and not parameters:
        raise ConfigError(f"{name} takes nothing behind its name; write --config {name}, without :{argument}")


def _message(error: Exception) -> str:
    """The error's own words. ml_collections puts some in quotes, and lists a whole group at a wrong key."""
    text = str(error)
    with contextlib.suppress(ValueError, SyntaxError):
        text = str(ast.literal_eval(text))
    return re.sub(r' Other fields present: "\{.*\}"', ";", text)
