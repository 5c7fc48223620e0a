"""Every setting of a run: frozen dataclasses, one per owner, each of which validates itself.

A config file returns `default()` (an ml_collections ConfigDict of the tree below) with some values
changed; `flags.py` applies `--config.key=value` and calls `build` (config_tree.py). Nothing here imports
jax, so that a mistyped key is reported before the seconds that jax takes to start. The comment at a field is
what `--help` says about it.

Sizes carry their unit in the name: `_tokens`, `_s`, `_chars`, `_rows`; a *row* is one packed sequence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from mirothinker_jax.config_agent import PRESETS, SAMPLING, AgentConfig
from mirothinker_jax.config_episodes import EvalConfig, RolloutConfig, StudyConfig, ToolsConfig, WorldConfig
from mirothinker_jax.config_model import EXECUTION as EXECUTION
from mirothinker_jax.config_model import LORA_TARGETS as LORA_TARGETS
from mirothinker_jax.config_model import REMAT as REMAT
from mirothinker_jax.config_model import ContextConfig as ContextConfig
from mirothinker_jax.config_model import LoRAConfig as LoRAConfig
from mirothinker_jax.config_model import ModelConfig as ModelConfig
from mirothinker_jax.config_model import MoEConfig as MoEConfig
from mirothinker_jax.config_model import YarnConfig as YarnConfig
from mirothinker_jax.config_objectives import DPOConfig as DPOConfig
from mirothinker_jax.config_objectives import GRPOConfig as GRPOConfig
from mirothinker_jax.config_tasks import TasksConfig as TasksConfig
from mirothinker_jax.config_training import OptimizerConfig as OptimizerConfig
from mirothinker_jax.config_training import TrainingConfig as TrainingConfig
from mirothinker_jax.config_tree import UNSET, one_of
from mirothinker_jax.config_tree import ConfigError as ConfigError
from mirothinker_jax.config_tree import build as build
from mirothinker_jax.config_tree import check as check

MESH_AXES = ("data", "fsdp", "context", "tensor", "expert")
STAGES = ("sft", "dpo", "grpo")
CALL_FORMATS = ("mcp", "hermes")
CHAT_TEMPLATES = (
    "auto",
    "chatml",
    "qwen2.5",
    "qwen3",
    "qwen3-instruct-2507",
    "qwen3-thinking-2507",
)  # data/templates.py

# Beginnings of the keys that may change when a run or an evaluation goes on: where services are, how often
# and how fast they are asked, what is written down, and how the same numbers are computed. A judge and an extractor
# are known by their names.
FREE_SETTINGS = (
    *("model.remat", "model.ffn_tokens", "model.context.", "world.port"),
    *("tools.deadline_s", "tools.concurrency", "tools.tool_concurrency", "tools.tool_rates", "tools.retries"),
    *("tools.breaker_", "tools.record", "tools.unsafe_sandbox", "tools.sandboxes", "tools.sandbox_cgroup"),
    *("tools.search_key_env", "tools.reader_key_env", "tools.extractor_key_env", "tools.sandbox_key_env"),
    *("tools.extractor_url", "tasks.judge_url", "tasks.judge_key_env", "tasks.judge_cache_file"),
    *("tasks.judge_concurrency", "tasks.judge_retries", "tasks.judge_timeout_s", "tasks.judge_deadline_s"),
    *("tasks.judge_max_", "tasks.judge_input_price", "tasks.judge_output_price"),
    *("tasks.grader_timeout_s", "tasks.tries", "tasks.broken_share"),
)


@dataclass(frozen=True)
class MeshConfig:
    """Devices per mesh axis; one axis may be -1: whatever the others leave."""

    data: int = 1  # replicas of the parameters; each takes other rows
    fsdp: int = -1  # parameters are split, and so are the rows
    context: int = 1  # a row's tokens are split
    tensor: int = 1  # heads and the feed-forward size are split
    expert: int = 1  # experts are split

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            check(size == -1 or size >= 1, f"{axis} is {size}; give ≥ 1, or -1 for the devices that are left")
        rest = [f"mesh.{axis}" for axis, size in sizes.items() if size == -1]
        check(
            len(rest) <= 1, f"{' and '.join(rest)} are all -1; only one axis may take the rest of the devices"
        )


@dataclass(frozen=True)
class TokenizerConfig:
    """`path` names a tokenizer; empty: one is trained on the run's own corpus."""

    # A sentencepiece *.model, a Hugging Face tokenizer.json or the folder that holds one; empty: trained by the run.
    path: str = ""
    # How a conversation is written. auto: as the template beside `path` has it, which must be one of the others;
    # chatml: nothing is added to what the messages say.
    template: str = "auto"
    vocab_size: int = 512  # of the one that is trained; fewer if the corpus is small
    # Strings that are always one token, besides the control tokens and the call tags (data/tokenizer.py).
    symbols: tuple[str, ...] = ()
    # Spaces end pieces ("San " + "Jose") instead of beginning them: a name has the same pieces after a space
    # as after a quote or a bracket, which is what a tiny model needs to copy it.
    space_suffix: bool = False

    def __post_init__(self):
        one_of("tokenizer.template", self.template, CHAT_TEMPLATES)
        check(self.vocab_size >= 300, f"tokenizer.vocab_size is {self.vocab_size}; bytes alone need 300")


