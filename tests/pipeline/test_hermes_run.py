"""A model with Qwen's tokenizer and format earns reward from its first step: DPO, GRPO and evaluation, with no SFT,
on a user's file of questions, graded by a user's function.

The model is tiny and nothing was trained: its weights are written so that what follows a token is what the test wants
(attention and feed-forward add nothing yet). It searches or answers by chance, and is right now and then.
"""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax import convert, evaluate, flags
from mirothinker_jax.config import ModelConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import open_conversations
from mirothinker_jax.data.hf_tokenizer import HFTokenizer
from mirothinker_jax.data.preference import render_pair
from mirothinker_jax.data.preference_files import open_pairs
from mirothinker_jax.models.hf import tensors
from mirothinker_jax.models.hf_config import to_hf
from mirothinker_jax.models.hf_files import write
from mirothinker_jax.pipeline import local_policy, preflight, prepare
from mirothinker_jax.pipeline import run as pipeline
from mirothinker_jax.pipeline.inputs import draw_tasks, open_inputs, open_tasks
from mirothinker_jax.rollout.local import layout
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Source

pytestmark = pytest.mark.usefixtures("relaxed_promotion")

VOCAB, HIDDEN = 151_936, 64
MODEL = ModelConfig(
    vocab_size=VOCAB, hidden=HIDDEN, layers=1, heads=2, kv_heads=1, head_dim=8, ffn=32, tied_head=False,
    param_dtype="bfloat16",
)  # fmt: skip
# Each token once, so that it alone says what comes next.
CALL = [
    "<tool_call>", '{"', "name", '":"', "google", "_search", '","', "q", '":', ' "', "DXB", '"}', "</tool_call>"
]  # fmt: skip
TRAINING = {
    "steps": 1, "batch_size": 4, "microbatch_size": 1, "sequence_length": 768, "checkpoint_every": 1,
    "optimizer.learning_rate": 1e-2,
}  # fmt: skip
SETTINGS = {
    "data.call_format": "hermes",
    "stages": "dpo,grpo",
    "world.sources": "airports", "world.max_entities": 16, "world.max_hops": 0, "world.attributes": "city",
    "world.wrong_first_hit": 0, "world.dead_link": 0, "world.failing_call": 0, "world.slow_call": 0,
    "tools.names": "google_search,", "tools.output_tokens": 24, "tools.search_results": 1, "tools.snippet_chars": 0,
    "agent.max_calls": 2, "agent.context_tokens": 768, "agent.turn_tokens": 18,
    "rollout.slots": 8, "rollout.prefill_slots": 4, "rollout.prefill_tokens": 256,
    "model.param_dtype": "float32", "model.compute_dtype": "float32",
    "evaluation.questions": 2, "evaluation.budgets": "2,", "evaluation.top_p": 1.0,
    "dpo.sft_coef": 0, "dpo.questions": 2, "dpo.samples": 6,
    "grpo.questions": 1, "grpo.group": 6, "grpo.question_pool": 2,
    **{f"{stage}.training.{key}": value for stage in ("dpo", "grpo") for key, value in TRAINING.items()},
    "dpo.training.batch_size": 1, "dpo.training.sequence_length": 1536, "grpo.training.batch_size": 6,
}  # fmt: skip


GRADER = """
from mirothinker_jax.tasks.types import Verdict

def grade(task, attempt):
    said = (attempt.answer or "").strip()
    return Verdict(said == task.answer, f"said {said}", {"short": float(len(attempt.messages()) <= 3)})
"""


def write_questions(path, tasks):
    """In the form of MiroThinker's files."""
    records = ({"task_question": task.question, "ground_truth": task.answer, "level": 1} for task in tasks)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def follow(codec, answers):
    """Token → those that may follow it."""
    boxes = [["\\", "boxed", "{", answer, "}"] for answer in answers]
    after = {}
    for pieces in [CALL, *boxes]:
        chain = [*itertools.chain.from_iterable(map(codec.encode, ["\n", *pieces])), codec.im_end_id]
        assert len(set(chain)) == len(chain)
        for before, next_ in itertools.pairwise(chain):
            after.setdefault(before, set()).add(next_)
    return after


