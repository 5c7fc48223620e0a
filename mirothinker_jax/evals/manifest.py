"""What an evaluation was made with: whatever changes its figures, and what may be another when it goes on.

manifest.json lies beside the episodes. A start that would mix two experiments in one folder is refused by name. More
questions and more runs are welcome: the episodes that are there stay what they are.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax import __version__
from mirothinker_jax.config import FREE_SETTINGS, Config, ConfigError, check
from mirothinker_jax.config_tree import difference, flat, to_plain
from mirothinker_jax.data.atomic import write_json
from mirothinker_jax.tasks.types import Task

NAME = "manifest.json"

_DECIDES = (
    *("seed", "agent.", "tools.", "tasks.", "world.", "data.call_format"),
    *("evaluation.temperature", "evaluation.top_p", "evaluation.repetition_penalty"),
)
_OF_MODELS = ("model.", "tokenizer.template", "rollout.deterministic")
_FREE = (
    *FREE_SETTINGS,
    "tasks.train",
    "tasks.heldout",
    "model.init_from",
)  # the questions have digests of their own


def make_manifest(
    config: Config, tasks: Sequence[Task], prompt: str, runs: int, chars_per_token: float | None
) -> dict[str, Any]:
    """What decides the figures.

    Args:
      prompt: what a policy is told before the question.
      chars_per_token: of an endpoint; None for a model of which the config tells.
    """
    decides = _DECIDES if chars_per_token else (*_DECIDES, *_OF_MODELS)
    settings = {
        key: value
        for key, value in flat(to_plain(config)).items()
        if key.startswith(decides) and not key.startswith(_FREE)
    }
    if chars_per_token:
        settings["chars_per_token"] = chars_per_token
    files = {
        key: _digest(Path(value).read_bytes()) for key, value in settings.items() if _is_file(key, value)
    }
    return {
        "version": __version__,
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "runs": runs,
        "settings": settings,
        "files": files | {"agent's prompt": _digest(prompt.encode("utf-8", "surrogatepass"))},
        "policy": {},
        "tasks": {task.id: _digest_of_task(task) for task in tasks},
    }


def check_manifest(folder: Path, new: dict[str, Any], may_change: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest to write: `new`, with what is known from the starts before. Settings whose names begin with one of
    `may_change` may have changed.

    Raises ConfigError where the folder has episodes of other settings, or of other questions under the same ids.
    """
    known = read_manifest(folder)
    if known is None:
        return new
    changed = difference(known["settings"], new["settings"])
    files = [key for key, digest in new["files"].items() if known["files"].get(key, digest) != digest]
    changed += [f"{key}: says something else now" for key in files]
    _refuse(folder, [setting for setting in changed if not setting.startswith(may_change or "\0")])
    if new["policy"]:
        check_policy(folder, known["policy"], new["policy"])
    others = [task for task, digest in new["tasks"].items() if known["tasks"].get(task, digest) != digest]
    check(
        not others,
        f"{folder} has episodes of another question with the id {others[0] if others else ''!r}; give the new one "
        "another id, or give another --out",
    )
    tasks = known["tasks"] | new["tasks"]
    kept = {"policy": new["policy"] or known["policy"], "began": known["began"]}
    return new | kept | {"tasks": tasks, "runs": max(known["runs"], new["runs"])}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder's episodes were made with; None where there is nothing. Raises ConfigError for a damaged one."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        known = {name: dict(old[name]) for name in ("settings", "files", "policy", "tasks")}
        return known | {"runs": int(old["runs"]), "began": str(old["began"])}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{path}: cannot be read; remove {folder}, or give another --out, to begin anew"
        ) from None


def check_policy(folder: Path, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ConfigError where the folder's episodes are another policy's."""
    if known:
        _refuse(folder, [f"policy.{line}" for line in difference(known, now)])


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes it, as a whole or not at all."""
    write_json(folder / NAME, manifest)


def _refuse(folder: Path, changed: Sequence[str]) -> None:
    lines = [line if len(line) <= 200 else f"{line[:200]}…" for line in changed[:5]]
    check(
        not changed,
        f"{folder} was made with other settings ({'; '.join(lines)}); give another --out, or the settings it was made "
        "with",
    )


def _is_file(key: str, value: Any) -> bool:
    return key.endswith("_file") and bool(value)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_of_task(task: Task) -> str:
    said = json.dumps([task.question, task.answer])
    files = [(Path(file).name, _digest(Path(file).read_bytes())) for file in task.files]
    return _digest(f"{said}{files}".encode())
