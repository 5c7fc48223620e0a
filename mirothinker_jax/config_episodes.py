"""The settings of what happens around the model: the embedded web, tools, sampler and evaluation.

As in config.py, which has the rest of them and the whole tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirothinker_jax.config_tree import UNSET, check, check_address, one_of

# The tools that this package has.
SANDBOX_TOOLS = (
    "create_sandbox",
    "run_command",
    "run_python_code",
    "upload_file_from_local_to_sandbox",
    "download_file_from_internet_to_sandbox",
)
FILES_TOOLS = ("list_files", "read_file", "write_file")
TOOL_NAMES = ("google_search", "scrape_and_extract_info", *SANDBOX_TOOLS, *FILES_TOOLS)

_SEARCH_SERVICES = ("serper", "searxng", "tavily", "brave")


@dataclass(frozen=True)
class WorldConfig:
    """The embedded web: real facts, real HTTP on loopback, and the noise of a real web."""

    sources: tuple[str, ...] = ("airports", "countries")  # kinds of entities: airports, countries
    max_entities: int = 0  # 0: all
    attributes: tuple[str, ...] = ()  # what questions ask for (city, elevation, icao, capital, …); empty: all
    max_hops: int = 6  # deepest question
    # made-up relations beside the eight that facts give, for deep questions whose relations all differ
    lines: int = 0
    heldout_fraction: float = 0.3  # of the entity neighbourhoods that no training question touches
    wrong_first_hit: float = 0.2  # chance that a search shows a wrong page first
    dead_link: float = 0.03  # share of pages whose link is dead (404); a mirror is found by search
    failing_call: float = 0.03  # chance that a request answers 503
    slow_call: float = 0.01  # chance that a request takes slow_s
    slow_s: float = 0.5  # seconds that a slow request takes
    port: int = 0  # 0: any free one

    def __post_init__(self):
        for source in self.sources:
            one_of("world.sources", source, ("airports", "countries"))
        check(bool(self.sources), "world.sources is empty; give at least one of airports, countries")
        for key in ("heldout_fraction", "wrong_first_hit", "dead_link", "failing_call", "slow_call"):
            check(0 <= getattr(self, key) <= 1, f"world.{key} is {getattr(self, key)}; give 0 ≤ x ≤ 1")
        check(0 <= self.port < 65536, f"world.port is {self.port}; give 0 … 65535 (0: any free one)")
        check(self.slow_s >= 0, f"world.slow_s is {self.slow_s}; it must be ≥ 0")
        check(self.max_entities >= 0, f"world.max_entities is {self.max_entities}; 0 takes all")
        check(self.max_hops >= 0, f"world.max_hops is {self.max_hops}; it must be ≥ 0")
        check(0 <= self.lines <= 64, f"world.lines is {self.lines}; give 0 … 64")


@dataclass(frozen=True)
class ToolsConfig:
    """What the agent may call, and the limits every call runs under."""

    names: tuple[str, ...] = (
        "google_search",
        "scrape_and_extract_info",
        "run_python_code",
    )  # tools that the model sees
    # Servers of MCP whose tools the model sees too, each a command or an address: [NAME:] [VARIABLE=VALUE] COMMAND…
    # or [NAME:] https://… [HEADER=VALUE], and #TOOL #TOOL at the end for some of its tools; $NAME in a value is read
    # from the environment (pip install 'mirothinker-jax[mcp]').
    mcp: tuple[str, ...] = ()
    deadline_s: float = 30.0  # seconds a call may take, from its first attempt on
    output_tokens: int = 256  # a longer result is cut, and says so
    concurrency: int = 16  # calls running at once, of all tools
    tool_concurrency: tuple[str, ...] = ()  # the same of single tools, as TOOL:CALLS (run_python_code:4)
    # Calls that a tool may begin in a second, evenly spaced, as TOOL:CALLS (google_search:5, for a service's quota).
    tool_rates: tuple[str, ...] = ()
    # How often a call is made again when a service of our own fails, within deadline_s and after random, growing
    # waits. Never repeated: what the model got wrong, pages that do not answer, calls that change something.
    retries: int = 0
    # So many failures of our own services in a row, and the calls to that server fail at once for breaker_open_s;
    # then one call tries it. 0: every call is made.
    breaker_failures: int = 0
    breaker_open_s: float = 30.0  # seconds
    record: str = ""  # file to which each call's result is appended; several processes write one each
    replay: str = ""  # such a file, from which calls are answered instead of made; one that it lacks fails
    # Where google_search looks: world (the embedded web), a service (serper, searxng, tavily, brave) or corpus.
    # Empty: corpus where tools.corpus is given, serper where tools.search_url is, else world.
    search: str = ""
    search_url: str = ""  # of the service, or of one with the same API; empty: the public one
    search_key_env: str = ""  # environment variable with its key; empty: {SERPER,TAVILY,BRAVE}_API_KEY
    # A .jsonl file of {url or docid, title?, text}, or a folder of .txt, .md, .html and .jsonl files: then it is the
    # whole web, and no tool leaves it.
    corpus: str = ""
    search_results: int = 10  # hits of a search, at most
    snippet_chars: int = 200  # of each hit; 0: none
    # Words that no address may hold which is fetched or shown, in small letters, such as a benchmark's names: its
    # questions lie on the web beside their answers. Data sets on model hubs are refused anyway.
    refuse: tuple[str, ...] = ()
    # How a page becomes lines: rules (fast, keeps everything but navigation), trafilatura (main text only, for
    # pages full of boilerplate; pip install 'mirothinker-jax[tools]') or jina (a reader service fetches it).
    reader: str = "rules"
    reader_url: str = "https://r.jina.ai"  # with tools.reader=jina: a service that answers GET URL/ADDRESS
    reader_key_env: str = "JINA_API_KEY"  # environment variable that holds its key, if it wants one
    # An OpenAI-compatible endpoint (http://host/v1) whose model says what a page says about what was asked; empty:
    # rules choose lines.
    extractor_url: str = ""
    extractor_model: str = ""  # the name that the endpoint knows the model by
    extractor_key_env: str = "EXTRACTOR_API_KEY"  # environment variable that holds its key, if it wants one
    extractor_prompt_file: str = ""  # with {information}, {title}, {page}; empty: the built-in one
    file_bytes: int = 1 << 24  # of a PDF, Word, Excel or PowerPoint file; a larger one is not read
    scrape_lines: int = 5  # lines kept by the extractor
    # Answer a repeated, successful, side-effect-free call from memory. What an episode meets then depends on those
    # before it, as it must not where a run is to be repeated.
    cache: bool = False
    # Where code runs: local (bubblewrap on this machine) or e2b (a hosted service, or your own of the same kind;
    # pip install 'mirothinker-jax[e2b]').
    sandbox: str = "local"
    sandbox_url: str = ""  # with tools.sandbox=e2b: address of the API; empty: E2B's own
    sandbox_key_env: str = "E2B_API_KEY"  # environment variable that holds its key
    sandbox_template: str = ""  # its template for new sandboxes; empty: the service's default
    sandboxes: int = 64  # at once; where another is wanted, the one unused for longest ends
    sandbox_bytes: int = 1 << 30  # memory of a local sandbox, all of its processes together
    # A cgroup v2 to make sandboxes' groups in, such as /sys/fs/cgroup/NAME; empty: this process's or the one above it,
    # where it can be divided, else memory and processes are watched.
    sandbox_cgroup: str = ""
    unsafe_sandbox: bool = False  # run a model's code without bubblewrap (no isolation!)

    def __post_init__(self):
        for name in self.names:
            one_of("tools.names", name, TOOL_NAMES)
        one_of("tools.sandbox", self.sandbox, ("local", "e2b"))
        check(
            self.sandbox == "e2b" or not (self.sandbox_url or self.sandbox_template),
            "tools.sandbox_url and tools.sandbox_template are of tools.sandbox=e2b; set that, or leave them out",
        )
        check(
            self.sandbox == "local" or not (self.unsafe_sandbox or self.sandbox_cgroup),
            f"tools.sandbox is {self.sandbox!r}; leave out tools.unsafe_sandbox and tools.sandbox_cgroup, which are of "
            "this machine's",
        )
        check(self.sandboxes >= 1, f"tools.sandboxes is {self.sandboxes}; it must be ≥ 1")
        check(
            self.sandbox_bytes >= 1 << 27,
            f"tools.sandbox_bytes is {self.sandbox_bytes:,}; Python and its packages need {1 << 27:,}",
        )
        one_of("tools.reader", self.reader, ("rules", "trafilatura", "jina"))
        for word in self.refuse:
            check(
                len(word) >= 4 and word == word.casefold(),
                f"tools.refuse holds {word!r}; give words of four or more small letters",
            )
        for key in ("search_url", "reader_url", "extractor_url", "sandbox_url"):
            check_address(f"tools.{key}", getattr(self, key))
        self._check_search()
        check(
            bool(self.reader_url or self.reader != "jina"),
            "tools.reader is 'jina' and tools.reader_url is empty; give the address of a reader service",
        )
        check(
            bool(self.extractor_model) == bool(self.extractor_url),
            f"tools.extractor_url is {self.extractor_url!r} and tools.extractor_model {self.extractor_model!r}; "
            "give both or neither",
        )
        check(self.file_bytes >= 1, f"tools.file_bytes is {self.file_bytes}; it must be ≥ 1")
        check(self.deadline_s > 0, f"tools.deadline_s is {self.deadline_s}; it must be > 0")
        check(self.output_tokens >= 8, f"tools.output_tokens is {self.output_tokens}; it must be ≥ 8")
        check(self.concurrency >= 1, f"tools.concurrency is {self.concurrency}; it must be ≥ 1")
        check(self.retries >= 0, f"tools.retries is {self.retries}; it must be ≥ 0")
        check(self.breaker_failures >= 0, f"tools.breaker_failures is {self.breaker_failures}; 0 is off")
        check(self.breaker_open_s > 0, f"tools.breaker_open_s is {self.breaker_open_s}; it must be > 0")
        for name, calls in self.by_tool("tool_concurrency").items():
            check(
                calls == int(calls),
                f"tools.tool_concurrency is {calls:g} for {name}; give whole numbers",
            )
        self.by_tool("tool_rates")
        check(
            not (self.record and self.replay),
            f"tools.record is {self.record!r} and tools.replay {self.replay!r}; a run makes its calls or replays them",
        )

    def by_tool(self, key: str) -> dict[str, float]:
        """`tool_concurrency` or `tool_rates` as numbers by the tool's name. Raises ConfigError for another form."""
        numbers: dict[str, float] = {}
        for entry in getattr(self, key):
            match = re.fullmatch(r"(.+):(\d+(?:\.\d+)?)", entry)
            check(
                match is not None and float(match[2]) > 0,
                f"tools.{key} holds {entry!r}; write TOOL:NUMBER with a number above 0, such as google_search:5",
            )
            assert match is not None
            check(match[1] not in numbers, f"tools.{key} names {match[1]} twice")
            numbers[match[1]] = float(match[2])
        return numbers

    @property
    def search_backend(self) -> str:
        """What `search` says, or what its being empty means."""
        return self.search or ("corpus" if self.corpus else "serper" if self.search_url else "world")

    def _check_search(self) -> None:
        where = self.search_backend
        one_of("tools.search", where, ("world", *_SEARCH_SERVICES, "corpus"))
        check(
            where in _SEARCH_SERVICES or not self.search_url,
            f"tools.search_url is {self.search_url!r} and tools.search {where!r}, which asks no service; leave one out",
        )
        check(
            where != "searxng" or bool(self.search_url),
            "tools.search_url is empty, and there is no SearXNG for everyone; give yours, such as http://localhost:8080",
        )
        check(
            (where == "corpus") == bool(self.corpus),
            f"tools.corpus is {self.corpus!r} and tools.search {where!r}; give the corpus alone, or neither",
        )
        check(
            not self.corpus or self.reader != "jina",
            f"tools.reader is 'jina', a service that would leave tools.corpus ({self.corpus}); take another reader",
        )