def codes(count):
    """Orthogonal ±1 rows, [count, HIDDEN]."""
    rows = np.ones((1, 1), np.float32)
    while len(rows) < HIDDEN:
        rows = np.block([[rows, rows], [rows, -rows]])
    return rows[:count]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, qwen_folder):
    """A Hugging Face folder of a model that speaks the format."""
    path = tmp_path_factory.mktemp("hf")
    config = flags.parse(["--config", "qwen/grpo:qwen3-1.7b", *settings()])
    environment = open_tasks(config, list)
    answers = sorted(
        {task.answer for stage in ("dpo", "grpo") for task in draw_tasks(environment, config, stage)}
    )
    after = follow(HFTokenizer(qwen_folder), answers)
    code = dict(zip(after, codes(len(after)), strict=True))
    values = {t.name: np.zeros(t.part, np.float32) for t in tensors(MODEL, VOCAB)}
    for name in values:
        if "norm" in name:
            values[name] += 1.0
        elif name.rsplit(".", 2)[1] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
            values[name] += np.random.default_rng(0).normal(0, 0.1, values[name].shape)
    for token, row in code.items():
        values["model.embed_tokens.weight"][token] = row
        for next_ in after[token]:
            values["lm_head.weight"][next_] += row * 30 / HIDDEN
    write(path, tensors(MODEL, VOCAB), "bfloat16", lambda t: values[t.name], 1 << 28, iter)
    (path / "config.json").write_text(json.dumps(to_hf(MODEL, VOCAB, {"eos_token_id": 151645})))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(qwen_folder / name, path / name)
    return path


def settings(**changed):
    return [f"--config.{key}={value}" for key, value in (SETTINGS | changed).items()]


@pytest.mark.slow
def test_a_model_of_qwens_format_goes_through_dpo_and_grpo(folder, tmp_path, monkeypatch):
    base, trained = tmp_path / "base", tmp_path / "trained"
    assert convert.main(["--from", "hf", "--path", str(folder), "--out", str(base)]) == 0
    for module in (prepare, preflight):
        monkeypatch.setattr(module, "make_mesh", lambda _: tiny.mesh())
    config = flags.parse(["--config", f"qwen/grpo:{base}", *settings(run_dir=trained)])
    monkeypatch.setattr(layout, "local_mesh", lambda *_: tiny.mesh())
    world = open_tasks(config, list)
    write_questions(tmp_path / "train.jsonl", draw_tasks(world, config, "dpo"))
    write_questions(tmp_path / "heldout.jsonl", draw_tasks(world, config, "evaluation"))
    (tmp_path / "judging.py").write_text(GRADER)
    monkeypatch.chdir(tmp_path)
    own = {"tasks.train": "train.jsonl", "tasks.heldout": "heldout.jsonl", "tasks.grader": "judging:grade"}
    own |= {"run_dir": trained, "grpo.reward_terms": "short:0.25,"}
    config = flags.parse(["--config", f"qwen/grpo:{base}", *settings(**own)])
    summary = pipeline.run(config, open_inputs(config))

    episodes = journal.read(trained / "dpo" / "samples.jsonl")
    assert len(episodes) == 12 and not any(e.malformed_calls or e.failed_calls for e in episodes)
    assert {e.calls for e in episodes} == {0, 1, 2}
    assert 0 < sum(e.correct for e in episodes) < 12
    searched = next(e for e in episodes if e.calls == 1)
    prompt, call, result, answer = searched.segments
    seen = HFTokenizer(folder).decode(prompt.tokens)
    assert seen.count("# Tools") == 1 and '"name": "google_search"' in seen
    assert call.messages == (("assistant", "".join(CALL)),)
    assert result.source is Source.OBSERVATION and result.text.startswith("1. ")
    assert answer.text == f"\\boxed{{{searched.answer}}}"
    assert searched.reason == f"said {searched.answer}" and searched.metadata == {"level": 1}

    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    dpo, grpo = ([line for line in lines if line["stage"] == stage] for stage in ("dpo", "grpo"))
    np.testing.assert_allclose(dpo[0]["loss"], np.log(2), atol=1e-3)
    assert len(dpo) == len(grpo) == 1
    graded = journal.read(trained / "grpo" / "rollouts" / "step_000000.jsonl")
    assert len(graded) == 6 and len({(e.correct, e.terms["short"]) for e in graded}) > 1
    earned = np.mean([e.correct + 0.25 * e.terms["short"] for e in graded])
    np.testing.assert_allclose(grpo[0]["reward"], earned, atol=1e-6)
    assert set(summary["accuracy"]) == {"dpo", "grpo"}
    assert jax.default_backend() == "cpu"


