"""Settings of the stages that learn from episodes: what is sampled for them, and the formulas (objectives/).

As in config.py, which has the rest of them and the whole tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mirothinker_jax.config_training import TrainingConfig
from mirothinker_jax.config_tree import check, numbers_by_name, one_of


@dataclass(frozen=True)
class DPOConfig:
    """Rafailov et al. (arXiv 2305.18290) on summed log-probs, + sft_coef · SFT on the chosen one."""

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(sequence_length=4096)
    )  # two episodes
    beta: float = 0.1  # β: how far the policy may move from the SFT model
    loss: str = "sigmoid"  # of a pair's margin: sigmoid, DPO's; ipo, squared; hinge
    # Share of pairs whose labels are taken to be swapped (loss = sigmoid).
    label_smoothing: float = 0.0
    # Log-probs of a sequence are averaged over its tokens instead of summed; β then is larger, such as 5.
    length_normalised: bool = False
    # Drop right episodes that fought the network or repeated themselves, and wrong ones that failed by form, in a loop
    # or early (trajectory/curation.py).
    curate: bool = False
    sft_coef: float = 0.1  # λ: weight of the SFT loss on the chosen sequence
    # Pairs of your own: *.jsonl, *.jsonl.gz or *.parquet (globs and commas), a record each of prompt, chosen and
    # rejected, strings or messages. Empty: they are sampled, as the next settings say, which else play no part.
    path: str = ""
    questions: int = 200  # questions that pairs are sampled for
    samples: int = 8  # episodes per question; correct against wrong makes pairs
    pairs_per_question: int = 2  # the most that one question gives
    pairs_per_row: int = 4  # the most pairs that one row may hold

    def __post_init__(self):
        check(self.beta > 0, f"dpo.beta is {self.beta}; it must be > 0")
        one_of("dpo.loss", self.loss, ("sigmoid", "ipo", "hinge"))
        check(
            0 <= self.label_smoothing < 0.5,
            f"dpo.label_smoothing is {self.label_smoothing}; give 0 ≤ x < 0.5 (half of the labels swapped say nothing)",
        )
        check(
            self.loss == "sigmoid" or self.label_smoothing == 0,
            f"dpo.label_smoothing is {self.label_smoothing} with dpo.loss {self.loss!r}, which has no such form; set "
            "the one to 0 or the other to 'sigmoid'",
        )
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
    # Steps that sampling may be ahead of training. 0: a step samples its groups, then trains on them. 1 or more:
    # episodes go on while the trainer computes, each token by the newest weights there are.
    staleness: int = 0
    # A step takes groups that are finished, the oldest first, from among so many. Above 1 a slow group holds up no
    # step, and may be ⌈(window − 1) / questions⌉ versions older than with 1.
    window: int = 1
    # Groups with equal rewards, which teach nothing, that a step replaces by groups of other questions, at most.
    refill: int = 0
    # Seconds after which a group is trained without the episodes that are not done, if min_group of them are. Those go
    # on, in the next group of their question. 0: a group waits for all.
    group_deadline_s: float = 0.0
    min_group: int = 0  # with group_deadline_s: episodes that make a group, at least 2
    correct_coef: float = 1.0  # α_c of the reward
    format_coef: float = 0.1  # α_f: subtracted for a format violation
    # Other terms that the grader gives, added to the reward with these factors, as NAME:FACTOR (brevity:0.2).
    reward_terms: tuple[str, ...] = ()
    # Episodes cut by a length limit add nothing to the loss; their rewards still count in their group's mean.
    overlong_filter: bool = False
    # Such episodes are part of no group: right ones that fought the network or repeated themselves, and wrong ones that
    # failed by form, in a loop or early (trajectory/curation.py).
    curate: bool = False
    advantage: str = "mean"  # mean: R − mean(R); std: also divided by the group's std; rloo: leave-one-out
    # reinforce: A·log π; clip: PPO's clipped ratio; gspo: the same of whole sequences; cispo: A·log π, weighted by
    # the clipped ratio
    loss: str = "reinforce"
    # What the ratio of clip, gspo and cispo is taken against: sampler, whose log-probs were recorded; start, the
    # parameters at the step's start, with sampler_correction for the way from there to the sampler (decoupled). A step
    # is one update, so the latter ratio is 1, and the bounds stay as they are.
    ratio_to: str = "sampler"
    clip_low: float = 0.2  # the ratio stays above 1 − this (1: no bound); gspo wants about 3e-4
    clip_high: float = 0.28  # and below 1 + this; gspo wants about 4e-4
    clip_dual: float = 0.0  # loss = clip: where A < 0, the ratio counts as this at most, such as 3 (0: off)
    aggregate: str = "token-mean"  # how the tokens' losses are averaged (data/weights.py has the table)
    kl_coef: float = 0.0  # β
    kl: str = "k2"  # estimator of the KL term
    # Importance weights for the way to the sampler. tis: truncated; icepop: zero outside the bounds; sequence-tis:
    # truncated, of whole sequences
    sampler_correction: str = "none"
    correction_low: float = 0.5  # icepop: ratios below it are masked
    correction_high: float = 2.0  # tis, sequence-tis: ratios are cut to it; icepop: masked above it
    # Sequences that are far from the sampler add nothing. sequence: by the product of their tokens' ratios;
    # geometric: by the geometric mean of them, for which bounds are near 1 (0.999 and 1.001)
    sampler_mask: str = "none"
    mask_low: float = 0.5  # sequences below it are masked
    mask_high: float = 2.0  # and above it
    # Mixture of experts: train on the sampler's routes, which take 2 · layers · experts_per_token bytes a token.
    replay_routes: bool = False

    def __post_init__(self):
        check(self.group >= 2, f"grpo.group is {self.group}; a group advantage needs at least 2 episodes")
        check(self.questions >= 1, f"grpo.questions is {self.questions}; it must be ≥ 1")
        check(self.question_pool >= 1, f"grpo.question_pool is {self.question_pool}; it must be ≥ 1")
        check(self.kl_coef >= 0, f"grpo.kl_coef is {self.kl_coef}; it must be ≥ 0")
        one_of("grpo.advantage", self.advantage, ("mean", "std", "rloo"))
        one_of(
            "grpo.aggregate",
            self.aggregate,
            ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"),
        )
        # k1 as a loss has zero expected gradient, plain k3 that of the reverse KL (objectives/grpo.py).
        one_of("grpo.kl", self.kl, ("k2", "k3-ratio"))
        for key in ("clip_low", "clip_high", "correction_low", "correction_high", "mask_low"):
            check(getattr(self, key) >= 0, f"grpo.{key} is {getattr(self, key)}; it must be ≥ 0")
        numbers_by_name("grpo.reward_terms", self.reward_terms)
        self._check_ratio()
        self._check_sampler()
        self._check_stream()

    @property
    def streamed(self) -> bool:
        """Whether groups are admitted one by one (rollout/stream.py), and not step by step."""
        return self.staleness > 0 or self.refill > 0

    def _check_stream(self) -> None:
        for key, least in (("staleness", 0), ("window", 1), ("refill", 0), ("group_deadline_s", 0)):
            check(getattr(self, key) >= least, f"grpo.{key} is {getattr(self, key)}; it must be ≥ {least}")
        ahead = self.staleness > 0
        check(
            ahead or self.window == 1,
            f"grpo.window is {self.window} with grpo.staleness 0, where a step waits for all its groups; set the one "
            "to 1 or the other to 1 or more",
        )
        check(
            ahead or self.group_deadline_s == 0,
            f"grpo.group_deadline_s is {self.group_deadline_s:g} with grpo.staleness 0: episodes that are not done at "
            "the deadline go on with newer weights; set the one to 0 or the other to 1 or more",
        )
        check(
            (self.group_deadline_s > 0) == (self.min_group > 0),
            f"grpo.group_deadline_s is {self.group_deadline_s:g} and grpo.min_group {self.min_group}; give both or "
            "neither",
        )
        check(
            self.min_group == 0 or 2 <= self.min_group < self.group,
            f"grpo.min_group is {self.min_group}; give 2 ≤ n < grpo.group ({self.group})",
        )
        check(
            not (ahead and self.sampler_correction == "none")
            or (self.loss != "reinforce" and self.ratio_to == "sampler"),
            f"grpo.staleness is {self.staleness} with grpo.loss {self.loss!r}, grpo.ratio_to {self.ratio_to!r} and no "
            "grpo.sampler_correction: nothing would correct for the older weights that sampled; take clip, gspo or "
            "cispo with ratio_to 'sampler', or a correction (tis)",
        )
        check(
            not (ahead and self.replay_routes),
            f"grpo.staleness is {self.staleness} with grpo.replay_routes: an episode that goes on with newer weights "
            "is computed again, by other routes; set one of them back",
        )

    def _check_ratio(self) -> None:
        one_of("grpo.loss", self.loss, ("reinforce", "clip", "gspo", "cispo"))
        one_of("grpo.ratio_to", self.ratio_to, ("sampler", "start"))
        check(
            self.loss != "reinforce" or self.ratio_to == "sampler",
            "grpo.ratio_to is 'start' with grpo.loss 'reinforce', which has no ratio; leave it out, or take clip, gspo "
            "or cispo",
        )
        for key in ("clip_low", "clip_high", "clip_dual"):
            value, default = getattr(self, key), getattr(GRPOConfig, key)
            check(
                self.ratio_to == "sampler" or value == default,
                f"grpo.{key} is {value} with grpo.ratio_to 'start': a step is one update, so that ratio is 1 and no "
                f"bound acts; leave it at {default}, or take ratio_to 'sampler'",
            )
        check(
            self.clip_dual == 0 or self.loss == "clip",
            f"grpo.clip_dual is {self.clip_dual} with grpo.loss {self.loss!r}; only 'clip' has a second bound: set the "
            "one to 0 or the other to 'clip'",
        )
        check(
            self.clip_dual == 0 or self.clip_dual > 1 + self.clip_high,
            f"grpo.clip_dual is {self.clip_dual}; it must be above 1 + grpo.clip_high ({1 + self.clip_high:g}), or 0 "
            "for none",
        )

    def _check_sampler(self) -> None:
        one_of("grpo.sampler_correction", self.sampler_correction, ("none", "tis", "icepop", "sequence-tis"))
        one_of("grpo.sampler_mask", self.sampler_mask, ("none", "sequence", "geometric"))
        check(
            self.loss == "reinforce" or self.ratio_to == "start" or self.sampler_correction == "none",
            f"grpo.sampler_correction is {self.sampler_correction!r} with grpo.loss {self.loss!r}, whose ratio is "
            "already taken against the sampler; set it to 'none', or grpo.ratio_to to 'start'",
        )
        check(
            self.sampler_correction != "icepop" or self.correction_low <= self.correction_high,
            f"grpo.correction_low ({self.correction_low}) is above grpo.correction_high ({self.correction_high}), so "
            "that every token would be masked; swap them",
        )
        check(
            self.mask_low <= 1 <= self.mask_high,
            f"grpo.mask_low ({self.mask_low}) and grpo.mask_high ({self.mask_high}) leave out 1, where trainer and "
            "sampler agree; give mask_low ≤ 1 ≤ mask_high",
        )
