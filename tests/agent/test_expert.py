"""The scripted expert on a small web with dead links and wrong hits, and its episodes as training data."""

import numpy as np
import pytest
from scripted import CODEC, Script, Tools, call

from mirothinker_jax.agent.expert import SCRAPE, Expert, Plan, messages
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import CALL_FORMATS, TokenizerConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.templates import TEMPLATES
from mirothinker_jax.data.tokenizer import Tokenizer, train_tokenizer
from mirothinker_jax.tools.spec import Failure, ToolResult, ToolSpec
from mirothinker_jax.trajectory.types import Source, Stop

PLAN = Plan("KTM", ("west", "higher", "city"))  # from KTM go west, higher; what is its city?
PAGES = {
    "KTM": {"west": "[PKR](http://w/PKR)", "higher": "[LUA](http://w/LUA)", "city": "Kathmandu"},
    "PKR": {"west": "[KTM](http://w/KTM)", "higher": "[LUA](http://w/LUA)", "city": "Pokhara"},
    "LUA": {"west": "[PKR](http://w/PKR)", "higher": "[KTM](http://w/KTM)", "city": "Lukla"},
}


class Web:
    """Search and scrape over PAGES. `dead` addresses answer 404, `gone` ones are not found, `first` is found
    before the right one."""

    def __init__(self, dead=(), first=None, gone=()):
        self.dead, self.first, self.gone = dead, first, gone

    def __call__(self, c):
        if c.tool == "google_search":
            hits = [
                (c.arguments["q"], f"http://w/{c.arguments['q']}"),
                (c.arguments["q"], f"http://m/{c.arguments['q']}"),
            ]
            hits = [hit for hit in hits if hit[1] not in self.gone]
            if self.first:
                hits.insert(0, self.first)
            return "\n".join(f"{i}. {name}\n{url}" for i, (name, url) in enumerate(hits, 1))
        url = c.arguments["url"]
        if url in self.dead:
            return ToolResult("404 Not Found", Failure.TOOL_ERROR)
        title = url.rsplit("/", 1)[1]
        wanted = c.arguments["info_to_extract"]
        return f"{title}\n{wanted}: {PAGES[title][wanted]}"


def asked(tools):
    return [
        c.arguments.get("q") or (c.arguments["url"], c.arguments["info_to_extract"]) for c, _ in tools.calls
    ]


@pytest.mark.parametrize("call_format", CALL_FORMATS)
def test_it_follows_its_plan(play, call_format):
    trajectory, _, tools = play(
        Expert(lambda question: PLAN, 0.0, call_format), Tools(Web()), call_format=call_format
    )
    assert (trajectory.stop, trajectory.answer) == (Stop.ANSWERED, "Lukla")
    assert asked(tools) == [
        "KTM",
        ("http://w/KTM", "west"),
        ("http://w/PKR", "higher"),
        ("http://w/LUA", "city"),
    ]
    server = SCRAPE[0] if call_format == "mcp" else ""
    assert {(c.server, c.tool) for c, _ in tools.calls[1:]} == {(server, SCRAPE[1])}


def test_a_thought_is_what_is_left_of_the_question():
    assert Plan("KTM", ("west", "higher", "city")).thoughts() == (
        "go west higher from city",
        "west higher from city",
        "higher from city",
    )
    assert Plan("KTM", ("city",)).thoughts() == ("look up city",)


def test_a_dead_link_sends_it_searching_for_a_mirror(play):
    web = Web(dead=("http://w/PKR",))
    trajectory, _, tools = play(Expert(lambda question: PLAN, 0.0), Tools(web), max_calls=12)
    assert (trajectory.answer, trajectory.failed_calls) == ("Lukla", 1)
    assert asked(tools)[2:5] == [("http://w/PKR", "higher"), "PKR", ("http://m/PKR", "higher")]


def test_it_reads_the_titles_of_hits(play):
    web = Web(first=("LUA", "http://w/LUA"))
    trajectory, _, tools = play(Expert(lambda question: PLAN, 0.0), Tools(web))
    assert trajectory.answer == "Lukla" and asked(tools)[1] == ("http://w/KTM", "west")


def test_mistakes_are_made_and_mended(play):
    """They cost calls, not answers (but that the expert gives up after three failures at one step)."""
    extra, right = [], []
    for rate in (0.0, 0.3, 0.6):
        web = Web(first=("PKR", "http://w/PKR"))
        experts = [Expert(lambda question: PLAN, rate, seed=i) for i in range(20)]
        episodes = [play(expert, Tools(web), max_calls=40)[0] for expert in experts]
        assert {t.answer for t in episodes} <= {"Lukla", None}
        right.append(sum(t.answer == "Lukla" for t in episodes))
        extra.append(np.mean([t.calls for t in episodes]) - 4)
    assert extra[0] == 0 and 0.5 < extra[1] < extra[2]
    assert right[0] == 20 and right[1] >= 17


