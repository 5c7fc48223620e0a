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

from mirothinker_jax.config_agent import PRESETS, AgentConfig
from mirothinker_jax.config_episodes import EvalConfig, RolloutConfig, ToolsConfig, WorldConfig
from mirothinker_jax.config_model import EXECUTION as EXECUTION
from mirothinker_jax.config_model import LORA_TARGETS as LORA_TARGETS
from mirothinker_jax.config_model import REMAT as REMAT
from mirothinker_jax.config_model import ContextConfig as ContextConfig
from mirothinker_jax.config_model import LoRAConfig as LoRAConfig
from mirothinker_jax.config_model import ModelConfig as ModelConfig
from mirothinker_jax.config_model import MoEConfig as MoEConfig
from mirothinker_jax.config_model import YarnConfig as YarnConfig
from mirothinker_jax.config_tree import ConfigError as ConfigError
from mirothinker_jax.config_tree import build as build
from mirothinker_jax.config_tree import check as check
from mirothinker_jax.config_tree import one_of

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
class OptimizerConfig:
    """AdamW with warm-up, a schedule and global-norm clipping (optax)."""

    learning_rate: float = 1e-3  # the peak, after warm-up
    schedule: str = "cosine"  # cosine, linear or constant, from the peak on
    warmup_fraction: float = 0.1  # of the steps, on the way up; the next step is at the peak
    final_fraction: float = 0.1  # of the peak learning rate, at the last step
    weight_decay: float = 0.1  # decoupled, as in AdamW
    b1: float = 0.9  # decay of the gradient's average
    b2: float = 0.95  # decay of the squared gradient's average
    eps: float = 1e-8  # added to the root in AdamW's denominator
    clip_norm: float = 1.0  # largest global norm of a gradient
    offload: bool = False  # AdamW's averages wait in the host's memory from one update to the next

    def __post_init__(self):
        check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be > 0")
        one_of("schedule", self.schedule, ("cosine", "linear", "constant"))
        check(0 <= self.warmup_fraction < 1, f"warmup_fraction is {self.warmup_fraction}; give 0 ≤ x < 1")
        check(0 <= self.final_fraction <= 1, f"final_fraction is {self.final_fraction}; give 0 ≤ x ≤ 1")
        for key in ("b1", "b2"):
            check(0 <= getattr(self, key) < 1, f"{key} is {getattr(self, key)}; give 0 ≤ x < 1")
        for key in ("weight_decay", "eps"):
            check(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}; it must be ≥ 0")
        check(self.clip_norm > 0, f"clip_norm is {self.clip_norm}; it must be > 0 (a large value: no clip)")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of the training loop. A step sees `batch_size` rows, `microbatch_size` at a time (gradients add up)."""

    steps: int = 100  # optimizer updates; 0 where epochs says how many
    # Passes over the conversations, the pairs or the question pool, instead of steps, which then is 0.
    epochs: float = 0.0
    batch_size: int = 8  # sequences (packed rows) per step, over all devices
    microbatch_size: int = 8  # of them at a time, over all devices
    sequence_length: int = 2048  # length of a packed row
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_every: int = 50  # steps between checkpoints
    keep_checkpoints: int = 2  # how many of the newest stay on disk
    log_every: int = 10  # steps between lines of metrics

    def __post_init__(self):
        check(self.epochs >= 0, f"training.epochs is {self.epochs}; it must be ≥ 0")
        check(
            self.steps >= 1 if self.epochs == 0 else self.steps == 0,
            f"training.steps is {self.steps} and training.epochs {self.epochs}; give one of them, and 0 for the other",
        )
        for key in (
            "batch_size",
            "microbatch_size",
            "sequence_length",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            check(getattr(self, key) >= 1, f"training.{key} is {getattr(self, key)}; it must be ≥ 1")
        check(self.log_every >= 1, f"training.log_every is {self.log_every}; it must be ≥ 1")
        check(
            self.batch_size % self.microbatch_size == 0,
            f"training.batch_size ({self.batch_size}) must be a multiple of training.microbatch_size "
            f"({self.microbatch_size})",
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
class DPOConfig:
    """Rafailov et al. (arXiv 2305.18290) on summed log-probs, + sft_coef · SFT on the chosen one."""

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(sequence_length=4096)
    )  # two episodes
    beta: float = 0.1  # β: how far the policy may move from the SFT model
    sft_coef: float = 0.1  # λ: weight of the SFT loss on the chosen sequence
    questions: int = 200  # questions that pairs are sampled for
    samples: int = 8  # episodes per question; correct against wrong makes pairs
    pairs_per_question: int = 2  # the most that one question gives
    pairs_per_row: int = 4  # the most pairs that one row may hold

    def __post_init__(self):
        check(self.beta > 0, f"dpo.beta is {self.beta}; it must be > 0")
        check(self.sft_coef >= 0, f"dpo.sft_coef is {self.sft_coef}; it must be ≥ 0")
        check(self.questions >= 1, f"dpo.questions is {self.questions}; it must be ≥ 1")
        check(
            self.pairs_per_question >= 1,
            f"dpo.pairs_per_question is {self.pairs_per_question}; it must be ≥ 1",
        )
        check(self.samples >= 2, f"dpo.samples is {self.samples}; a pair needs two episodes")
        check(self.pairs_per_row >= 1, f"dpo.pairs_per_row is {self.pairs_per_row}; it must be ≥ 1")


@dataclass(frozen=True)
class GRPOConfig:
    """Group-relative policy optimisation; the defaults are the MiroThinker paper's (arXiv 2511.11793)."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    question_pool: int = 1000  # different training questions, walked through in shuffled epochs
    questions: int = 32  # per step
    group: int = 8  # episodes per question
    correct_coef: float = 1.0  # α_c of the reward
    format_coef: float = 0.1  # α_f: subtracted for a format violation
    advantage: str = "mean"  # mean: R − mean(R); std: also divided by the group's std; rloo: leave-one-out
    loss: str = "reinforce"  # reinforce: A·log π; clip: PPO's clipped ratio against the sampler
    clip_low: float = 0.2  # the ratio stays above 1 − this (loss = clip)
    clip_high: float = 0.28  # and below 1 + this
    aggregate: str = "token-mean"  # how the tokens' losses are averaged (data/weights.py has the table)
    kl_coef: float = 0.0  # β
    kl: str = "k2"  # estimator of the KL term
    sampler_correction: str = "none"  # tis: truncated importance sampling; icepop: masked
    correction_low: float = 0.5  # icepop: ratios below it are masked
    correction_high: float = 2.0  # tis: ratios are cut to it; icepop: masked above it
    # Mixture of experts: train on the sampler's routes, which take 2 · layers · experts_per_token bytes a token.
    replay_routes: bool = False

    def __post_init__(self):
        check(self.group >= 2, f"grpo.group is {self.group}; a group advantage needs at least 2 episodes")
        check(self.questions >= 1, f"grpo.questions is {self.questions}; it must be ≥ 1")
        check(self.kl_coef >= 0, f"grpo.kl_coef is {self.kl_coef}; it must be ≥ 0")
        one_of("grpo.advantage", self.advantage, ("mean", "std", "rloo"))
        one_of("grpo.loss", self.loss, ("reinforce", "clip"))
        one_of(
            "grpo.aggregate",
            self.aggregate,
            ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"),
        )
        # k1 as a loss has zero expected gradient, plain k3 that of the reverse KL (objectives/grpo.py).
        one_of("grpo.kl", self.kl, ("k2", "k3-ratio"))
        one_of("grpo.sampler_correction", self.sampler_correction, ("none", "tis", "icepop"))
        check(
            self.loss == "reinforce" or self.sampler_correction == "none",
            f"grpo.sampler_correction is {self.sampler_correction!r} with grpo.loss 'clip', whose ratio is "
            "already taken against the sampler; set one of the two back ('none', 'reinforce')",
        )
        check(self.question_pool >= 1, f"grpo.question_pool is {self.question_pool}; it must be ≥ 1")
        for key in ("clip_low", "clip_high", "correction_low", "correction_high"):
            check(getattr(self, key) >= 0, f"grpo.{key} is {getattr(self, key)}; it must be ≥ 0")


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
    tools: ToolsConfig = field(default_factory=ToolsConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self):
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
                bool(self.data.path) or self.sft.expert_calls <= self.agent.max_calls,
                f"sft.expert_calls ({self.sft.expert_calls}) is more than the agent is allowed: "
                f"lower it to agent.max_calls ({self.agent.max_calls})",
            )
        edits = self.agent.context_edits()
        for stage in ("dpo", "grpo"):
            check(
                stage not in self.stages or not edits,
                f"{', '.join(edits)}: the agent's contexts are edited, and {stage} trains episodes whose turns saw all "
                "that came before them; evaluate with it, and leave it out here",
            )
        if "dpo" in self.stages:
            check(
                self.dpo.training.sequence_length >= 2 * self.agent.context_tokens,
                f"dpo.training.sequence_length ({self.dpo.training.sequence_length}) must hold two episodes: "
                f"at least 2 · agent.context_tokens ({2 * self.agent.context_tokens})",
            )
        if "grpo" in self.stages:
            check(
                not self.grpo.replay_routes or self.model.moe.experts > 0,
                "grpo.replay_routes is set for a model without experts (model.moe.experts is 0): there is nothing to "
                "replay; set it to False",
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
    values["agent"] |= dict.fromkeys(PRESETS[""])  # not given, so that a preset decides
    return ConfigDict(values).lock()
