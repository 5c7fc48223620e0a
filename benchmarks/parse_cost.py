"""What the worst text costs to read: a turn of 64 KB, parsed in both call formats and searched for its answer.

    python benchmarks/parse_cost.py

A turn is read on the event loop, between hundreds of episodes: one that takes seconds stops them all, and a policy
under training writes anything. The texts are of two kinds. Attacks: units that make one part of the reader work (heads
without ends, braces, quotes, backslashes, boxes, thoughts), repeated in every frame that a call has. Drawn: units and
frames put together at random, from a seed; the slowest of them are changed a little, again and again, to be slower.

worst_ms_64k: the slowest text's time, parsing and boxing. Each of the slowest texts is timed again, and the least of
several times counts: the processor may be busy with other things, and a text is not to blame for that.
ratio: its time over that of its half, repeated: near 2 where the time is linear, 4 where it is quadratic.

Time is the process's own. Unusual: the search keeps what was slow, so more --tries find worse texts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version

from measuring import Options
from results import device, finish, table

from mirothinker_jax.agent.answer import boxed_answer
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.tools import hermes
from mirothinker_jax.tools.spec import CALL_TAGS

SIZE = 1 << 16
MCP_HEAD = "<use_mcp_tool>\n<server_name>s</server_name>\n<tool_name>t</tool_name>\n<arguments>\n"
FRAMES = {  # what stands around the units: nothing, a call of either format, a string in it, a thought, a box
    "bare": ("", ""),
    "mcp": (MCP_HEAD, "\n</arguments>\n</use_mcp_tool>"),
    "mcp string": (MCP_HEAD + '{"q": "', '"}\n</arguments>\n</use_mcp_tool>'),
    "hermes": ("<tool_call>\n", "\n</tool_call>"),
    "hermes name": ('<tool_call>\n{"name": "t", "arguments": ', "}\n</tool_call>"),
    "hermes string": ("<tool_call>\n{'name': 't', 'arguments': {'q': '", "'}}\n</tool_call>"),
    "hermes twice": ('<tool_call>\n{"name": "t", "arguments": "{', '"}\n</tool_call>'),
    "thought": ("<think>", "</think>"),
    "box": ("\\boxed{", "}"),
}
# fmt: off
UNITS = [
    *CALL_TAGS,
    *hermes.CALL_TAGS,
    *hermes.RESULT_TAGS,
    *("<think>", "</think>", "x<think>", "<think></think>", "<tool_response></tool_response><tool_response>"),
    *(MCP_HEAD, MCP_HEAD + "{}", MCP_HEAD + '{"a": "', "<tool_call>{}", '<tool_call>{"', '<tool_call>{":'),
    *("<tool_call>{", "<tool_call>{a:</tool_call>", "<tool_call>{'a': 1,}</tool_call>", '<tool_call>{\\"'),
    *("<use_mcp_tool><server_name>a</server_name><use_mcp_tool> </think>", '<tool_call>":"<tool_call>{","'),
    *("\\boxed{", "\\boxed{}", "\\boxed ", "\\boxed{{}", "{", "}", "{}", "}{", "[", "]", "[]", "(", "()", "\\{"),
    *('"', "'", '""', "''", '\\"', "\\'", "\\", "\\\\", "\\d", "\\n", "\\u12", "\\ud800", "\ud800", "\0", "`"),
    *("{'", "{a:", '{"x" ', '{"a":[', '{"a": "b" ', "{'q': 'x', ", '{"q": "say "x" ', "{a:}", "[(", "{(", "“"),
    *('":', '","', '":"', "a:b,", "1,", ",", ", ", ":", "1", "1e9", "null ", "None,", "True:", "//", "/*", "#", "'a' "),
    *(" ", "\n", "x", "word ", "é", "<", "</", ">"),
]
# fmt: on


def repeated(unit: str, size: int) -> str:
    """`unit` as often as it takes, cut to `size` characters."""
    return (unit * (size // len(unit) + 1))[:size]


def framed(frame: str, body: str, times: int, size: int) -> str:
    """A text of `size` characters: `times` frames, each around its share of the body, repeated."""
    head, tail = FRAMES[frame]
    share = max(size // times - len(head) - len(tail), 1)
    return (
        repeated(head + repeated(body, share) + tail, size)
        if times > 1
        else head + repeated(body, share) + tail
    )


def attacks() -> Iterator[tuple[str, str, int]]:
    """(frame, body, how many frames): every unit in every frame, in one large call and in many small ones."""
    for frame in FRAMES:
        for unit in UNITS:
            for body in (unit, "{" + unit if frame in ("mcp", "hermes") else unit):
                yield from ((frame, body, times) for times in (1, 30, 300, 3000))


def changed(shape: tuple[str, str, int], draw: random.Random) -> tuple[str, str, int]:
    """A shape near to this one."""
    frame, body, times = shape
    what = draw.randrange(4)
    if what == 0:
        return draw.choice(list(FRAMES)), body, times
    if what == 1:
        return frame, body, draw.choice((1, 2, 8, 30, 100, 300, 1000, 3000))
    place = draw.randrange(len(body) + 1)
    keep = body[place:] if what == 2 else body[place + draw.randrange(4) :]
    return frame, (body[:place] + draw.choice(UNITS) + keep)[:4000], times


def milliseconds(parse: str, text: str, times: int) -> float:
    """Processor time of one reading, the least of several."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        boxed_answer(WIRES[parse].parse(text).words)
        best = min(best, time.process_time() - start)
    return 1e3 * best


def slowest(tries: int, keep: int) -> list[tuple[float, str, tuple[str, str, int]]]:
    """The slowest shapes of the attacks, and of `tries` changes of those that were slowest, slowest first."""
    draw = random.Random(0)
    found: dict[tuple[str, tuple[str, str, int]], float] = {}

    def time_of(shape: tuple[str, str, int]) -> None:
        text = framed(*shape[:2], shape[2], SIZE)
        for parse in WIRES:
            if (parse, shape) not in found:
                found[parse, shape] = milliseconds(parse, text, 1)

    for shape in attacks():
        time_of(shape)
    for number in range(tries):
        if number % 50 == 0:
            best = sorted(found, key=lambda key: -found[key])[: 2 * keep]
        time_of(changed(draw.choice(best)[1], draw))
    # What was slow once may have been unlucky.
    most = sorted(found, key=lambda key: -found[key])[: 8 * keep]
    again = [(milliseconds(key[0], framed(*key[1][:2], key[1][2], SIZE), 5), *key) for key in most]
    return sorted(again, key=lambda item: -item[0])[:keep]


def main() -> None:
    parser = Options(__doc__)
    parser.add("tries", 2000, "texts drawn after the attacks")
    parser.add("keep", 12, "rows of the table")
    options = parser.parse_args()
    rows = []
    for took, parse, (frame, body, times) in slowest(options.tries, options.keep):
        half = milliseconds(parse, framed(frame, body, max(times // 2, 1), SIZE // 2), 5)
        rows.append(
            {
                "ms": round(took, 2),
                "ratio": round(took / half, 2),
                "format": parse,
                "frame": frame,
                "frames": times,
                "body": json.dumps(body if len(body) < 60 else f"{body[:60]}…"),
            }
        )
    print(table(tuple(rows[0]), [tuple(str(value) for value in row.values()) for row in rows]))
    finish(
        "parse_cost",
        {
            "worst_ms_64k": rows[0]["ms"],
            "chars": SIZE,
            "tries": options.tries,
            "rows": rows,
            "python": sys.version.split()[0],
            "json_repair": version("json_repair"),
            "device": device(),
        },
    )


if __name__ == "__main__":
    main()
