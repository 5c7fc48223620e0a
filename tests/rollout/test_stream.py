"""Groups that are sampled ahead: how old they are, what a deadline and equal rewards do, and that kills change
nothing."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import virtual_time
from ahead import SLOTS, TASKS, Script, Trainer

from mirothinker_jax import checked_lines
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.rollout.collect import OutageError
from mirothinker_jax.rollout.redeal import redeal
from mirothinker_jax.rollout.rewind import rewind
from mirothinker_jax.rollout.stream import Deadline
from mirothinker_jax.rollout.walk import Walk
from mirothinker_jax.tools.spec import Failure, ToolResult
from mirothinker_jax.trajectory import journal


class Killed(BaseException):
    """The process is gone."""


ALL = sorted(
    spec.id
    for place in range(SLOTS.batches * SLOTS.questions)
    for spec in Walk(TASKS, SLOTS.questions, 0).episodes(place, range(SLOTS.group), 0)
)


def run(trainer, **fields):
    return virtual_time.run(trainer.run(**fields))


def ages(trainer):
    """Versions between the oldest token of each episode and its step."""
    return [step - t[1] for step, batch in enumerate(trainer.batches) for group in batch for t in group]


@pytest.mark.parametrize(("staleness", "window"), [(0, 1), (1, 1), (1, 3), (2, 6)])
def test_every_episode_is_trained_once_within_the_bound(tmp_path, staleness, window):
    slots = replace(SLOTS, staleness=staleness, window=window)
    trainer = run(Trainer(tmp_path, slots))
    assert trainer.trained == ALL
    oldest = max(ages(trainer))
    assert oldest <= slots.bound and min(ages(trainer)) == 0 and (oldest > 0) == (staleness > 0)
    assert max(f["staleness/max"] for f in trainer.figures) == oldest
    assert trainer.engine.released == (SLOTS.batches if staleness == 0 else 0)
    assert all(0 <= f["rollout/idle_share"] <= 1 for f in trainer.figures)
    assert max(f["rollout/groups_in_flight"] for f in trainer.figures) <= (staleness + 1) * SLOTS.questions


def test_processes_share_the_questions(tmp_path):
    """Each has its half of every step's, in files of its own, no older than one process would have them."""
    halves = [SLOTS.share(index, 2) for index in range(2)]
    first, second = (run(Trainer(tmp_path, slots)) for slots in halves)
    assert sorted(first.trained + second.trained) == ALL
    assert all(len(batch) == 1 for trainer in (first, second) for batch in trainer.batches)
    assert max(ages(first) + ages(second)) <= SLOTS.bound
    assert {p.name for p in (tmp_path / "rollouts").glob("groups*")} == {
        "groups.0-of-2.jsonl",
        "groups.1-of-2.jsonl",
    }
    for count, index in ((1, 0), (2, 0)):  # again: as many as then, or refused
        trainer = Trainer(tmp_path, SLOTS.share(index, count))
        if count == 2:
            assert run(trainer).trained == first.trained and not trainer.engine.turns
        else:
            with pytest.raises(DataError, match=r"groups\.0-of-2\.jsonl: .* number of processes than 1"):
                run(trainer)


def test_another_number_of_processes_goes_on(tmp_path):
    """Two, then one, then three, then two again: each is stopped when it has sampled more than is in its checkpoint."""
    whole, found = replace(SLOTS, questions=6, window=1), []
    expected = [s.id for p in range(42) for s in Walk(TASKS, 6, 0).episodes(p, range(SLOTS.group), 0)]
    for count, steps, trained in ((2, 3, 2), (1, 5, 4), (3, 6, 6), (2, 7, 7)):
        redeal(tmp_path / "rollouts", whole, count, len(found))
        for index in range(count):
            trainer = Trainer(tmp_path, replace(whole.share(index, count), batches=steps))
            per = whole.questions // count
            mine = [batch[index * per : (index + 1) * per] for batch in found]
            trainer.checkpoint.write_text(json.dumps(mine))
            run(trainer)
            if index == 0:
                batches = [[] for _ in range(steps)]
            for batch, more in zip(batches, trainer.batches, strict=True):
                batch += more
            assert max(ages(trainer)) <= whole.bound
        assert batches[: len(found)] == found
        found = batches[:trained]
    assert sorted(id for batch in found for group in batch for id, *_ in group) == sorted(expected)
    turns = Counter()
    for path in (tmp_path / "rollouts").glob("step_*.jsonl"):
        events = [json.loads(text) for _, _, text in checked_lines.read_lines(path)]
        turns.update((e["episode"], e["number"]) for e in events if e["event"] == "turn")
    assert set(turns.values()) == {1} and len(turns) == 3 * len(expected), "nothing was sampled again"
    assert len(list((tmp_path / "rollouts" / "other_processes").iterdir())) == 2 + 1 + 3