class Fresh:
    """An expert that is made anew for every turn, as when an episode is gone on with."""

    def __init__(self, seed):
        self.seed = seed

    async def generate(self, request):
        return await Expert(lambda question: PLAN, 0.5, seed=self.seed).generate(request)

    def forget(self, session):
        pass


def test_an_expert_that_did_not_hear_the_beginning_goes_on_as_the_other(play):
    for seed in range(8):
        whole = play(Expert(lambda question: PLAN, 0.5, seed=seed), Tools(Web()), max_calls=20)[0]
        assert play(Fresh(seed), Tools(Web()), max_calls=20)[0] == whole


def test_equal_seeds_give_equal_episodes(play):
    first, second = (
        play(Expert(lambda question: PLAN, 0.5), Tools(Web()), max_calls=20)[0] for _ in range(2)
    )
    assert first == second


def test_a_page_that_cannot_be_found_is_given_up(play):
    trajectory, _, tools = play(
        Expert(lambda question: PLAN, 0.0),
        Tools(Web(dead=("http://w/KTM",), gone=("http://m/KTM",))),
        max_calls=40,
    )
    assert (trajectory.stop, trajectory.answer) == (Stop.GAVE_UP, None)
    assert len(tools.calls) < 20


def test_it_says_unknown_when_it_must_answer_too_early(play):
    trajectory, _, _ = play(Expert(lambda question: PLAN, 0.0), Tools(Web()), max_calls=2)
    assert (trajectory.stop, trajectory.answer, trajectory.calls) == (Stop.GAVE_UP, None, 2)
    assert FINAL_REQUEST in trajectory.segments[-2].text
    assert trajectory.segments[-1].text.endswith("\\boxed{unknown}")


def policy_mask(trajectory):
    return np.concatenate([np.full(len(s.tokens), s.source is Source.POLICY) for s in trajectory.segments])


def ledger(trajectory):
    return np.concatenate([np.asarray(s.tokens, np.int32) for s in trajectory.segments])


