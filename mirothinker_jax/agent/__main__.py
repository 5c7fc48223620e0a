"""`python -m mirothinker_jax.agent --policy RUN_OR_URL "question"`: a question answered before one's eyes.

Calls are told on stderr as they begin and end; sources and answer go to stdout, the answer last. An endpoint is
asked without importing jax.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.chat_engine import CHARS_PER_TOKEN, ChatSettings
from mirothinker_jax.agent.terminal import printable
from mirothinker_jax.config import PRESETS, Config
from mirothinker_jax.config_tree import ConfigError
from mirothinker_jax.flags import CommandParser, parse, split, started_as, version
from mirothinker_jax.pipeline.asking import Asked, Asker, ending
from mirothinker_jax.pipeline.policies import CHAT_CONFIG, is_url, starting_values

# Exit codes; what was given wrong has 2.
NO_ANSWER, STOPPED = 3, 130
EXAMPLES = f"""
examples:
  export SERPER_API_KEY=…
  python -m mirothinker_jax.agent --policy http://localhost:8000/v1 "How high is the highest mountain of Nepal?"
      a model behind vLLM, SGLang, llama.cpp, or whatever speaks OpenAI's chat API
  python -m mirothinker_jax.agent --policy https://api.openai.com/v1 --model gpt-4.1 "…"
      with the key in OPENAI_API_KEY; --key-env names another variable
  python -m mirothinker_jax.agent --policy http://localhost:8000/v1 --config.tools.search=world \\
      "Find the city: go west from KTM."
      on the embedded web of airports and countries: no key, no network
  python -m mirothinker_jax.agent --policy runs/my-run "Find the city: go west from KTM."
      a run's newest checkpoint on this machine's devices, under the settings that it was trained with
  python -m mirothinker_jax.agent --policy http://localhost:8000/v1 --config.tools.corpus=papers --interactive
      over a folder of your own documents, question after question

Where it searches: the service whose key is set (SERPER_API_KEY, TAVILY_API_KEY, BRAVE_API_KEY); your SearXNG
(--config.tools.search=searxng --config.tools.search_url=http://…); your documents (--config.tools.corpus=FOLDER).

Every --config.KEY=VALUE of mirothinker_jax.train is taken; `python -m mirothinker_jax.train --help` lists them. Those
of agent, tools, evaluation (temperature, top_p) and data.call_format matter here. --config FILE has them from a file;
without it they are those of {CHAT_CONFIG}.

The answer is the last thing on stdout; the calls are told on stderr. Exit status: 0 with an answer, {NO_ANSWER} without
one, 2 where something that was given is wrong, {STOPPED} after Ctrl-C.
"""


def main(argv: list[str] | None = None) -> int:
    given, own = split(sys.argv[1:] if argv is None else argv)
    options = _arguments(own)
    base = functools.partial(_base, options)
    config = parse(given, command="agent --policy RUN_OR_URL", example=CHAT_CONFIG, base=base)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("mirothinker_jax.agent").setLevel(logging.INFO)  # that the endpoint is asked again
    url = options.policy if is_url(options.policy) else ""
    try:
        settings = ChatSettings(url, options.model, options.key_env, options.chars_per_token, options.timeout)
        asker = Asker(options.policy, settings, config, options.out, _say)
        with asyncio.Runner() as runner:
            runner.run(asker.__aenter__())
            try:
                converse = _interactive if options.interactive else _once
                return converse(runner, asker, options)
            finally:
                runner.run(asker.aclose())
    except ConfigError as error:
        _refuse(error)
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return STOPPED


def _base(options: argparse.Namespace, path: str | None, overridden: Collection[str]) -> Any:
    values = starting_values(options.policy, path, options.preset, "", overridden)
    if not is_url(options.policy):
        values.rollout.slots = 1  # one question at a time
    return values


def _once(runner: asyncio.Runner, asker: Asker, options: argparse.Namespace) -> int:
    asked = runner.run(asker.ask(options.question))
    _show(asked, asker.config)
    return 0 if asked.trajectory.answer else NO_ANSWER


def _interactive(runner: asyncio.Runner, asker: Asker, options: argparse.Namespace) -> int:
    """Question after question, until the input ends. A question that fails or is stopped ends nothing but itself."""
    _say(
        "Ask. A question may refer to those before it; /new forgets them. Ctrl-C stops a question, Ctrl-D ends."
    )
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        with contextlib.suppress(ImportError):  # arrow keys and what was typed before, where Python has it
            import readline  # noqa: F401
    earlier: list[tuple[str, str]] = []
    question = options.question
    while True:
        if question == "/new":
            earlier = []
        elif question:
            try:
                asked = runner.run(asker.ask(question, earlier))
                _show(asked, asker.config)
                earlier.append((question, asked.trajectory.answer or "none was found"))
            except ConfigError as error:
                _refuse(error)
            except KeyboardInterrupt:
                _say("stopped; ask another one")
        try:
            question = input("\n> " if at_terminal else "").strip()
        except EOFError:
            return 0


def _show(asked: Asked, config: Config) -> None:
    """The sources and the answer; on stderr the figures, and the journal that has the episode."""
    t = asked.trajectory
    read, written = (asked.usage[f"{side}_tokens"] for side in ("prompt", "completion"))
    tokens = f", {read:,} tokens read, {written:,} written" if read else ""
    _say(f"{t.calls} calls in {asked.seconds:.0f} s{tokens}; the whole episode: {asked.path}")
    if asked.sources:
        sys.stdout.write("sources:\n" + "".join(f"  {source}\n" for source in asked.sources))
    if t.answer is None:
        _say(f"no answer: {ending(t, config)}")
    else:
        sys.stdout.write(f"{printable(t.answer)}\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _refuse(error: ConfigError) -> None:
    _say(f"error: {' '.join(str(error).split())}")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=started_as("agent"),
        usage="%(prog)s --policy RUN_OR_URL [options] [--config FILE] [--config.KEY=VALUE ...] QUESTION",
        description="Answers a question with tools, and shows every call that it makes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="in quotes")
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument(
        "--policy",
        required=True,
        metavar="RUN_OR_URL",
        help="a run, one of its stage folders, a Hugging Face folder, or an OpenAI-compatible endpoint",
    )
    parser.add_argument("--model", default="", help="the endpoint's name for it, where it serves several")
    parser.add_argument("--interactive", action="store_true", help="ask for one question after another")
    parser.add_argument(
        "--preset",
        choices=[name for name in PRESETS if name],
        default="",
        help="how the agent goes about it (agent.preset): v1.0, v1.5 and v1.7 as MiroThinker's releases, react with at "
        "most 20 calls, none without tools",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/asked"),
        metavar="FOLDER",
        help="where the episodes' files go (default: runs/asked)",
    )
    parser.add_argument(
        "--key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the endpoint's key, if it wants one (default: OPENAI_API_KEY)",
    )
    parser.add_argument(
        "--chars-per-token",
        type=float,
        default=CHARS_PER_TOKEN,
        metavar="N",
        help=f"contexts are counted in characters; so many make a token (default: {CHARS_PER_TOKEN:g}; English has "
        "about 4, Chinese 1.5). A warning says what the server counts where that is far less",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds that a turn may take (default: 600)",
    )
    options = parser.parse_args(argv)
    if not (options.question or options.interactive):
        parser.error("there is no question; give one in quotes, or --interactive")
    return options


if __name__ == "__main__":
    sys.exit(main())