def test_weights_change_in_the_middle_of_episodes(tmp_path):
    """Each turn is recorded with the versions of its tokens; an episode is as old as its oldest one."""
    trainer = run(Trainer(tmp_path, seconds=lambda request: 0.1))
    mixed = 0
    for path in sorted((tmp_path / "rollouts").glob("step_*.jsonl")):
        history = {t.id: t.policy_version for t in journal.read(path)}
        versions: dict[str, list[int]] = {}
        for _, _, text in checked_lines.read_lines(path):
            event = json.loads(text)
            if event["event"] == "turn":
                versions.setdefault(event["episode"], []).extend(v for v, _ in event["versions"])
        assert {id: min(found) for id, found in versions.items()} == history
        mixed += sum(len(set(found)) > 1 for found in versions.values())
    assert mixed > 0 and trainer.trained == ALL


def fuse(monkeypatch, count):
    """The process is gone in the middle of the `count`th write from now; what the writes were is kept."""
    append, seen = checked_lines.append_bytes, []

    def burning(file, data):
        seen.append(len(data))
        if len(seen) == count:
            file.write(data[: len(data) // 2])
        if len(seen) >= count:
            raise Killed
        return append(file, data)

    monkeypatch.setattr(checked_lines, "append_bytes", burning)
    return seen


def kill_often(folder, monkeypatch, draw, writes, **fields):
    """(The trainer of a run that was killed up to three times, kills, turns that were sampled.)"""
    given, kills, turns = {}, 0, 0
    while True:
        trainer = Trainer(folder, **fields)
        with monkeypatch.context() as patch:
            # The first kill may be anywhere; the next ones come sooner.
            fuse(patch, draw.randrange(1, writes if kills == 0 else writes // 3) if kills < 3 else 1 << 30)
            try:
                run(trainer)
                killed = False
            except (Killed, BaseExceptionGroup):
                killed = True
        turns += len(trainer.engine.turns)
        for step, batch in enumerate(trainer.batches):
            assert given.setdefault(step, batch) == batch, "a step is given out again as it was"
        if not killed:
            return trainer, kills, turns
        kills += 1


def test_kills_at_any_moment_lose_nothing_and_train_nothing_twice(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        writes = fuse(patch, 1 << 30)
        run(Trainer(tmp_path / "whole"))
    draw, total = random.Random(0), 0
    for number in range(50):
        trainer, kills, turns = kill_often(tmp_path / str(number), monkeypatch, draw, len(writes))
        assert trainer.trained == ALL
        assert max(ages(trainer)) <= SLOTS.bound
        # What was being sampled when it was killed is sampled again; no other turn.
        assert turns <= 3 * len(ALL) + kills * 2 * SLOTS.questions * SLOTS.group
        total += kills
    assert total >= 100


def test_kills_with_deadlines_and_replaced_groups(tmp_path, monkeypatch):
    """Which groups there are depends on the time. Still nobody is trained twice, and every step has its groups."""
    draw, later = random.Random(1), 0
    for number in range(10):
        slots = replace(SLOTS, refill=1)
        trainer, *_ = kill_often(
            tmp_path / str(number), monkeypatch, draw, 300, slots=slots, deadline=Deadline(0.03, 2),
            engine=Script(lambda session: "yes" if session[-1] in "02" else "no"),
        )  # fmt: skip
        assert len(set(trainer.trained)) == len(trainer.trained)
        assert [len(batch) for batch in trainer.batches] == [SLOTS.questions] * SLOTS.batches
        assert all(2 <= len(group) <= SLOTS.group for batch in trainer.batches for group in batch)
        later += sum(int(id.rpartition("-")[2]) >= SLOTS.group for id in trainer.trained)
    assert later > 0, "no group was left by a member"


def test_a_process_that_is_killed_goes_on(tmp_path):
    """SIGKILL, in the middle of what it does."""
    script = Path(__file__).with_name("ahead.py")
    log, more = tmp_path / "rollouts" / "groups.jsonl", 0
    for lines in (12, 30, 0):
        process = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while lines and process.poll() is None and time.monotonic() < until:
            if log.exists() and log.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGKILL)
                more += 1
                break
            os.sched_yield()
        _, said = process.communicate(timeout=60)
        assert process.returncode == (-signal.SIGKILL if lines else 0), said
    assert more == 2 and run(Trainer(tmp_path)).trained == ALL


def test_equal_groups_are_replaced_as_often_as_is_allowed(tmp_path):
    """Places 0, 2, 4, …: all members are right. Of the others one is."""

    def answer(session):
        _, _, place, member = session.split("-")
        return "yes" if int(place) % 2 == 0 or member == "0" else "no"

    expected = {0: [1] * 7, 1: [1, 0] * 3 + [1], 2: [0] * 7, 9: [0] * 7}
    for refill, staleness in ((0, 0), (1, 0), (2, 0), (9, 1)):
        slots = replace(SLOTS, refill=refill, staleness=staleness, window=1)
        folder = tmp_path / f"{refill}-{staleness}"
        trainer = run(Trainer(folder, slots, engine=Script(answer)))
        equal = [sum(int(group[0][0].split("-")[2]) % 2 == 0 for group in batch) for batch in trainer.batches]
        replaced = sum(f["rollout/groups_replaced"] for f in trainer.figures)
        assert [len(batch) for batch in trainer.batches] == [2] * 7
        assert len(set(trainer.trained)) == len(ALL)
        assert equal == expected[refill] and (replaced > 0) == (refill > 0)
        again = run(Trainer(folder, slots, engine=(idle := Script(answer))))
        assert again.trained == trainer.trained and not idle.turns


def test_a_group_does_not_wait_for_an_episode_beyond_its_deadline(tmp_path):
    """Member 2 of each of the first four places takes as long as five steps. It is trained later, with new members."""
    slow = lambda request: 0.5 if request.split(":")[0].endswith("-2") and "-3-" not in request else 0.01  # noqa: E731
    slots = replace(SLOTS, window=1)
    waiting = run(Trainer(tmp_path / "a", slots, seconds=slow))
    trainer = run(Trainer(tmp_path / "b", slots, Deadline(0.1, 2), seconds=slow))
    sizes = Counter(len(group) for batch in trainer.batches for group in batch)
    assert waiting.trained == ALL and sizes[2] > 0 and sizes[2] + sizes[3] == 14
    assert len(set(trainer.trained)) == len(trainer.trained), "nobody is trained twice"
    members = [id.split("-")[2:] for id in trainer.trained]
    assert max(int(member) for _, member in members) >= 3
    late = [(place, member) for place, member in members if member == "2"]
    assert late, "an episode that missed its group is in a later one"
    assert not any(call.split(":")[0].endswith("~1") for call in trainer.tools.calls)
    assert len(set(trainer.tools.calls)) == len(trainer.tools.calls), "what was under way was not begun again"


def test_services_that_are_away_end_the_run_with_one_line(tmp_path):
    class Away(Trainer):
        def __init__(self, folder):
            super().__init__(folder)

            async def execute(call, request_id):
                return ToolResult("the service is down", Failure.NETWORK)

            self.tools.execute = execute

    with pytest.raises(OutageError, match=r"1 of 6 episodes broke, more than tasks\.broken_share=0\.1"):
        run(Away(tmp_path))
    assert run(Trainer(tmp_path)).trained == ALL


def test_an_episode_that_is_cancelled_from_within_ends_the_run(tmp_path):
    """As where a tool's library cancels its caller. Its group would never end, and the trainer wait for ever."""
    trainer = Trainer(tmp_path)

    async def execute(call, request_id):
        raise asyncio.CancelledError

    trainer.tools.execute = execute
    with pytest.raises(RuntimeError, match=r"group \d: an episode of place \d was cancelled"):
        run(trainer)
    assert run(Trainer(tmp_path)).trained == ALL


def test_a_folder_that_is_not_the_checkpoints_is_refused(tmp_path):
    run(Trainer(tmp_path))
    (tmp_path / "rollouts" / "groups.jsonl").unlink()
    with pytest.raises(DataError, match=r"step 8 comes next, .* up to step 0; bring back"):
        trainer = Trainer(tmp_path, replace(SLOTS, batches=9))
        trainer.batches = []
        (tmp_path / "checkpoint-0.json").write_text("[[], [], [], [], [], [], [], []]")
        run(trainer)


def test_what_was_sampled_beyond_a_step_is_not_that_of_another_schedule(tmp_path):
    """The run has come to its end, and goes on from step 3 with other weights after it."""
    slots, rollouts = replace(SLOTS, staleness=2), tmp_path / "rollouts"
    before = run(Trainer(tmp_path, slots), train_s=0.2).batches
    whole = {path.name: path.read_bytes() for path in rollouts.iterdir()}
    (tmp_path / "checkpoint-0.json").write_text(json.dumps(before[:3]))
    assert not rewind(tmp_path, 3, SLOTS.questions, tmp_path / "none"), "no logs"
    for _ in range(2):  # as if the start had been killed and begun again
        assert rewind(rollouts, 3, SLOTS.questions, rollouts / "beyond")
    aside = {path.name: path.read_bytes() for path in (rollouts / "beyond").iterdir()}
    assert "groups.jsonl" in aside and aside.items() <= whole.items()
    again = run(Trainer(tmp_path, slots, engine=Script(lambda session: "anew")))
    assert again.trained == ALL and again.batches[:4] == before[:4] and max(ages(again)) <= slots.bound
    late, anew = set(), set()
    for path in rollouts.glob("step_*.jsonl"):
        events = [json.loads(text) for _, _, text in checked_lines.read_lines(path)]
        late |= {
            e["episode"] for e in events if e["event"] == "turn" and any(v > 3 for v, _ in e["versions"])
        }
        anew |= {t.id for t in journal.read(path) if t.answer == "anew"}
    assert late and late <= anew, "nothing is left that the weights of the former schedule have sampled"
    assert len(anew) < len(ALL) - 4 * 6, "what had ended by then is kept"


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tmp_path):
    run(Trainer(tmp_path))
    longer = run(Trainer(tmp_path, replace(SLOTS, batches=9)))
    assert set(ALL) < set(longer.trained) and len(set(longer.trained)) == len(longer.trained) == 54
    assert run(Trainer(tmp_path, replace(SLOTS, batches=9))).batches == longer.batches