@dataclass(frozen=True)
class DataConfig:
    """Where SFT conversations come from. Empty `path`: the scripted expert of the embedded world."""

    path: str = ""  # *.jsonl, *.jsonl.gz, *.parquet, *.arrayrecord (globs and commas), or tfds:NAME/SPLIT
    # Keys to drop from records and messages, which would otherwise be refused: thinking (wherever it stands),
    # messages.thinking, messages.tool_calls.strict, record.prompt.
    ignore: tuple[str, ...] = ()
    # Independent packed streams; a batch takes the same number of rows from each, so what is in a batch
    # does not depend on how many processes load it. Must be a multiple of the process count.
    shards: int = 4
    shuffle: bool = True  # a new order in each epoch, drawn from the seed
    # Other conversations, named as path's are, of which the loss is taken every sft.validate_every steps.
    validation_path: str = ""
    # Or this share of path's conversations (of the scripted expert's), which then is not trained on.
    validation_fraction: float = 0.0
    open_bins: int = 16  # rows that first-fit keeps open at once, per shard
    read_threads: int = 4  # 0: read in the training thread
    survey: bool = True  # render every conversation before the first step, so that what is wrong shows then
    # How calls are written, in the data and by the agent: mcp, MiroThinker's; hermes, Qwen's own.
    call_format: str = "mcp"

    def __post_init__(self):
        needed = ("messages", "role", "content", "messages.role", "messages.content")
        for key in self.ignore:
            check(
                key not in needed, f"data.ignore names {key!r}, without which there is no record; take it out"
            )
            check(
                "[" not in key, f"data.ignore names {key!r}; write it without numbers, as messages.thinking"
            )
        check(self.shards >= 1, f"data.shards is {self.shards}; it must be ≥ 1")
        check(self.open_bins >= 1, f"data.open_bins is {self.open_bins}; it must be ≥ 1")
        check(self.read_threads >= 0, f"data.read_threads is {self.read_threads}; it must be ≥ 0")
        one_of("data.call_format", self.call_format, CALL_FORMATS)
        check(
            0 <= self.validation_fraction < 1,
            f"data.validation_fraction is {self.validation_fraction}; give 0 ≤ x < 1",
        )
        check(
            not (self.validation_path and self.validation_fraction),
            "data.validation_path and data.validation_fraction are both set; give one of them",
        )


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning, and the scripted expert that makes its data where there is none."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    expert_episodes: int = 2000  # scripted episodes, where data.path is empty
    validate_every: int = 50  # steps between losses of held-out conversations (data.validation_path)
    expert_calls: int = 6  # the most an expert may make; a question that needs more ends without an answer
    expert_mistake_rate: float = 0.15  # chance per turn that the expert errs and then recovers

    def __post_init__(self):
        check(self.expert_episodes >= 1, f"sft.expert_episodes is {self.expert_episodes}; it must be ≥ 1")
        check(self.validate_every >= 1, f"sft.validate_every is {self.validate_every}; it must be ≥ 1")
        check(self.expert_calls >= 0, f"sft.expert_calls is {self.expert_calls}; it must be ≥ 0")
        check(
            0 <= self.expert_mistake_rate <= 1,
            f"sft.expert_mistake_rate is {self.expert_mistake_rate}; give 0 ≤ x ≤ 1",
        )


