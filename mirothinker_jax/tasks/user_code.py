"""A function of the user's own, named as MODULE:FUNCTION in the settings.

The module is found as Python finds it, and in the working directory, which goes to the end of the search path and
stays there: what the module imports later is found, too, and nothing of ours is hidden.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ConfigError, check


def load_function(key: str, name: str) -> Callable[..., Any]:
    """What `name`, MODULE:FUNCTION, stands for.

    Args:
      key: of the setting that names it, for errors.

    Raises:
      ConfigError: no such module or function, or an error in it. One line.
    """
    module_name, _, function_name = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        raise ConfigError(
            f"{key} is {name!r}, and there is no module {error.name!r} in {folder} or PYTHONPATH; start from its folder"
            if own
            else f"{key} is {name!r}, which imports {error.name!r}, and that is not installed: {_place(error)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key} is {name!r}, which cannot be imported: {reason(error)}") from error
    function = getattr(module, function_name, None)
    names = ", ".join(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
    check(
        callable(function),
        f"{key} is {name!r}, and {module.__file__} has no function {function_name!r}; it has {names or 'none'}",
    )
    assert function is not None
    return function


def reason(error: BaseException) -> str:
    """An error of the user's code in one line: what it is and where.

    >>> reason(ValueError("not\\na number"))
    'ValueError: not a number'
    """
    text = " ".join(str(error).split())[:300]
    place = _place(error)
    return f"{type(error).__name__}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """FILE:LINE of the innermost frame that is neither Python's own nor ours; "" where there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    others = ("<", str(Path(__file__).parents[1]), str(Path(os.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