@dataclass(frozen=True)
class RolloutConfig:
    """The sampler: pages of keys and values, which up to `slots` turns at once are sampled over."""

    slots: int = 64  # turns sampled at once
    # Devices of a host over which the sampler's weights are split, and keys and values by heads; each `tensor` of them
    # are a copy of the model, with pages and turns of its own. For models that one device does not hold. Where
    # there are more devices than key/value heads, those with the same head split the tokens of each page.
    tensor: int = 1
    page_tokens: int = 64  # tokens of a page
    pages: int = 0  # of all devices; 0: as many as `slots` whole contexts take
    # GiB of the host's memory, in each process, for pages that have to leave the devices: they come back instead of
    # being computed again. 0: none.
    host_gib: float = 0.0
    prefill_tokens: int = 64  # tokens of a block of prefill; a context takes as many blocks as it needs
    prefill_slots: int = 32  # blocks per prefill dispatch
    decode_steps: int = 8  # tokens per decode dispatch
    deterministic: bool = False  # a turn is the same, bit for bit, whatever is sampled beside it; slower
    # Who samples: local, this run's own devices; remote, the servers at rollout.urls, which get every new policy.
    engine: str = "local"
    # Of servers with the model that is trained, such as http://host:8000: vLLM, SGLang or mirothinker_jax.serve.
    urls: tuple[str, ...] = ()
    protocol: str = "auto"  # that the servers speak: auto (what they say they have), vllm or sglang
    key_env: str = ""  # environment variable with the servers' key, if they want one
    # Where the servers find new weights: a folder that they see under the same path. Empty: weights in run_dir.
    weights_dir: str = ""
    weights_dtype: str = ""  # of what is written there: float32 or bfloat16; empty: as the parameters are
    max_lag: int = 0  # versions that a server's weights may be behind, and it is still asked
    # Turns that new weights meet in the middle go on with what the old ones computed of their contexts (vLLM, SGLang);
    # else that is computed again.
    stale_keys: bool = False
    timeout_s: float = 1800.0  # seconds that a server has for a turn, or to take weights
    retries: int = 3  # of a turn, where a server fails; on another one if there is one

    def __post_init__(self):
        for key in ("slots", "tensor", "page_tokens", "prefill_tokens", "prefill_slots", "decode_steps"):
            check(getattr(self, key) >= 1, f"rollout.{key} is {getattr(self, key)}; it must be ≥ 1")
        check(self.pages >= 0, f"rollout.pages is {self.pages}; give 0 for as many as all slots take")
        check(
            0 <= self.host_gib < float("inf"), f"rollout.host_gib is {self.host_gib}; give 0 for none, or GiB"
        )
        check(
            not self.deterministic or self.page_tokens % self.prefill_tokens == 0,
            f"rollout.deterministic feeds whole blocks of pages: rollout.page_tokens ({self.page_tokens}) must be a "
            f"multiple of rollout.prefill_tokens ({self.prefill_tokens})",
        )
        one_of("rollout.engine", self.engine, ("local", "remote"))
        one_of("rollout.protocol", self.protocol, ("auto", "vllm", "sglang"))
        one_of("rollout.weights_dtype", self.weights_dtype, ("", "float32", "bfloat16"))
        check(
            bool(self.urls) == (self.engine == "remote"),
            f"rollout.urls is {self.urls} and rollout.engine {self.engine!r}; servers are asked with "
            "rollout.engine=remote, which needs their addresses",
        )
        for url in self.urls:
            check(bool(url), "rollout.urls has an empty address; write each as http://host:port")
            check_address("rollout.urls", url)
        check(len(set(self.urls)) == len(self.urls), f"rollout.urls is {self.urls}; name each server once")
        check(self.max_lag >= 0, f"rollout.max_lag is {self.max_lag}; 0 is none")
        check(self.timeout_s > 0, f"rollout.timeout_s is {self.timeout_s}; it must be > 0")
        check(self.retries >= 0, f"rollout.retries is {self.retries}; it must be ≥ 0")


