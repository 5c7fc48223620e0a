"""What a journal must not show, however often those who wrote it were stopped."""

import collections
import json


def assert_done_once(path):
    """No finished turn was sampled again, no call that had an answer made again, no episode ended twice."""
    lines = [json.loads(line[9:]) for line in path.read_text("utf-8").splitlines()]
    kinds = {"turn": ("episode", "context"), "call": ("episode", "request", "asked"), "end": ("episode",)}
    for kind, names in kinds.items():
        done = [e for e in lines if e["event"] == kind and not e.get("failure") and not e.get("changes")]
        counts = collections.Counter(tuple(e[name] for name in names) for e in done)
        assert max(counts.values()) == 1, (kind, counts.most_common(3))
