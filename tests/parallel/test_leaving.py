"""How a process ends that finds another one gone."""

import jax
import pytest

from mirothinker_jax.parallel import processes

GLOO = (
    "UNKNOWN: Gloo AllGather failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer "
    "[127.0.0.1]:22180"
)


@pytest.mark.parametrize(
    ("text", "several", "code"),
    [(GLOO, True, 1), (GLOO, False, None), ("INVALID_ARGUMENT: shapes differ", True, None)],
    ids=["gone", "alone", "another error"],
)
def test_that_another_is_gone_is_one_line(monkeypatch, capsys, text, several, code):
    left = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: several)
    monkeypatch.setattr(processes, "LAUNCHER_S", 0.0)
    monkeypatch.setattr(processes, "leave_others", left.append)
    processes.leave_after_another(ValueError(text))
    assert left == ([] if code is None else [code])
    said = capsys.readouterr().err
    assert said == (
        "" if code is None else "error: another process of this run has ended; its own lines say why\n"
    )
