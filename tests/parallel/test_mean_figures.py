"""Figures of several processes become those of the run."""

import json

from mirothinker_jax.parallel import processes


def test_means_are_over_those_that_have_the_figure(monkeypatch):
    """One process may repeat a step from its record, which another one samples."""
    others = {"reward": 1.0, "staleness/max": 1.0}
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "gather_texts", lambda text: [json.dumps(others), text])
    figures = {"reward": 0.5, "staleness/max": 3.0, "rollout/seconds": 8.0}
    expected = {"reward": 0.75, "rollout/seconds": 8.0, "staleness/max": 3.0}
    assert processes.mean_figures(figures) == expected
