"""What the study asks follows from the world, and what it gives to an episode is what the expert would have said."""

import asyncio
import dataclasses

import pytest

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.expert import Expert, Plan
from mirothinker_jax.agent.policy import Request
from mirothinker_jax.config import Config, WorldConfig
from mirothinker_jax.config_episodes import StudyConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.pipeline.study_questions import Questions, announced, partners, tasks

CONFIG = Config(
    world=WorldConfig(sources=("airports",), attributes=("icao",), max_hops=3),
    study=StudyConfig(questions=12, walks=3),
)


@pytest.fixture(scope="module")
def questions():
    return Questions(CONFIG)


def test_walks_go_deeper_than_the_questions_of_training(questions):
    assert sorted(q.hops for q in questions.usual) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for hops in (2, 9):
        walks = questions.walks(hops)
        assert [w.hops for w in walks] == [hops] * 3 and walks == Questions(CONFIG).walks(hops)
        assert all(questions.world.split_of(page) == "heldout" for w in walks for page in w.path)
        for walk, asked in zip(walks, tasks(walks), strict=True):
            assert questions.way_of(asked.metadata) == questions.way(walk)


def test_the_first_turns_are_the_experts(questions):
    """Played against pages as the tools show them, the expert says the same."""
    question = questions.walks(9)[0]
    pages, reads = questions.way(question)
    entities = questions.world.entities
    heard = [f"1. {question.start}\n{entities[pages[0]].url}"]
    for page, to, wanted in zip(pages, pages[1:], reads, strict=False):
        heard.append(f"{entities[page].title}\n{wanted}: [{entities[to].title}]({entities[to].url})")
    codec = Characters()
    chat, expert = Chat(codec), Expert(lambda _: Plan(question.start, reads), 0.0)
    ids, said = chat.prompt("", question.text), []
    for text in heard:
        turn = asyncio.run(expert.generate(Request("q", ids, 10**6))).tokens
        said.append(codec.decode(turn[:-1]))
        ids = [*ids, *turn, *chat.observation([text])]
    # A search, and a page for each read but the last, which nothing was heard for yet.
    assert questions.first_turns(question, len(heard) - 1, "mcp") == said
    assert questions.first_turns(question, 0, "mcp") == []


LINES = dataclasses.replace(CONFIG, world=dataclasses.replace(CONFIG.world, lines=12))


@pytest.mark.parametrize(("config", "hops"), [(CONFIG, 3), (LINES, 12)], ids=["facts", "lines"])
def test_all_pages_of_the_way_are_in_the_prompt_and_as_many_others(config, hops):
    """With few links each, however many there are."""
    questions = Questions(config)
    question = questions.walks(hops)[0]
    text = questions.with_pages(question)
    assert text == questions.with_pages(question)
    asked, *pages = text.split("\n\n")
    shown = [page.partition("\n")[0] for page in pages]
    assert asked == question.text and len(set(shown)) == len(shown) == 2 * len(set(question.path))
    assert all(page.count("](") <= 8 for page in pages)
    entities = questions.world.entities
    assert {entities[page].title for page in question.path} < set(shown)
    for page, to, relation in zip(question.path, question.path[1:], question.relations, strict=False):
        told = next(p for p in pages if p.startswith(f"{entities[page].title}\n"))
        assert f"\n{relation}: [{entities[to].title}]({entities[to].url})" in told
    end = next(p for p in pages if p.startswith(f"{entities[question.path[-1]].title}\n"))
    assert end.endswith(f"\nicao: {question.answer}")


def test_another_page_tells_otherwise(questions):
    entities = questions.world.entities
    for question in questions.walks(3):
        for page, wanted in zip(*questions.way(question), strict=True):
            url = questions.other(entities[page].url, wanted)
            assert url == questions.other(entities[page].mirror_url, wanted) and url is not None
            told, other = (
                {**e.facts, **e.links}[wanted] for e in (entities[page], entities[url.rpartition("/")[2]])
            )
            assert told != other
            assert (
                questions.world.neighbourhood[page] == questions.world.neighbourhood[url.rpartition("/")[2]]
            )
    assert questions.other("http://airports.test/nowhere", "west") is None
    assert questions.other(entities[question.path[0]].url, "capital") is None


def test_other_words_for_the_same_tasks(questions):
    plain = tasks(questions.usual)
    told = announced(plain, 4)
    assert [t.question for t in told] == [f"{t.question} You may make at most 4 calls." for t in plain]
    louder = tasks(questions.usual, lambda q: q.text.upper())
    same = [dataclasses.replace(t, question=p.question) for t, p in zip(louder, plain, strict=True)]
    assert same == plain and louder != plain


@pytest.mark.parametrize("count", [12, 5, 2])
def test_partners_are_others_of_the_same_depth(questions, count):
    asked = tasks(questions.usual)[:count]
    hops = {t.id: t.metadata["hops"] for t in asked}
    pairs = partners(asked)
    assert pairs.keys() == hops.keys() and all(one != other for one, other in pairs.items())
    alone = {one for one in hops if list(hops.values()).count(hops[one]) == 1}
    assert all(hops[one] == hops[other] for one, other in pairs.items() if one not in alone)
