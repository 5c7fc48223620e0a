"""The agent over a model that a server hosts: what `mirothinker-agent --policy URL` runs under, unless told otherwise.

    export SERPER_API_KEY=…
    mirothinker-agent --policy http://localhost:8000/v1 "How high is the highest mountain of Nepal?"

What follows a colon (agent/chat:v1.5) is a preset of the agent, which then has a say in calls and contexts; the
command's --preset is the same. Calls are written in Qwen's format, which other models pick up from the prompt. A served
MiroThinker wants its own: --config.data.call_format=mcp, and its system prompt as --config.agent.system_prompt_file.

Hardware: none here; the server has the model. Time: a minute or two a question, mostly the server's.
"""

import os

from mirothinker_jax.config import default

KEYS = {"serper": "SERPER_API_KEY", "tavily": "TAVILY_API_KEY", "brave": "BRAVE_API_KEY"}


def get_config(preset: str = ""):
    c = default()
    c.stages = ()
    c.data.call_format = "hermes"

    # The search service whose key is set.
    c.tools.search = next((name for name, key in KEYS.items() if os.environ.get(key)), "")
    c.tools.names = ("google_search", "scrape_and_extract_info")  # run_python_code needs bubblewrap
    c.tools.output_tokens = 4096
    c.tools.scrape_lines = 40
    c.tools.retries = 2

    c.agent.preset = preset
    if not preset:
        c.agent.max_calls, c.agent.context_tokens, c.agent.turn_tokens = 50, 32768, 4096
    return c