@pytest.mark.slow
def test_a_hugging_face_folder_is_evaluated_as_it_is_and_its_episodes_become_data(
    folder, tmp_path, monkeypatch, capfd
):
    """What is rendered of the exported records is what was sampled, token for token."""
    monkeypatch.setattr(layout, "local_mesh", lambda *_: tiny.mesh())
    monkeypatch.chdir(tmp_path)
    config = flags.parse(["--config", "qwen/grpo:qwen3-1.7b", *settings()])
    write_questions(tmp_path / "q.jsonl", draw_tasks(open_tasks(config, list), config, "dpo"))
    groups = ("world.", "tools.", "agent.", "rollout.prefill", "evaluation.top_p", "model.")
    given = [s for s in settings() if s.startswith(tuple(f"--config.{group}" for group in groups))]
    asked = [
        "--policy",
        str(folder),
        "--tasks",
        "q.jsonl",
        "--out",
        "out",
        "--runs",
        "6",
        "--concurrency",
        "4",
    ]
    # Qwen3's own template writes an empty thought before an answer without one.
    asked += ["--config.tools.search=world", "--config.tokenizer.template=chatml", *given]
    exports = ["--export", "sft.jsonl", "--export-pairs", "pairs.jsonl"]
    status = evaluate.main([*asked, *exports])
    out, err = capfd.readouterr()
    assert status == 0, err
    episodes = {e.id: e for e in journal.read(tmp_path / "out" / "episodes.jsonl")}
    right = {name for name, e in episodes.items() if e.correct}
    assert len(episodes) == 12 and 0 < len(right) < 12 and f"accuracy  {len(right) / 12:.3f}" in out
    assert "become other tokens" not in err

    chat = Chat(HFTokenizer(folder, "chatml"), call_format="hermes")
    records = open_conversations("sft.jsonl")
    exported = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert {r["id"] for r in exported} == right and any(episodes[r["id"]].calls for r in exported)
    for place, record in enumerate(exported):
        segments = episodes[record["id"]].segments
        rendered = chat.render(records[place]["messages"], records[place]["tools"])
        assert rendered.tokens.tolist() == [i for s in segments for i in s.tokens]
        assert rendered.trained.tolist() == [s.source is Source.POLICY for s in segments for _ in s.tokens]

    pairs = open_pairs("pairs.jsonl").pairs
    assert pairs and f"pairs.jsonl: {len(pairs)} pairs" in err
    for pair in pairs:
        made = render_pair(pair, chat)
        for side in ("chosen", "rejected"):
            tokens = np.concatenate([made.prompt, getattr(made, side).tokens]).tolist()
            segments = episodes[pair.chosen["metadata"][side]].segments
            assert (
                tokens == [i for s in segments for i in s.tokens] == pair.chosen["metadata"]["tokens"][side]
            )
            assert len(made.prompt) == len(segments[0].tokens)

    # The same command has nothing left to do, and loads no model.
    monkeypatch.setattr(local_policy, "load_params", lambda *_: pytest.fail("loaded"))
    assert evaluate.main(asked) == 0
