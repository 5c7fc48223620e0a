"""Which family a model's own chat template belongs to, told by what it writes.

Unusual: the template's text is not compared. It is rendered on small conversations, as transformers renders it, and
the family is the one whose tokens, written out, are the same. So a template that was only reformatted is known, and
one that was changed is not taken for what it no longer is. Its default system message is read off what it writes.

Left out: what the families do differently on purpose (data/templates.py): no conversation here has a thought before
the last question. Not safe: a template is a program. It runs in jinja2's sandbox, without a limit of time.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.templates import CHATML, QWEN2_5, QWEN3, TEMPLATES, Template
from mirothinker_jax.data.tokenizer import TextCodec

_BY_MODEL_TYPE = {"qwen2": QWEN2_5, "qwen3": QWEN3, "qwen3_moe": QWEN3}
_WAY_OUT = f"choose one by tokenizer.template={'|'.join(TEMPLATES)}"
_DEFAULT_SYSTEM = re.compile(r"<\|im_start\|>system\n(.*?)<\|im_end\|>\n<\|im_start\|>user\n", re.DOTALL)
# A tag of transformers' own, which marks what an assistant says and writes nothing.
_GENERATION = re.compile(r"\{%(-?)(\s*(?:end)?generation\s*)(-?)%\}")
_logger = logging.getLogger(__name__)


def _said(role: str, content: str, *calls: str) -> dict[str, Any]:
    functions = [{"type": "function", "function": {"name": name, "arguments": {"a": 1}}} for name in calls]
    return {"role": role, "content": content} | ({"tool_calls": functions} if calls else {})


_QUESTION = [_said("system", " s\n"), _said("user", " q\n")]
_ANSWERS = (
    [*_QUESTION, _said("assistant", " a\n")],
    [*_QUESTION, _said("assistant", "a"), _said("user", "r"), _said("assistant", "<think>t</think>b")],
)
_ACTS = [
    *(_said("assistant", "c", "f", "g"), _said("tool", " r\n"), _said("tool", "")),
    *(_said("assistant", "<think>\nt\n</think>\n\n", "f"), _said("tool", "r"), _said("assistant", "", "f")),
    *(_said("tool", "r"), _said("assistant", "a")),
]
_CALLS = ([*_QUESTION, *_ACTS], [_QUESTION[1], *_ACTS])
_TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
]


def find_template(folder: Path, codec: TextCodec) -> Template:
    """The template that the model of `folder` was made for.

    From chat_template.jinja or tokenizer_config.json; where neither has one, from model_type in config.json; and
    CHATML where that is missing, too. What was found is logged.

    Raises:
      ConfigError: the template belongs to no known family; a file that is not readable.
    """
    file, source = _source(folder)
    if source is None:
        kind = _fields(folder / "config.json").get("model_type")
        template = _BY_MODEL_TYPE.get(kind, CHATML) if isinstance(kind, str) else CHATML
        _logger.info("chat template: %s (%s has none of its own)", template.name, folder)
        return template
    template = _recognise(source, codec, file)
    _logger.info("chat template: %s (%s)", template.name, file)
    return template


def _source(folder: Path) -> tuple[Path, str | None]:
    """Where the template is, and its text; None for none."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file, file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: not UTF-8 ({error}); repair it, or {_WAY_OUT}") from None
    file = folder / "tokenizer_config.json"
    source = _fields(file).get("chat_template")
    if isinstance(source, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
    if source is not None and not isinstance(source, str):
        raise ConfigError(f"{file}: chat_template: is {type(source).__name__}, not a string; {_WAY_OUT}")
    return file, source


def _fields(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        fields = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not JSON ({error}); repair it, or {_WAY_OUT}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{file}: not a JSON object; repair it, or {_WAY_OUT}")
    return fields


def _recognise(source: str, codec: TextCodec, file: Path) -> Template:
    try:
        write = _renderer(source)
        bare = write([_QUESTION[1]], None, True)
        answers = [write(messages, None, False) for messages in _ANSWERS]
    except Exception as error:  # whatever the program does
        why = " ".join(str(error).split())
        raise ConfigError(f"{file}: this chat template cannot be rendered ({why:.80}); {_WAY_OUT}") from None
    found = _DEFAULT_SYSTEM.match(bare)
    system = found[1] if found else None
    fitting = []
    for family in TEMPLATES.values():
        template = dataclasses.replace(family, system=system)
        chat = Chat(codec, call_format="hermes", template=template)
        ours = [f"{codec.decode(chat.render(messages).tokens.tolist())}\n" for messages in _ANSWERS]
        if ours == answers and codec.decode(chat.prompt(None, _QUESTION[1]["content"])) == bare:
            fitting.append((template, chat, (family.system is None) == (system is None)))
    if not fitting:
        raise ConfigError(f"{file}: this chat template is of no known family; {_WAY_OUT}")
    fitting.sort(key=lambda fit: not fit[2])
    try:
        calls = [write(messages, _TOOLS, False) for messages in _CALLS]
    except Exception:  # a template without tools, or with other ones
        calls = []
    for template, chat, _ in fitting:
        if calls == [f"{codec.decode(chat.render(m, _TOOLS).tokens.tolist())}\n" for m in _CALLS]:
            return template
    return dataclasses.replace(fitting[0][0], calls=False)


def _renderer(source: str) -> Callable[[Sequence[Mapping[str, Any]], object, bool], str]:
    """(messages, tools, whether the assistant is to speak) → the template's text, as transformers has it."""
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )

    def refuse(why: str) -> None:
        raise jinja2.TemplateError(why)

    env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    env.globals["raise_exception"] = refuse
    program = env.from_string(_GENERATION.sub(r"{#\1\2\3#}", source))
    return lambda messages, tools, prompt: program.render(
        messages=messages, tools=tools, add_generation_prompt=prompt
    )
