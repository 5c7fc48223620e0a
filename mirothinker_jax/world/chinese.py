"""The questions of questions.py in Chinese, over the same pages: what a policy makes of a language it was not taught.

Titles stay as the pages have them. The names of relations and attributes are Chinese too, or, with `frame_only`, as the
pages have them: then only the words around them are foreign. The names of lines (lines.py) are names.
"""

from __future__ import annotations

from mirothinker_jax.world.question import Question

WORDS = {
    "north": "向北",
    "south": "向南",
    "east": "向东",
    "west": "向西",
    "nearest": "最近",
    "farthest": "最远",
    "higher": "更高",
    "lower": "更低",
    "larger": "更大",
    "smaller": "更小",
    "more-populous": "人口更多",
    "less-populous": "人口更少",
    "longest-border": "边界最长",
    "shortest-border": "边界最短",
    "city": "城市",
    "elevation": "海拔",
    "icao": "四字代码",
    "capital": "首都",
    "internet code": "互联网代码",
}


def in_chinese(question: Question, frame_only: bool = False) -> str:
    """The question's text.

    >>> in_chinese(Question("", "", "", 1, "train", "KTM", ("KTM", "PKR"), ("west",), "city"))
    '从KTM出发，依次：向西。查找城市。'
    """

    def word(name: str) -> str:
        return name if frame_only else WORDS.get(name, name)

    if not question.relations:
        return f"查找{question.start}的{word(question.attribute)}。"
    way = (" " if frame_only else "、").join(map(word, question.relations))
    return f"从{question.start}出发，依次：{way}。查找{word(question.attribute)}。"
