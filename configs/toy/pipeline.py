"""The whole recipe on a laptop: SFT → DPO → GRPO with real tool calls, and the report.

    mirothinker-train --config toy/pipeline --config.run_dir=runs/toy

About a quarter of an hour and 2.4 GiB on two cores. docs/recipes.md says what it is made for, docs/notes/results.md
what it reaches.
"""

from pathlib import Path

from mirothinker_jax.config import default

# How every call of the two tools begins: one token, where spelling it out would be most of what the toy computes.
CALL = "</think>\n\n<use_mcp_tool>\n<server_name>{}</server_name>\n<tool_name>{}</tool_name>\n<arguments>\n{}"
SEARCH = CALL.format("search_and_scrape_webpage", "google_search", '{"q": "')
SCRAPE = CALL.format("jina_scrape_llm_summary", "scrape_and_extract_info", '{"url": "')


def get_config():
    c = default()
    c.run_dir = "runs/toy"
    c.stages = ("sft", "dpo", "grpo")

    c.world.sources = ("airports",)
    c.world.attributes = ("icao",)  # four capital letters: no tiny model guesses them
    c.world.max_entities = 0
    c.world.max_hops = 6
    c.world.wrong_first_hit = 0.2
    c.world.dead_link = 0.03
    c.world.failing_call = 0.02
    c.world.slow_call = 0.005
    c.world.slow_s = 0.2

    c.tools.names = ("google_search", "scrape_and_extract_info")
    c.tools.search_results = 3
    c.tools.snippet_chars = 0
    c.tools.scrape_lines = 1
    c.tools.output_tokens = 48
    c.tools.concurrency = 64
    c.tools.cache = False

    c.tokenizer.vocab_size = 768
    c.tokenizer.space_suffix = True
    # The wire format's fixed parts, one token each; and every capital letter by itself.
    c.tokenizer.symbols = (
        SEARCH,
        SCRAPE,
        '", "info_to_extract": "',
        '"}\n</arguments>\n</use_mcp_tool>',
        "http://airports.test/",
        "http://mirror.test/",
        "\\boxed{",
        "system",
        "user",
        "assistant",
        *"ABCDEFGHIJKLMNOPQRSTUVWXYZ",  # so that an airport's code is three tokens, always
    )

    c.agent.system_prompt_file = str(Path(__file__).with_name("system_prompt.txt"))
    c.agent.max_calls = 14
    c.agent.turn_tokens = 32  # a call with the longest thought takes 24
    c.agent.context_tokens = 640  # six hops, and some retries

    c.data.open_bins, c.data.read_threads = 64, 1

    c.model.hidden = 96
    c.model.layers = 2
    c.model.heads = 4
    c.model.kv_heads = 2
    c.model.head_dim = 32
    c.model.ffn = 192
    c.model.rope_theta = 100.0
    c.model.remat = "none"

    c.rollout.slots = 128
    c.rollout.prefill_slots = 16
    c.rollout.prefill_tokens = 32
    c.rollout.decode_steps = 4

    c.sft.expert_episodes = 6000
    c.sft.expert_calls = 5  # enough for three hops; the questions go to six
    c.sft.expert_mistake_rate = 0.05
    t = c.sft.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 900, 8, 8, 512
    t.checkpoint_every, t.log_every = 200, 10
    t.optimizer.learning_rate = 8e-3
    t.optimizer.warmup_fraction = 0.05
    t.optimizer.weight_decay = 0.01

    t = c.dpo.training
    c.dpo.questions, c.dpo.samples = 384, 4
    # About three epochs, as MiroThinker v0.1 took: in five the policy unlearns how to end a turn.
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 16, 8, 8, 1280
    t.checkpoint_every, t.log_every = 16, 2
    t.optimizer.learning_rate = 1e-4
    t.optimizer.weight_decay = 0.0

    c.grpo.questions, c.grpo.group = 32, 8
    t = c.grpo.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 64, 128, 2, 640
    t.checkpoint_every, t.log_every = 16, 1
    t.optimizer.learning_rate = 1e-3
    t.optimizer.schedule = "linear"
    t.optimizer.weight_decay = 0.0

    c.evaluation.questions = 300
    return c
