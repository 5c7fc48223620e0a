"""`python -m mirothinker_jax.serve --policy RUN_OR_HF_DIR`: a model of ours over HTTP."""

from __future__ import annotations

import argparse
import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mirothinker_jax.config import Config
from mirothinker_jax.config_tree import ConfigError, check
from mirothinker_jax.flags import CommandParser, read, split, started_as, version
from mirothinker_jax.parallel.tpu_flags import generation_here, set_flags
from mirothinker_jax.pipeline.policies import CHAT_CONFIG, is_url, starting_values

EXAMPLES = """
examples:
  python -m mirothinker_jax.serve --policy runs/my-run
      the newest checkpoint of the run's last stage (or of a stage folder), with the run's own settings
  python -m mirothinker_jax.serve --policy models/Qwen3-8B --config.agent.context_tokens=32768 --config.rollout.slots=16
      a downloaded model; one of MiroThinker's speaks --config.data.call_format=mcp
  python -m mirothinker_jax.serve --policy runs/qwen3-8b --weights-dir /shared/weights --port 8001
      a sampler for a training run with rollout.engine=remote and rollout.weights_dir=/shared/weights

Then, for example: curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Where is KTM?"}]}'

Every --config.KEY=VALUE of mirothinker_jax.train is taken. Those of rollout, agent.context_tokens, data.call_format and
tokenizer.template matter here; the model is always the policy's own. --config FILE has them from a file. A folder
without settings of its own runs under those of agent/chat.

Ctrl-C lets the turns under way end (--grace seconds), a second one ends them at once.
"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(argv: list[str] | None = None) -> int:
    given, own = split(sys.argv[1:] if argv is None else argv)
    options = _arguments(own)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("orbax", "jax", "absl"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        config = read(
            given, Config, started_as("serve"), CHAT_CONFIG, functools.partial(_base, options.policy)
        )
        asyncio.run(_serve(options, config, _key(options.api_key_env)))
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:  # before anything was served
        return 130
    return 0


def _base(policy: str, path: str | None, overridden: Collection[str]) -> Any:
    """What the command line's settings are set in."""
    check(not is_url(policy), f"--policy is {policy}, which is served already; give a folder")
    return starting_values(policy, path, "", "", overridden)


async def _serve(options: argparse.Namespace, config: Config, key: str) -> None:
    # Only now: what is wrong with the command line is said without waiting for jax.
    from mirothinker_jax.pipeline.served import open_served
    from mirothinker_jax.serving.server import Limits, Server, bind

    set_flags(generation_here(os.environ), os.environ)
    bound = bind(options.host, options.port)  # while nothing is loaded yet
    limits = Limits(options.max_requests, grace_s=options.grace)
    async with (
        open_served(options.policy, config, options.name, options.weights_dir) as served,
        Server(served, bound, key, limits) as server,
    ):
        if options.host not in _LOOPBACK and not key:
            _say(f"warning: whoever reaches {server.url} can use it; --api-key-env NAME asks for a key")
        _say(f"{served.name} at {server.url} (chat: {server.url}/v1/chat/completions)")
        ended = _signals(server)
        await ended.wait()
        _say("ending")


def _signals(server: Any) -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second one ends the turns under way."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def hear() -> None:
        if ended.is_set():
            server.desk.abort()
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, hear)
    return ended


def _key(name: str) -> str:
    key = os.environ.get(name, "") if name else ""
    check(bool(key) or not name, f"--api-key-env: {name} is not set; export it, or leave the option out")
    return key


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=started_as("serve"),
        usage="%(prog)s --policy RUN_OR_HF_DIR [options] [--config FILE] [--config.KEY=VALUE ...]",
        description="Serves a model over HTTP: chat and completions as OpenAI's, and token ids in and out as "
        "vLLM's and SGLang's.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument(
        "--policy", required=True, help="a run, a stage folder, or a Hugging Face model's folder"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any free one (default: 8000)")
    parser.add_argument("--name", default="", help="of the model, for clients (default: the folder's)")
    parser.add_argument(
        "--api-key-env",
        default="",
        metavar="NAME",
        help="environment variable with the key that clients must send",
    )
    parser.add_argument(
        "--weights-dir",
        type=Path,
        help="a folder that new weights may be loaded from; without it they cannot be changed",
    )
    parser.add_argument(
        "--max-requests", type=int, default=1024, help="turns under way at once; more get 429 (default: 1024)"
    )
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="S", help="seconds for turns to end in (default: 30)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
