"""A thousand random conversations for each family and call format: our ids beside the official template's.

Where nothing of `DIFFERENCES` applies, the ids must be those of the official template as it is. Where something does,
they must not be, and must be those of the template with that one thing changed: each difference is stated as a change
of the messages or of the template, below.
"""

import collections
import json
import random
import re

import jinja2
import pytest
from official_templates import (
    HIDDEN,
    SPELLED,
    Official,
    Written,
    keeping_thoughts,
    qwen3_instruct_2507,
    qwen3_thinking_2507,
    renderer,
)

from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.templates import TEMPLATES

CONVERSATIONS = 1000
SERVERS = {"find": "web", "run": "python"}
STRUCTURE = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_response>", "</tool_response>")
# The "<" of a tag that a parser of calls would take for its own.
CALL_TAGS = {
    "hermes": re.compile(r"<(?=/?(?:think|tool_call|tool_response)>)"),
    "mcp": re.compile(r"<(?=/?(?:think|use_mcp_tool|server_name|tool_name|arguments)>)"),
}
SCHEMAS = [
    {
        "type": "function",
        "function": {"name": name, "description": "Läuft <b>", "parameters": {"type": "object"}},
    }
    for name in SERVERS
]
# What merges: newlines and spaces at the ends, letters and marks that NFC joins.
PIECES = [
    *(
        "",
        "",
        "\n",
        "\n\n",
        " ",
        "  ",
        "\t",
        "\r\n",
        " \n",
        "\n ",
        "a",
        "b c",
        "1 234",
        "中文",
        "'s",
        ".",
        "<",
        ">",
        "|",
    ),
    *("e\u0301", "\u0301", "\u0338", "<a>", "</b>", "{", "}\n", "Kathmandu", "😀", "\\boxed{4390}"),
]
NULL = "null content is empty"  # with which Qwen3's template fails
# What differs on purpose, and for which template and call format it can.
DIFFERENCES = {
    "thoughts of all turns stay": lambda template, _: template.tidies,
    "text beside a thought stays": lambda template, _: template.tidies,
    "an empty reasoning_content is none": lambda template, _: template.tidies,
    "reasoning_content is written": lambda template, _: not template.tidies,
    NULL: lambda template, call_format: (template.name, call_format) == ("qwen3", "hermes"),
    "arguments that are a string are not quoted again": lambda template, call_format: (
        (template.name, call_format) == ("qwen2.5", "hermes")
    ),
    "a tag within an argument is the argument's": lambda *_: True,
    "text from outside makes no added token": lambda *_: True,
    "an assistant's text makes no token of a conversation's structure": lambda *_: True,
}
TAGS = ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<tool_call>", "<tool_response>", "<|fim_pad|>"]


def text(rng, tags):
    pieces = rng.choices(PIECES, k=rng.randint(1, 4))
    if rng.random() < tags:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(TAGS))
    return "".join(pieces)


def said(rng):
    """An assistant's content and its thought."""
    content, thought = text(rng, 0.01), rng.choice(["t", "look it up", "a\n\nb", " \n t\n", "\nt "])
    return rng.choices(
        [
            {"content": content},
            {"content": f"<think>\n{thought}\n</think>\n\n{content}"},
            {"content": f"<think>{thought}</think>{content}"},
            {"content": f"{thought}</think>{content}"},
            {"content": f"<think>\n\n</think>\n\n{content}"},
            {"content": f"before<think>{thought}</think>{content}"},
            {"content": content, "reasoning_content": thought},
            {"content": content, "reasoning_content": ""},
            {"content": f"<think>{thought}</think>{content}", "reasoning_content": ""},
        ],
        [8, 3, 2, 1, 1, 0.3, 2, 0.3, 0.1],
    )[0]


def conversation(rng):
    """Messages of a system, questions, turns with calls and their results, and answers."""
    system = lambda: {"role": "system", "content": text(rng, 0.02)}  # noqa: E731
    messages = [system()] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text(rng, 0.02)})
        for _ in range(rng.choice([0, 0, 1, 2])):
            calls = []
            for _ in range(rng.randint(1, 2)):
                arguments = {} if rng.random() < 0.2 else {"q": text(rng, 0.02), "n": rng.randint(0, 9)}
                if rng.random() < 0.1:
                    arguments = json.dumps(arguments, ensure_ascii=False, separators=(",", ": "))
                calls.append(
                    {"type": "function", "function": {"name": rng.choice([*SERVERS]), "arguments": arguments}}
                )
            messages.append({"role": "assistant", **said(rng), "tool_calls": calls})
            if rng.random() < 0.1:
                messages[-1]["content"] = None
            messages += [{"role": "tool", "content": text(rng, 0.02)} for _ in calls]
        messages.append({"role": "assistant", **said(rng)})
        if rng.random() < 0.05:
            messages.append(system())
    if rng.random() < 0.1:
        messages.pop()
    return messages


def in_mcp_terms(messages):
    """Results of a turn as one user message, calls as text: what MiroThinker's format makes of any template."""
    plain = []
    for i, message in enumerate(messages):
        if message["role"] == "tool" and messages[i - 1]["role"] == "tool":
            plain[-1]["content"] += f"\n{message['content']}"
        elif message["role"] == "tool":
            plain.append({"role": "user", "content": message["content"]})
        else:
            plain.append({k: v for k, v in message.items() if k != "tool_calls"})
            for call in message.get("tool_calls", []):
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                if isinstance(arguments, str) and not isinstance(arguments, Written):
                    arguments = json.loads(arguments)
                if not isinstance(arguments, Written):
                    arguments = json.dumps(arguments, ensure_ascii=False)
                said = plain[-1]["content"] or ""
                said += "\n\n" if said and not said.endswith("\n\n") else ""
                plain[-1]["content"] = said + (
                    f"<use_mcp_tool>\n<server_name>{SERVERS[name]}</server_name>\n<tool_name>{name}</tool_name>\n"
                    f"<arguments>\n{arguments}\n</arguments>\n</use_mcp_tool>"
                )
    return plain


