"""Fresh attempts at a question whose attempt ended without a boxed answer.

As in the released scaffold, an attempt that runs out of calls or of context is not asked for an answer while another
attempt is left: a guess would end the episode. The next one begins anew, with what the policy wrote down of those
before (v1.0, v1.5), or with the question alone (v1.7). What differs: the last fall-back is the last box of any attempt,
and not of the last attempt alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from mirothinker_jax.agent.prompt import fill


def attempt_prompt(restart_prompt: str, question: str, failures: Sequence[str]) -> str:
    """What the user says in an attempt, after attempts that left these summaries."""
    if not failures:
        return question
    listed = failures if len(failures) == 1 else [f"{i}. {text}" for i, text in enumerate(failures, start=1)]
    return fill(restart_prompt, question=question, failures="\n\n".join(listed))