@dataclass(frozen=True)
class EvalConfig:
    """Held-out accuracy after each stage, and against the number of allowed calls."""

    questions: int = 300  # held-out questions per stage; 0: no evaluation
    budgets: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)  # allowed calls at which the scaling curve is measured
    # Of sampling, where nothing is trained on what is sampled: stages' evaluations, asking and evaluating. agent.preset
    # has a say in all three. temperature 0: greedy. [1.0]
    temperature: float = UNSET
    top_p: float = UNSET  # nucleus sampling; 1: off [0.95]
    # Divides the logits of what the context holds already, as vLLM does; 1: off. MiroThinker's releases: 1.05. [1.0]
    repetition_penalty: float = UNSET

    def __post_init__(self):
        check(self.questions >= 0, f"evaluation.questions is {self.questions}; it must be ≥ 0")
        check(
            bool(self.budgets),
            "evaluation.budgets is empty; give calls, or evaluation.questions=0 for no evaluation",
        )
        check(all(b >= 0 for b in self.budgets), f"evaluation.budgets is {self.budgets}; give calls ≥ 0")
        for key, good, allowed in (
            ("temperature", lambda x: x >= 0, "0 is greedy"),
            ("top_p", lambda x: 0 < x <= 1, "give 0 < x ≤ 1"),
            ("repetition_penalty", lambda x: x > 0, "it must be > 0; 1 is off"),
        ):
            value = getattr(self, key)
            check(value is UNSET or good(value), f"evaluation.{key} is {value}; {allowed}")


