"""Command lines and config files of the tests: what is right, and the one line that a mistake ends in."""

from dataclasses import dataclass

import pytest

from mirothinker_jax import flags

GOOD = """
from mirothinker_jax import config

def get_config():
    c = config.default()
    c.seed = 3
    c.agent.context_tokens = c.grpo.training.get_ref("sequence_length")
    return c
"""


@dataclass(frozen=True)
class Small:
    """Optional values and a tuple of floats: not in Config yet, but the builder's promise."""

    limit: int | None = None  # none: no limit
    rates: tuple[float, ...] = (0.5,)


def fails(capsys, *argv):
    """The one line that a mistake ends in."""
    with pytest.raises(SystemExit) as stopped:
        flags.parse(argv)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert out == ""
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


def written(tmp_path, text, name="bad.py"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)
