"""What a page says about something, by a language model behind an OpenAI-compatible endpoint.

The page goes into a prompt (extract.txt, or the user's own file) as one user message; thoughts are cut from the
answer. A page that the endpoint finds too long is sent again, shorter. What the endpoint says goes to the policy as
any tool's text does, and the page may have told it what to say. Not safe against that: nothing is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools.chat_api import api_base, key_header, read_answer, said_text
from mirothinker_jax.tools.readable import Page
from mirothinker_jax.tools.spec import ToolError

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

RESULT_CHARS = 100_000
_PAGE_CHARS = (409_600, 102_400, 25_600)  # of a page; what is refused as too long is cut to the next
_TOO_LONG = (400, 413, 422)
_PLACES = re.compile(r"\{(information|title|page)\}")


class ExtractionFailed(Exception):
    """The endpoint is down, refuses, or answers nothing."""


class Extractor:
    """A model at settings.extractor_url. Raises ConfigError for a prompt file that cannot be used."""

    def __init__(self, client: WebClient, settings: ToolsConfig, api_key: str):
        self._client = client
        self._url = f"{api_base(settings.extractor_url)}/chat/completions"
        self._model = settings.extractor_model
        self._headers = key_header(api_key)
        self._prompt = _prompt(settings.extractor_prompt_file)

    async def extract(self, page: Page, wanted: str, request_id: str) -> str:
        """What the model finds, at most RESULT_CHARS characters. Raises ExtractionFailed."""
        text, status = "\n".join(page.lines), 0
        for chars in _PAGE_CHARS:
            fields = {"information": wanted, "title": page.title, "page": text[:chars]}
            prompt = _PLACES.sub(lambda place, fields=fields: fields[place[1]], self._prompt)
            body = {"model": self._model, "messages": [{"role": "user", "content": prompt}]}
            try:
                response = await self._client.send(
                    "POST", self._url, request_id, self._headers, json=body, service=True
                )
            except ToolError as error:
                raise ExtractionFailed(str(error)) from error
            status = response.status_code
            if status == 200:
                return _answer(response.content)
            if status not in _TOO_LONG:
                break
        raise ExtractionFailed(f"HTTP {status}")

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.aclose()


def _answer(content: bytes) -> str:
    text = said_text(read_answer(content))
    if text is None:
        raise ExtractionFailed("an answer without choices[0].message.content")
    if not text:
        raise ExtractionFailed("an empty answer")
    return text[:RESULT_CHARS]


def _prompt(file: str) -> str:
    path = Path(file) if file else Path(__file__).with_name("extract.txt")
    try:
        prompt = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        prompt, reason = "", f"cannot be read ({error})"
    else:
        missing = {"information", "page"} - {place[1] for place in _PLACES.finditer(prompt)}
        reason = f"lacks {', '.join(f'{{{name}}}' for name in sorted(missing))}" if missing else ""
    check(not reason, f"tools.extractor_prompt_file: {file} {reason}; the built-in one is tools/extract.txt")
    return prompt
