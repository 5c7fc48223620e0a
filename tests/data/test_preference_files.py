"""Preference pairs from files: what is understood, what is trained, and what is wrong with others."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.preference import render_pair
from mirothinker_jax.data.preference_files import open_pairs
from mirothinker_jax.data.strict_json import DataError

ASK = {"role": "user", "content": "Where is KTM?"}
GOOD = {"role": "assistant", "content": "In Kathmandu."}
BAD = {"role": "assistant", "content": "In Pokhara."}
LOOK = {"role": "assistant", "content": "look it up", "reasoning_content": "hm"}
RESULT = {"role": "tool", "content": "KTM: Kathmandu"}
WHOLE = {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rendered(path, codec, **chat):
    (pair,) = open_pairs(path).pairs
    return render_pair(pair, Chat(codec, **chat))


def parts(pair, codec):
    return [codec.decode(tokens) for tokens in (pair.prompt, pair.chosen.tokens, pair.rejected.tokens)]


@pytest.mark.parametrize(
    "record",
    [
        WHOLE,
        {"prompt": "Where is KTM?", "chosen": "In Kathmandu.", "rejected": "In Pokhara."},
        {"prompt": "Where is KTM?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {**WHOLE, "id": "7", "source": "us", "metadata": {"level": 1}, "split": None},
    ],
)
def test_all_forms_of_a_pair_give_the_same_tokens(tmp_path, codec, record):
    pair = rendered(write(tmp_path / "p.jsonl", record), codec)
    start, chosen, rejected = parts(pair, codec)
    assert start == "<|im_start|>user\nWhere is KTM?<|im_end|>\n<|im_start|>assistant\n"[: len(start)]
    assert (
        start + chosen
        == "<|im_start|>user\nWhere is KTM?<|im_end|>\n<|im_start|>assistant\nIn Kathmandu.<|im_end|>"
    )
    assert rejected.endswith("Pokhara.<|im_end|>")
    assert pair.chosen.trained.all() and pair.rejected.trained.all()


def test_turns_behind_the_prompt_are_trained_and_no_others(tmp_path, codec):
    """Also those that both sides have, where the prompt is told; results never, nor what has weight 0."""
    sides = {"chosen": [LOOK, RESULT, GOOD], "rejected": [LOOK, RESULT, {**LOOK, "weight": 0}, RESULT, BAD]}
    told = rendered(write(tmp_path / "a.jsonl", {"prompt": [ASK], **sides}), codec)
    shared = {name: [ASK, *side] for name, side in sides.items()}
    found = rendered(write(tmp_path / "b.jsonl", shared), codec)
    chat = Chat(codec)
    for name in ("chosen", "rejected"):
        record = [ASK, *sides[name]]
        whole = chat.render(record)
        told_side, found_side = getattr(told, name), getattr(found, name)
        assert np.concatenate([told.prompt, told_side.tokens]).tolist() == whole.tokens.tolist()
        assert told_side.trained.tolist() == whole.trained[len(told.prompt) :].tolist()
        # Without a prompt it is whatever both begin with: the first turn is trained on neither side.
        assert np.concatenate([found.prompt, found_side.tokens]).tolist() == whole.tokens.tolist()
        first = chat.render(record[:2]).trained.sum()
        assert found_side.trained.sum() == whole.trained.sum() - first
    assert len(found.prompt) > len(told.prompt)


def test_tools_and_a_system_message_are_rendered_as_for_sft(tmp_path, qwen):
    tools = [
        {
            "type": "function",
            "function": {"name": "find", "description": "d", "parameters": {"type": "object"}},
        }
    ]
    record = {**WHOLE, "system": "Be brief.", "tools": tools}
    pair = rendered(write(tmp_path / "p.jsonl", record), qwen, call_format="hermes")
    whole = Chat(qwen, call_format="hermes").render(
        [{"role": "system", "content": "Be brief."}, ASK, GOOD], tools
    )
    assert np.concatenate([pair.prompt, pair.chosen.tokens]).tolist() == whole.tokens.tolist()
    assert (
        pair.chosen.trained.tolist() == whole.trained[len(pair.prompt) :].tolist()
        and pair.chosen.trained.any()
    )


def test_gzip_and_parquet_give_what_json_lines_give(tmp_path):
    records = [WHOLE, {**WHOLE, "prompt": [{**ASK, "content": "And DXB?"}]}]
    plain = open_pairs(write(tmp_path / "p.jsonl", *records))
    zipped = tmp_path / "p.jsonl.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "p.jsonl").read_bytes()))
    table = tmp_path / "p.parquet"
    parquet.write_table(pa.Table.from_pylist(records), table)
    for path in (zipped, table):
        other = open_pairs(str(path))
        assert [(p.chosen, p.rejected, p.prompt) for p in other.pairs] == [
            (p.chosen, p.rejected, p.prompt) for p in plain.pairs
        ]
        assert other.fingerprint == plain.fingerprint
    both = open_pairs(f"{zipped},{table}")
    assert len(both.pairs) == 4 and both.fingerprint != plain.fingerprint
    assert plain.pairs[1].where == f"{tmp_path / 'p.jsonl'}:2"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ([], "record: is a list; each record is"),
        ({"prompt": "a", "chosen": "b"}, "rejected: missing (the record has chosen, prompt)"),
        ({"chosen": "b", "rejected": "c"}, "prompt: missing, and chosen and rejected begin with different messages"),
        ({**WHOLE, "score": 1}, "score: unknown key, so its content would be lost; drop it with data.ignore=score"),
        ({**WHOLE, "question": "?"}, "question: unknown key, so its content would be lost; write it as prompt"),
        ({**WHOLE, "messages": [ASK]}, "drop it with data.ignore=pair.messages"),
        ({**WHOLE, "chosen": []}, "chosen: has nothing behind the prompt"),
        ({**WHOLE, "chosen": ""}, "chosen: is empty"),
        ({**WHOLE, "chosen": 7}, "chosen: is a number; it must be a string or a list"),
        ({**WHOLE, "rejected": [GOOD]}, "rejected: says the same as chosen"),
        ({**WHOLE, "rejected": [ASK]}, "rejected: has nothing behind the prompt"),
        ({**WHOLE, "chosen": [{**ASK, "content": "And?"}, GOOD]}, "chosen: begins with a message of the user behind"),
        ({"chosen": [ASK, GOOD], "rejected": [{**ASK, "content": "And?"}, BAD]}, "prompt: missing"),
        ({**WHOLE, "chosen": [{**GOOD, "weight": 0}]}, "chosen: no assistant message to train on"),
        ({**WHOLE, "chosen": [{**GOOD, "role": "gpt"}]}, "chosen[0].role: unknown role 'gpt'; write 'assistant'"),
        ({**WHOLE, "tools": {"a": 1}}, "tools: is an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pair_is_said_with_its_place(tmp_path, record, said):
    path = write(tmp_path / "p.jsonl", WHOLE, record)
    with pytest.raises(DataError) as error:
        open_pairs(path)
    assert f"{path}:2: " in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_keys_may_be_dropped_by_name(tmp_path):
    path = write(tmp_path / "p.jsonl", {**WHOLE, "score": 1, "messages": [ASK]})
    assert (
        open_pairs(path, ("score", "pair.messages")).fingerprint
        == open_pairs(write(tmp_path / "q.jsonl", WHOLE)).fingerprint
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", "", "is empty; it must hold at least one pair"),
        ("p.arrayrecord", "x", "holds no pairs here; give *.jsonl, *.jsonl.gz or *.parquet"),
        ("p.jsonl", "{", "p.jsonl:1: line: unreadable JSON"),
        ("p.txt", "{}", "unknown kind; give *.jsonl"),
        (None, "", "no such file; check dpo.path"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, content, said):
    path = tmp_path / (name or "none.jsonl")
    if name:
        path.write_text(content)
    with pytest.raises(DataError) as error:
        open_pairs(str(path))
    assert said in str(error.value)


def test_a_call_that_cannot_be_rendered_is_named_with_its_place(tmp_path, codec):
    calls = [{"function": {"name": "find", "arguments": {}}}]
    path = write(tmp_path / "p.jsonl", {**WHOLE, "rejected": [{"role": "assistant", "tool_calls": calls}]})
    with pytest.raises(
        DataError, match=r"p\.jsonl:1: rejected: messages\[1\].* no server is known for tool 'find'"
    ):
        rendered(path, codec)