@dataclass(frozen=True)
class Config:
    """The whole tree: what a config file returns and `--config.key=value` overrides."""

    run_dir: str = "runs/run"  # everything that the run writes goes here; started again, the run resumes
    seed: int = 0  # of parameters, data order, the world and sampling
    # Some of sft, dpo, grpo, in that order. Empty: nothing is trained, as where a model is only asked.
    stages: tuple[str, ...] = ("sft",)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

    def __post_init__(self):
        sampling = SAMPLING[self.agent.preset].items()
        unset = {key: value for key, value in sampling if getattr(self.evaluation, key) is UNSET}
        object.__setattr__(self, "evaluation", dataclasses.replace(self.evaluation, **unset))
        check(bool(self.run_dir.strip()), "run_dir is empty; give a folder, or . for this one")
        check(0 <= self.seed < 2**31, f"seed is {self.seed}; give 0 ≤ seed < 2³¹")
        for stage in self.stages:
            one_of("stages", stage, STAGES)
        order = [STAGES.index(s) for s in self.stages]
        check(
            order == sorted(set(order)), f"stages is {self.stages}; they run in the order {STAGES}, each once"
        )
        self.check_sequence_length(max(1, self.mesh.context))
        check(
            self.model.lora.rank == 0 or bool(self.model.init_from),
            f"model.lora.rank is {self.model.lora.rank} without model.init_from, and adapters of a random model learn "
            "nothing; name a converted run, or set the rank to 0",
        )
        check(
            "sft" in self.stages or not (self.data.validation_path or self.data.validation_fraction),
            "data.validation_path and data.validation_fraction need the stage sft, which stages lacks; leave them out",
        )
        if "sft" in self.stages:
            rows = self.sft.training.batch_size
            check(
                rows % self.data.shards == 0,
                f"sft.training.batch_size ({rows}) must be a multiple of data.shards ({self.data.shards})",
            )
            check(
                bool(self.data.path) or self.tools.search_backend == "world",
                "tools.search, tools.search_url or tools.corpus leads away from the embedded web, and the scripted "
                "expert knows no other; give data.path, or leave them empty",
            )
            check(
                bool(self.data.path) or self.tasks.source == "world",
                f"the stage sft has no data: the scripted expert answers the embedded world's questions alone, not "
                f"those of tasks.environment {self.tasks.source!r}; give data.path",
            )
            check(
                bool(self.data.path) or self.sft.expert_calls <= self.agent.max_calls,
                f"sft.expert_calls ({self.sft.expert_calls}) is more than the agent is allowed: "
                f"lower it to agent.max_calls ({self.agent.max_calls})",
            )
        if "dpo" in self.stages:
            check(
                bool(self.dpo.path) or self.dpo.training.sequence_length >= 2 * self.agent.context_tokens,
                f"dpo.training.sequence_length ({self.dpo.training.sequence_length}) must hold two episodes: "
                f"at least 2 · agent.context_tokens ({2 * self.agent.context_tokens})",
            )
        if "grpo" in self.stages:
            check(
                not self.grpo.replay_routes or self.model.moe.experts > 0,
                "grpo.replay_routes is set for a model without experts (model.moe.experts is 0): there is nothing to "
                "replay; set it to False",
            )
            edits = self.agent.context_edits()
            check(
                not (self.grpo.replay_routes and edits),
                f"grpo.replay_routes is set with {', '.join(edits)}: a token that stands in several contexts was "
                "sent to other experts in each, and only one route of it is known; set one of them back",
            )
            check(
                not self.grpo.replay_routes or self.rollout.engine == "local",
                "grpo.replay_routes is set with rollout.engine=remote, and servers' routes are not read; set one of "
                "them back",
            )
            check(
                self.grpo.training.sequence_length >= self.agent.context_tokens,
                f"grpo.training.sequence_length ({self.grpo.training.sequence_length}) must hold an episode: "
                f"at least agent.context_tokens ({self.agent.context_tokens})",
            )

    def check_sequence_length(self, context: int) -> None:
        """Rows divide over `context` devices; asked again where mesh.context is -1 and the devices are known."""
        for stage in self.stages:
            tokens = getattr(self, stage).training.sequence_length
            check(
                context == 1 or tokens % (2 * context) == 0,
                f"{stage}.training.sequence_length ({tokens}) must be a multiple of 2 · mesh.context ({2 * context}): "
                "a device has a chunk from the front of a row and one from behind",
            )


def default() -> Any:
    """The whole tree with its defaults, as an ml_collections ConfigDict for a config file to edit.

    It is locked: a config file that sets a key that does not exist fails on that line.
    """
    from ml_collections import ConfigDict

    values = dataclasses.asdict(Config())
    # Not given, so that a preset decides.
    values["agent"] |= dict.fromkeys(PRESETS[""])
    values["evaluation"] |= dict.fromkeys(SAMPLING[""])
    return ConfigDict(values).lock()
