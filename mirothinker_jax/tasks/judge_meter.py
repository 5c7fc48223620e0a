"""What a judge costs, and where it stops: requests, tokens and money, of this process.

Tokens are those that the endpoint reports, else an estimate from the text. Not safe: what costs money is known when it
is spent, so requests that are under way when the ceiling is reached still end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mirothinker_jax.config import TasksConfig


@dataclass
class Meter:
    """Counts of one judge. The ceilings are those of its settings, 0 for none."""

    settings: TasksConfig
    calls: int = 0  # requests, repeated ones included
    remembered: int = 0  # verdicts that took no request
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def cost(self) -> float:
        """In the currency of the settings' prices."""
        return cost(self.settings, self.input_tokens, self.output_tokens)

    def refusal(self) -> str:
        """Why no further request may be made; "" where one may."""
        s = self.settings
        if s.judge_max_calls and self.calls >= s.judge_max_calls:
            return f"tasks.judge_max_calls={s.judge_max_calls} is reached; raise it and start again"
        if s.judge_max_cost and self.cost >= s.judge_max_cost:
            return f"tasks.judge_max_cost={s.judge_max_cost:g} is reached; raise it and start again"
        return ""

    def add(self, prompt: str, completion: Any, said: str) -> None:
        """Counts a request's tokens: by the `usage` of its completion, else by its texts."""
        usage = completion.get("usage") if isinstance(completion, dict) else None
        usage = usage if isinstance(usage, dict) else {}
        self.input_tokens += _count(usage.get("prompt_tokens"), prompt)
        self.output_tokens += _count(usage.get("completion_tokens"), said)


def cost(settings: TasksConfig, input_tokens: int, output_tokens: int) -> float:
    """Of so many tokens, at the prices of the settings."""
    return (input_tokens * settings.judge_input_price + output_tokens * settings.judge_output_price) / 1e6


def about_tokens(text: str) -> int:
    """How many tokens a text has, roughly: four ASCII characters make one, and of other scripts each is one.

    >>> about_tokens("four words of English"), about_tokens("结论：正确")
    (6, 5)
    """
    ascii_chars = sum(char < "\x80" for char in text)
    return -(-ascii_chars // 4) + len(text) - ascii_chars


def _count(reported: Any, text: str) -> int:
    whole = isinstance(reported, int) and not isinstance(reported, bool) and reported >= 0
    return reported if whole else about_tokens(text)
