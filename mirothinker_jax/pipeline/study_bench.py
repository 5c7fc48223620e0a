"""A trained run's policy at the study's bench: series of episodes under interventions, each in a journal of its own.

The embedded web runs twice: with the run's noise, and quiet, where nothing goes wrong by itself. One process, whose
devices hold all parameters. Journals lie in a folder that is named for the checkpoint and for all settings that the
episodes depend on, so other ones never mix with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mirothinker_jax.agent.calls import Executor
from mirothinker_jax.agent.policy import Engine, evaluation_sampling
from mirothinker_jax.agent.setting import Setting, episode_setting
from mirothinker_jax.config import Config, WorldConfig, check
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import open_tokenizer, tokenizer_file
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import local_mesh
from mirothinker_jax.pipeline.inputs import padded_vocabulary
from mirothinker_jax.pipeline.prepare import turn_end_ids
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.tasks.graders import open_grader
from mirothinker_jax.tools.build import SERVERS, build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.trainer.checkpoint import check_identity, model_identity, restore_params
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trainer.steps import newest_step
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Trajectory
from mirothinker_jax.world.server import WorldServer

_LONG_SLOTS = (
    32  # of the cache for long walks, which takes as much room for each as all of an episode's tokens
)


class Bench:
    """Plays episodes. What it starts is stopped with the stack that it is given.

    Attributes:
      config: the run's, with its tokenizer named.
      policy: stage and step of the checkpoint, as a name.
      setting: the run's own, as its evaluation had it.
      folder: of the journals.
    """

    def __init__(self, config: Config, run: Path, stack: contextlib.ExitStack):
        """Raises ConfigError where there is no policy in the run, or not one of the embedded world."""
        check(
            config.tasks.source == "world" and config.tools.search_backend == "world",
            f"{run} was not trained on the embedded world, and the study asks that world's questions alone; give a run "
            "of configs/toy",
        )
        stage, self._step = _newest(config, run)
        path = config.tokenizer.path or str(run / "data" / "tokenizer.model")
        self.config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, path=path))
        self.tokenizer = open_tokenizer(path, config.tokenizer.template)
        vocab_size = padded_vocabulary(config.model.vocab_size, self.tokenizer)
        # A turn's tokens are few, and rows of a batch need not divide over the devices.
        model = dataclasses.replace(config.model, ffn_tokens=0)
        self._model = ModelSpec.build(model, vocab_size, local_mesh())
        identity = model_identity(config.model, vocab_size, tokenizer_file(path))
        check_identity(
            self._step, identity, f"put back the config.json and the tokenizer that {run} was made with"
        )
        self.policy = f"{stage}-{self._step.name}"
        self.folder = run / "study" / f"{self.policy}-{_digest(config)}"
        self.chat = Chat(self.tokenizer, {n: SERVERS[n] for n in config.tools.names}, config.data.call_format)
        self._executors = [self._open_tools(world, stack) for world in (config.world, quiet(config.world))]
        specs = self._specs
        self.setting = episode_setting(
            config.agent, specs, config.tools.output_tokens, config.data.call_format
        )
        self._grader = open_grader(config.tasks)
        self._end_ids = turn_end_ids(self.config, self.tokenizer)
        self._runner = asyncio.Runner()
        stack.callback(self._close)

    def _open_tools(self, world: WorldConfig, stack: contextlib.ExitStack) -> ToolExecutor:
        server = stack.enter_context(WorldServer(world, self.config.seed))
        tools = build_tools(self.config.tools, server.proxy_url, "")
        self._specs = [tool.spec for tool in tools]
        return ToolExecutor(tools, self.config.tools, self.tokenizer.truncate)

    def play(
        self,
        series: str,
        specs: Sequence[EpisodeSpec],
        *,
        setting: Setting | None = None,
        quiet: bool = False,
        calls: Callable[[Executor], Executor] = lambda executor: executor,
        turns: Callable[[Engine], Engine] = lambda engine: engine,
    ) -> list[Trajectory]:
        """The episodes of `specs`, in their order; what the journal of the series has is not played again.

        Args:
          setting: another one than the run's.
          quiet: on the web where nothing goes wrong by itself.
          calls, turns: interventions.

        Raises OutageError where the tools break too many.
        """
        path = self.folder / f"{series}.jsonl"
        history = History(path)
        if all(history.finished(spec.id) for spec in specs):
            return [history.require(spec.id) for spec in specs]
        path.parent.mkdir(parents=True, exist_ok=True)
        setting = setting or self.setting
        c = self.config
        runtime = Runtime(
            executor=calls(self._executors[quiet]),
            chat=self.chat,
            decode=self.tokenizer.decode,
            setting=setting,
            grader=self._grader,
            tries=c.tasks.tries,
            broken_share=c.tasks.broken_share,
        )
        sampling = evaluation_sampling(c.evaluation)
        device = self._device(setting.context_tokens)

        async def run() -> list[Trajectory]:
            with Journal(path) as journal, progress(len(specs), 0, f"study: {series}", "episode") as bar:
                async with LocalEngine(device) as sampler:
                    return await collect(
                        specs,
                        engine=turns(sampler),
                        runtime=runtime,
                        journal=journal,
                        history=history,
                        sampling=sampling,
                        done=lambda _: bar.update(1),
                    )

        return self._runner.run(run())

    def stage_episodes(self, run: Path) -> dict[str, list[Trajectory]]:
        """What the run itself played on held-out questions after each stage, as far as it did."""
        found = {
            s: list(History(run / s / "eval_trajectories.jsonl").trajectories()) for s in self.config.stages
        }
        return {stage: episodes for stage, episodes in found.items() if episodes}

    @functools.cache  # noqa: B019 (there is one bench in a process)
    def _device(self, context_tokens: int) -> Device:
        rollout = self.config.rollout
        if context_tokens > self.setting.context_tokens:
            rollout = dataclasses.replace(
                rollout,
                slots=min(rollout.slots, _LONG_SLOTS),
                prefill_slots=min(rollout.prefill_slots, _LONG_SLOTS),
            )
        device = Device(self._model, rollout, context_tokens, self._end_ids)
        device.load(restore_params(self._step, self._model))
        return device

    def _close(self) -> None:
        for executor in self._executors:
            self._runner.run(executor.aclose())
        self._runner.close()


def quiet(world: WorldConfig) -> WorldConfig:
    """The same world on a web where nothing goes wrong."""
    return dataclasses.replace(
        world, wrong_first_hit=0.0, dead_link=0.0, failing_call=0.0, slow_call=0.0, port=0
    )


def _newest(config: Config, run: Path) -> tuple[str, Path]:
    """The last stage that has a checkpoint, and the folder of its newest one."""
    for stage in reversed(config.stages):
        step = newest_step(run / stage / "checkpoints", set_aside=False)
        if step is not None:
            return stage, run / stage / "checkpoints" / str(step)
    stages = ", ".join(config.stages) or "no stage"
    check(False, f"{run} has no checkpoint of {stages}; train it first, or give another run as --from")
    raise AssertionError


def _digest(config: Config) -> str:
    """Of all that an episode of the study depends on besides the policy."""
    plain = to_plain(config)
    parts = [plain[key] for key in ("seed", "study", "world", "agent", "tools", "tasks", "evaluation")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
