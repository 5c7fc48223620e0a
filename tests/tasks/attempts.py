"""Attempts as graders see them, and tasks to go with them."""

from dataclasses import dataclass

from mirothinker_jax.tasks.types import Task

TASK = Task("t", "How high is it?", "330 m")


@dataclass(frozen=True)
class Said:
    """An episode that ended in this answer."""

    answer: str | None
    id: str = "t-0"

    def messages(self):
        return [{"role": "assistant", "content": f"\\boxed{{{self.answer}}}"}]