@dataclass(frozen=True)
class StudyConfig:
    """What `python -m mirothinker_jax.study` asks a trained policy; the embedded web's questions alone."""

    questions: int = 70  # held-out questions of depth 0 … world.max_hops, for calls, arms and recovery
    budgets: tuple[int, ...] = (
        1,
        2,
        3,
        4,
        6,
        8,
        10,
        14,
    )  # allowed calls of the scaling curves; the last is deep
    shallow_calls: tuple[int, ...] = (3, 5)  # allowed calls of each of many shallow attempts
    samples: int = 8  # shallow attempts at a question, whose majority answers
    react_calls: int = 5  # allowed calls of the plain agent among the arms
    depths: tuple[int, ...] = (2, 4, 6, 8, 16, 32, 64)  # hops of the walks on which drift is measured
    long_depths: tuple[int, ...] = (16, 32, 64)  # hops of the walks on which results are hidden
    walks: int = 20  # held-out walks of each of these depths
    fault_steps: tuple[int, ...] = (1, 3)  # pages read before something goes wrong, for recovery

    def __post_init__(self):
        for key in ("questions", "samples", "react_calls", "walks"):
            check(getattr(self, key) >= 1, f"study.{key} is {getattr(self, key)}; it must be ≥ 1")
        for key in ("budgets", "shallow_calls", "depths", "long_depths", "fault_steps"):
            values = getattr(self, key)
            least = 0 if key == "fault_steps" else 1
            good = bool(values) and all(value >= least for value in values)
            check(good, f"study.{key} is {values}; give one or more numbers ≥ {least}")