@pytest.mark.parametrize("system", [None, "Use tools.\nAnswer in \\boxed{}."])
def test_its_episodes_as_conversations(play, system):
    """Rendered again as training data: the same ids, and exactly what the policy said is trained."""
    for max_calls in (0, 2, 12):
        trajectory, _, _ = play(
            Expert(lambda question: PLAN, 0.3), Tools(Web()), max_calls=max_calls, system=system
        )
        conversation = messages(trajectory)
        roles = [m["role"] for m in conversation]
        assert roles == ["system"] * (system is not None) + ["user", "assistant"] * (len(roles) // 2)
        rendered = Chat(CODEC).render(conversation)
        np.testing.assert_array_equal(rendered.tokens, ledger(trajectory))
        np.testing.assert_array_equal(rendered.trained, policy_mask(trajectory))


def test_what_a_tokenizer_makes_of_a_rollout_and_of_its_text(play, tmp_path):
    """The same with a real tokenizer: a model that says the expert's words leaves the ledger that training on
    the expert's text has."""
    expert, _, _ = play(Expert(lambda question: PLAN, 0.0), Tools(Web()), system="Use tools.")
    conversation = messages(expert)
    path = tmp_path / "toy.model"
    train_tokenizer([m["content"] for m in conversation] * 20, path, TokenizerConfig(vocab_size=400))
    codec = Tokenizer(path)
    lines = [m["content"] for m in conversation if m["role"] == "assistant"]
    trajectory, _, _ = play(Script(lines, codec), Tools(Web()), codec=codec, system="Use tools.")
    assert trajectory.answer == "Lukla"
    rendered = Chat(codec).render(conversation)
    np.testing.assert_array_equal(rendered.tokens, ledger(trajectory))
    np.testing.assert_array_equal(rendered.trained, policy_mask(trajectory))


FUNCTIONS = WIRES["hermes"].functions(
    [ToolSpec("s", "google_search", "Finds pages </tools>.", {"type": "object"})]
)


@pytest.mark.parametrize("system", [None, "Use tools."])
@pytest.mark.parametrize("max_calls", [0, 2, 12])
def test_its_episodes_in_qwens_format(play, system, max_calls):
    setting = dict(call_format="hermes", system=system, functions=FUNCTIONS, max_calls=max_calls)
    trajectory, _, _ = play(Expert(lambda question: PLAN, 0.3, "hermes"), Tools(Web()), **setting)
    conversation = messages(trajectory)
    roles = [m["role"] for m in conversation]
    calls = trajectory.calls
    forced = ["user", "assistant"] if trajectory.calls == max_calls > 0 else []
    between = ["tool", "assistant"] * (calls - bool(forced)) + ["tool"] * bool(forced)
    assert roles == ["system", "user", "assistant", *between, *forced]
    rendered = Chat(CODEC, call_format="hermes").render(conversation)
    np.testing.assert_array_equal(rendered.tokens, ledger(trajectory))
    np.testing.assert_array_equal(rendered.trained, policy_mask(trajectory))


@pytest.mark.parametrize("template", ["chatml", "qwen2.5", "qwen3", "qwen3-thinking-2507"])
@pytest.mark.parametrize("max_calls", [2, 12])
def test_qwens_tokens_of_a_rollout_and_of_the_expert_text(play, qwen, monkeypatch, template, max_calls):
    """A model that says what training on the expert's text taught it leaves the same ids, tags and frames included."""
    monkeypatch.setattr(qwen, "template", TEMPLATES[template])
    setting = dict(call_format="hermes", functions=FUNCTIONS, max_calls=max_calls, turn_tokens=500)
    expert, _, _ = play(Expert(lambda question: PLAN, 0.0, "hermes"), Tools(Web()), **setting)
    conversation = messages(expert)[1:]  # without the system message, which the template begins
    assert max_calls == 2 or {"role": "tool", "content": "LUA\ncity: Lukla"} in conversation
    rendered = Chat(qwen, call_format="hermes").render(conversation, FUNCTIONS)
    turns = np.split(rendered.tokens, np.flatnonzero(np.diff(rendered.trained.astype(int))) + 1)[1::2]
    lines = [qwen.decode(turn[:-1]) for turn in turns]
    trajectory, _, tools = play(Script(lines, qwen), Tools(Web()), codec=qwen, **setting)
    assert (trajectory.answer, len(tools.calls)) == (("Lukla", 4) if max_calls == 12 else (None, 2))
    np.testing.assert_array_equal(rendered.tokens, ledger(trajectory))
    np.testing.assert_array_equal(rendered.trained, policy_mask(trajectory))
    names = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    counts = [int(np.sum(rendered.tokens == qwen.token_id(name))) for name in names]
    assert counts == [len(tools.calls) + 2, len(tools.calls) + 2, len(tools.calls), len(tools.calls)]


def test_a_tokenizer_that_was_trained_for_qwens_format(play, tmp_path):
    setting = dict(call_format="hermes", system="Use tools.", functions=FUNCTIONS, turn_tokens=500)
    expert, _, _ = play(Expert(lambda question: PLAN, 0.0, "hermes"), Tools(Web()), **setting)
    conversation = messages(expert)
    path = tmp_path / "toy.model"
    texts = [m["content"] for m in conversation] * 20
    train_tokenizer(texts, path, TokenizerConfig(vocab_size=400), "hermes")
    codec = Tokenizer(path)
    for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        assert codec.encode(tag) == [codec.token_id(tag)] and len(codec.encode_untrusted(tag)) > 1
    frame = [codec.token_id(tag) for tag in ("<tool_response>", "</tool_response>")]
    assert not {*frame, None} & {*codec.encode("<tool_response></tool_response>")} and None not in frame
    lines = [m["content"] for m in conversation if m["role"] == "assistant"]
    trajectory, _, _ = play(Script(lines, codec), Tools(Web()), codec=codec, **setting)
    assert trajectory.answer == "Lukla"
    rendered = Chat(codec, call_format="hermes").render(conversation)
    np.testing.assert_array_equal(rendered.tokens, ledger(trajectory))
    np.testing.assert_array_equal(rendered.trained, policy_mask(trajectory))
    assert all(np.sum(rendered.tokens == i) == 4 for i in frame)


def test_every_trained_token_of_a_short_episode(play):
    """Thought, call and <|im_end|> are; prompt, result, headers and the newlines between turns are not."""
    trajectory, _, _ = play([f"<think>hm</think>{call(q='a')}", "\\boxed{x}"], Tools(lambda c: "found"))
    rendered = Chat(CODEC).render(messages(trajectory))
    shown = [CODEC.decode([i]) if trained else "·" for i, trained in zip(*rendered, strict=True)]
    text = "".join(shown)
    assert text.strip("·").replace("·", "") == (
        f"<think>hm</think>{call(q='a')}<|im_end|>" + "\\boxed{x}<|im_end|>"
    )
    between = CODEC.decode(trajectory.segments[2].tokens)
    assert between == "\n<|im_start|>user\nfound<|im_end|>\n<|im_start|>assistant\n"
    assert f"<|im_end|>{'·' * len(trajectory.segments[2].tokens)}\\boxed" in text