def changed(messages, family, call_format, added):
    """(messages as the changed template must get them, what of the differences on purpose they have)."""
    names, structure = ("|".join(map(re.escape, s)) for s in (added, added & {*STRUCTURE}))
    names, structure = re.compile(names), re.compile(structure)
    spell = lambda match: match[0].replace("<", f"<{SPELLED}", 1)  # noqa: E731
    tidies, found, new = family in ("qwen3", "qwen3-thinking-2507"), set(), []
    questions = [
        i
        for i, m in enumerate(messages)
        if m["role"] == "user" or (m["role"], call_format) == ("tool", "mcp")
    ]
    for i, message in enumerate(messages):
        message = dict(message)
        if message["role"] != "assistant":
            if names.search(message["content"]):
                found.add("text from outside makes no added token")
                message["content"] = names.sub(spell, message["content"])
            new.append(message)
            continue
        content, thought = message["content"] or "", message.get("reasoning_content")
        if structure.search(content + (thought or "")):
            found.add("an assistant's text makes no token of a conversation's structure")
            content = structure.sub(spell, content)
        if message["content"] is None and (family, call_format) == ("qwen3", "hermes"):
            found.add(NULL)
        if thought == "":
            del message["reasoning_content"]
            if "</think>" in content and tidies:
                found.add("an empty reasoning_content is none")  # else the content's thought is not seen
            thought = None
        if thought and not tidies:
            found.add("reasoning_content is written")
            content = "<think>\n" + thought.strip("\n") + "\n</think>\n\n" + content.lstrip("\n")
            del message["reasoning_content"]
        if tidies and thought is None and "</think>" in content:
            before, said = content.split("</think>", 1)
            inner = before.lstrip("\n").removeprefix("<think>")
            if "<think>" in inner or "</think>" in said:
                found.add("text beside a thought stays")
                content, message["as_is"] = content.replace("think>", f"{HIDDEN}think>"), True
            elif i < max(questions, default=-1) or (not inner.strip("\n") and i < len(messages) - 1):
                found.add("thoughts of all turns stay")
        if tidies and thought and i < max(questions, default=-1):
            found.add("thoughts of all turns stay")
        message["content"] = content
        calls = []
        for call in message.get("tool_calls", []):
            arguments = call["function"]["arguments"]
            if isinstance(arguments, str) and family == "qwen2.5" and call_format == "hermes":
                found.add("arguments that are a string are not quoted again")
            as_json = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            if call_format == "mcp":
                as_json = json.dumps(json.loads(as_json), ensure_ascii=False)
            if CALL_TAGS[call_format].search(as_json):
                found.add("a tag within an argument is the argument's")
                as_json = CALL_TAGS[call_format].sub(r"\\u003c", as_json)
            if structure.search(as_json):
                found.add("an assistant's text makes no token of a conversation's structure")
                as_json = structure.sub(spell, as_json)
            calls.append({"function": {"name": call["function"]["name"], "arguments": Written(as_json)}})
        if calls:
            message["tool_calls"] = calls
        new.append(message)
    return new, found


FAMILIES = {
    "qwen2.5": lambda template: template,
    "qwen3": lambda template: template,
    "qwen3-instruct-2507": qwen3_instruct_2507,
    "qwen3-thinking-2507": qwen3_thinking_2507,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """(name, codec, the official tokenizer, its template, the template with what differs on purpose)."""
    older = request.param == "qwen2.5"
    codec = request.getfixturevalue("qwen2_5" if older else "qwen")
    official = Official(request.getfixturevalue("qwen2_5_folder" if older else "qwen_folder"))
    template = FAMILIES[request.param](official.template)
    keeping = keeping_thoughts(template) if TEMPLATES[request.param].tidies else template
    return request.param, codec, official, renderer(template), renderer(keeping)


@pytest.mark.parametrize("call_format", ["mcp", "hermes"])
def test_a_thousand_conversations(family, call_format):
    name, codec, official, exact, keeping = family
    chat = Chat(codec, SERVERS, call_format, TEMPLATES[name])
    newline = codec.encode("\n")
    own_terms = in_mcp_terms if call_format == "mcp" else list
    rng, counts = random.Random(f"{name} {call_format}"), collections.Counter()
    for _ in range(CONVERSATIONS):
        messages = conversation(rng)
        tools = SCHEMAS if call_format == "hermes" and rng.random() < 0.5 else None
        ours = [*chat.render(messages, tools).tokens.tolist(), *newline]
        rewritten, differences = changed(messages, name, call_format, official.added.keys())
        counts.update(differences)
        if differences:
            assert ours == official.ids_of_marked(keeping(own_terms(rewritten), tools)), (
                differences,
                messages,
            )
        if NULL in differences:
            with pytest.raises((TypeError, jinja2.UndefinedError)):
                exact(own_terms(messages), tools)
            continue
        theirs = official.ids(exact(own_terms(messages), tools))
        assert (ours == theirs) == (not differences), (differences, messages)
        counts["equal"] += not differences
    assert counts.pop("equal") > CONVERSATIONS / 4
    assert counts.keys() == {d for d, where in DIFFERENCES.items() if where(TEMPLATES[name], call_format)}
