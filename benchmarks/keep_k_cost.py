"""How many tokens a long episode with edited contexts is to train: a row for each turn, against trunks with branches.

    python benchmarks/keep_k_cost.py

Tokens are counted, nothing is trained. The two policies are the last K results kept at every turn, and a pile that is
cut to K where it is higher than HIGH. `trunk_tokens` and `hysteresis_trunk_tokens` are for a row that holds an episode
whole. `row_tokens` and `hysteresis_row_tokens` are for rows of the given length, each of which repeats the part of the
trunk that its branches see.
That gradients are those of a row for each turn is tests/parallel/test_layouts.py's affair.
"""

from __future__ import annotations

import time

from measuring import Options
from results import device, finish, table

from mirothinker_jax.trajectory.tree import row_length, tree_rows
from mirothinker_jax.trajectory.types import Segment, Source, TurnContext

WHOLE = 1 << 40  # tokens of a row that holds anything


def episode(sizes, keep: int, high: int) -> tuple[list[Segment], list[TurnContext]]:
    """An episode of `sizes.calls` calls and an answer. Results beyond the last `keep` are hidden where more than `high`
    are shown."""
    segments: list[Segment] = []
    turns: list[TurnContext] = []

    def add(source: Source, tokens: int, hides: int | None = None) -> int:
        logprobs = (-1.0,) * tokens if source is Source.POLICY else ()
        segments.append(Segment(source, (0,) * tokens, (), logprobs, hides))
        return len(segments) - 1

    path, results, hidden = [add(Source.PROMPT, sizes.prompt)], [], 0
    for number in range(sizes.calls + 1):
        if number:
            results.append(len(path))
            path.append(add(Source.OBSERVATION, sizes.result))
            if len(results) - hidden > max(high, keep):
                for place in results[hidden:-keep]:
                    path[place] = add(Source.PLACEHOLDER, sizes.placeholder, path[place])
                hidden = len(results) - keep
        context = tuple(path)
        path.append(add(Source.POLICY, sizes.turn))
        turns.append(TurnContext(path[-1], context))
    return segments, turns


def tokens_in(segments: list[Segment], turns: list[TurnContext], row_tokens: int) -> tuple[int, int]:
    """(tokens, rows) of the trees."""
    rows = tree_rows(segments, turns, row_tokens)
    return sum(row_length(segments, row) for row in rows), len(rows)


def main() -> None:
    parser = Options(__doc__)
    parser.add("calls", 600, "tool calls of the episode")
    parser.add("prompt", 150, "tokens of the prompt")
    parser.add("turn", 150, "tokens of an assistant turn")
    parser.add("result", 1000, "tokens of a tool result")
    parser.add("placeholder", 14, "tokens of the line that stands for a hidden result")
    parser.add("keep", 5, "results that are kept")
    parser.add("high", 25, "with hysteresis, results that may pile up before they are cut to keep")
    parser.add("row", 262_144, "tokens of a row")
    sizes = parser.parse_args()
    figures: dict[str, object] = {}
    lines, begun = [], time.monotonic()
    for name, high in (("", 0), ("hysteresis_", sizes.high)):
        segments, turns = episode(sizes, sizes.keep, high)
        counts = [len(segment.tokens) for segment in segments]
        per_turn = sum(counts[i] for turn in turns for i in (*turn.context, turn.segment))
        whole, _ = tokens_in(segments, turns, WHOLE)
        cut, rows = tokens_in(segments, turns, sizes.row)
        figures |= {f"{name}per_turn_tokens": per_turn, f"{name}trunk_tokens": whole}
        figures[f"{name}row_tokens"], figures[f"{name}rows"] = cut, rows
        label = f"cut to {sizes.keep} at {high}" if high else f"the last {sizes.keep} kept"
        lines.append((label, *(f"{n:,}" for n in (per_turn, whole, cut, rows))))
    header = (f"{sizes.calls} calls", "a row a turn", "one trunk", f"rows of {sizes.row:,}", "rows")
    print(table(header, lines))
    figures["seconds"] = round(time.monotonic() - begun, 1)
    finish("keep_k_cost", figures | {"sizes": vars(sizes), "device": device()})


if __name__ == "__main__":
    main()
