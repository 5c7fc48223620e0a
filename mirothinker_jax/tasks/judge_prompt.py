"""What a judge is asked: a template with a question, its reference and a response in it.

A response is the words of a policy that is paid for persuading: it goes in as a JSON string, cut, without control
tokens. Judges pass ":" and "Thought process:" far too often (arXiv 2507.08794), so these are not put to them. Not safe:
a response that argues may still persuade a judge.
"""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

from mirothinker_jax.config import check
from mirothinker_jax.tasks.judge_readings import Reading
from mirothinker_jax.tasks.rules import says_nothing
from mirothinker_jax.tasks.types import Task

RESPONSE_CHARS = 4_000  # of a response, at most
_PLACES = re.compile(r"\{(question|answer|response)\}")
# Of the chat formats in use: <|im_end|>, <｜User｜>, </s>, <start_of_turn>, [INST], <think>, <tool_call>.
_CONTROL_TOKENS = re.compile(
    r"<[|｜][^<>|｜]{0,80}[|｜]>|</?(?:s|bos|eos|pad|unk|think|thinking|tool_call|tool_response|(?:start|end)_of_turn)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>",
    re.IGNORECASE,
)
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn")
_JOINERS = "\u200c\u200d"  # invisible, and letters need them


def read_prompt(file: str, reading: Reading) -> str:
    """The template in `file`, or the reading's own. Raises ConfigError where it lacks a place, or asks for no verdict
    of the reading's words."""
    path = Path(file) if file else Path(__file__).with_name(reading.template)
    try:
        prompt = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        prompt, reason = "", f"cannot be read ({error})"
    else:
        lacks = [f"{{{name}}}" for name in ("question", "answer", "response") if f"{{{name}}}" not in prompt]
        # \b would not do beside Chinese letters, which are letters of a word.
        edges = r"(?<![A-Za-z]){}(?![A-Za-z])"
        lacks += [f"the word {w}" for w in reading.words if not re.search(edges.format(w), prompt)]
        reason = f"lacks {', '.join(lacks)}" if lacks else ""
    check(
        not reason, f"tasks.judge_prompt_file: {file} {reason}; the built-in one is tasks/{reading.template}"
    )
    return prompt


def rendered(prompt: str, task: Task, answer: str) -> str:
    """The prompt with a task and an answer in its places."""
    cut = answer if len(answer) <= RESPONSE_CHARS else f"{answer[:RESPONSE_CHARS]} […]"
    fields = {
        "question": _without_control(task.question),
        "answer": _without_control(task.answer),
        "response": json.dumps(_without_control(cut), ensure_ascii=False),
    }
    return _PLACES.sub(lambda place: fields[place[1]], prompt)


def is_bait(answer: str) -> bool:
    """Whether an answer says nothing: punctuation alone, or an announcement that nothing follows."""
    text = answer.strip(" \t\r\n*_$\\{}\"'")
    words = [char for char in text if not char.isspace() and unicodedata.category(char)[0] not in "PCZ"]
    return says_nothing(answer) or not words or text[-1] in ":："


def _without_control(text: str) -> str:
    """Without control tokens and invisible characters. A space stands for each, so that no two pieces make a token."""
    visible = (
        char if char in "\n\t" or char in _JOINERS or unicodedata.category(char) not in _INVISIBLE else " "
        for char in text
    )
    return _CONTROL_TOKENS.sub(" ", "".join(visible))
