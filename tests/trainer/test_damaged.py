"""Checkpoints whose files are not what was written, or that cannot be written: nothing of them is ever restored."""

import errno
import logging
import os
import resource
import shutil

import jax
import pytest
import tiny
from numbered import CONFIG, IDENTITY, STEPS, TRAINING, Numbered

from mirothinker_jax.config import ConfigError
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.trainer import digests, loop
from mirothinker_jax.trainer.checkpoint import Checkpoints, load_params, read_item
from mirothinker_jax.trainer.optimizer import make_optimizer
from mirothinker_jax.trainer.state import init_state
from mirothinker_jax.trainer.steps import newest, newest_step
from mirothinker_jax.trainer.storage import ignore_late_writes

pytestmark = pytest.mark.usefixtures("relaxed_promotion")  # optax mixes dtypes


def at_step(state, step):
    return type(state)(jax.numpy.int32(step), state.skipped, state.params, state.opt_state)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the steps 1 and 2, and their state, split over 8 devices."""
    model = ModelSpec.build(tiny.QWEN2, tiny.VOCAB, tiny.mesh(fsdp=8))
    folder = tmp_path_factory.mktemp("written") / "sft" / "checkpoints"
    with jax.set_mesh(model.mesh), Checkpoints(folder, 2, IDENTITY) as checkpoints:
        params = jax.device_put(tiny.params(tiny.QWEN2), model.shardings)
        state = init_state(model, make_optimizer(TRAINING.optimizer, STEPS), params)
        for step in (1, 2):
            checkpoints.save(at_step(state, step), {"position": step}, CONFIG)
    return folder, state


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "sft" / "checkpoints")


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << len(content) % 8
    path.write_bytes(content)


DAMAGE = {
    "truncated": (truncate, lambda size: f"has {size - 1} of {size} bytes"),
    "a bit flipped": (flip, lambda size: "is not what was written"),
    "deleted": (os.unlink, lambda size: "is missing"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_step_with_one_damaged_file_is_set_aside(folder, kind, caplog):
    damage, what = DAMAGE[kind]
    files = sorted(path.relative_to(folder / "2") for path in (folder / "2").rglob("*") if path.is_file())
    named = {str(path) for path in files}
    assert {"_CHECKPOINT_METADATA", "digests.json", "state/manifest.ocdbt", "source/metadata"} < named
    assert not any("digests" in name for name in named - {"digests.json"})
    assert any(name.startswith("state/ocdbt.process_0/d/") for name in named)
    for file in files:
        content = (folder / "2" / file).read_bytes()
        damage(folder / "2" / file)
        caplog.clear()
        assert newest_step(folder, set_aside=True) == 1, file
        (line,) = caplog.messages
        said = (
            what(len(content))
            if file.name != "digests.json" or kind == "deleted"
            else "is not what was written"
        )
        assert line.startswith(f"{folder}/2 is damaged: {file} {said}") and "\n" not in line
        assert line.endswith("; set aside as damaged-2, using step 1")
        assert sorted(path.name for path in folder.iterdir()) == ["1", "damaged-2"]
        (folder / "damaged-2").rename(folder / "2")
        (folder / "2" / file).write_bytes(content)
    assert newest_step(folder, set_aside=True) == 2


def test_every_bit_of_the_digests_counts(folder):
    path = folder / "2" / "digests.json"
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            assert digests.damage(folder / "2"), (place, bit)


def test_processes_share_the_reading(folder):
    """Each byte is read by exactly one of them, so that one of them finds the damage."""
    files = [path for path in (folder / "2").rglob("*") if path.is_file() and path.name != "digests.json"]
    found = []
    for file in files:
        flip(file)
        said = [digests.damage(folder / "2", index, 3) for index in range(3)]
        found.append(next(index for index, what in enumerate(said) if what))
        assert sum(map(bool, said)) == 1 and str(file.relative_to(folder / "2")) in said[found[-1]]
        flip(file)
    assert set(found) == {0, 1, 2}


def test_where_every_step_is_damaged_nothing_is_renamed(folder, model):
    """Or the next start would find no step, and begin anew."""
    flip(folder / "2" / "state" / "_METADATA")
    truncate(folder / "1" / "source" / "metadata")
    expected = (
        r"every checkpoint is damaged \(2: state/_METADATA is not what was written\); put a whole step back"
    )
    for _ in range(2):
        with pytest.raises(ConfigError, match=expected):
            Checkpoints(folder, 2, IDENTITY)
        assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]
    with pytest.raises(ConfigError, match=f"^config.model.init_from: .*{expected}"):
        load_params(str(folder.parent), model, IDENTITY, seed=0)
    shutil.rmtree(folder / "1")
    (folder / "2").rename(folder / "damaged-2")
    with pytest.raises(ConfigError, match="every checkpoint is damaged; put a whole step back"):
        Checkpoints(folder, 2, IDENTITY)


def test_who_reads_another_run_renames_nothing(folder, caplog):
    flip(folder / "2" / "config" / "metadata")
    step = newest(str(folder.parent.parent))
    assert step == folder / "1" and read_item(step, "identity") == IDENTITY
    assert caplog.messages[0].endswith("config/metadata is not what was written; using step 1")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_a_step_without_digests_can_be_trusted_by_hand(folder, caplog, capsys):
    expected = {path: path.read_bytes() for path in folder.glob("2/digests.json")}
    (folder / "2" / "digests.json").unlink()
    assert newest_step(folder, set_aside=False) == 1
    assert f"`python -m mirothinker_jax.trainer.digests {folder / '2'}` writes it" in caplog.text
    assert digests.main([str(folder / "2")]) == 0
    assert {path: path.read_bytes() for path in expected} == expected
    for again in (folder / "2", folder):
        assert digests.main([str(again)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {again} ")


def test_training_goes_on_from_the_step_before(job, caplog):
    """The same numbers as if nothing had happened, and the step is written again."""
    first = job(Numbered())
    expected = jax.device_get(loop.run(first))
    first.log.close()
    checkpoints = first.folder / "checkpoints"
    flip(max(checkpoints.glob("6/state/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size))
    with caplog.at_level(logging.WARNING):
        again = job(source := Numbered())
        tiny.assert_equal(jax.device_get(loop.run(again)), expected)
    assert source.asked == [4, 5]
    assert len(again.log.path.read_text().splitlines()) == STEPS
    assert sorted(path.name for path in checkpoints.iterdir()) == ["4", "6", "damaged-6"]
    assert digests.damage(checkpoints / "6") == "" != digests.damage(checkpoints / "damaged-6")
    (line,) = [record.message for record in caplog.records if record.name.endswith("steps")]
    assert line.startswith(f"{checkpoints}/6 is damaged: state/ocdbt.process_0/d/")


@ignore_late_writes()
def test_a_step_that_cannot_be_written_never_shows(written, folder):
    """The writing thread's error is an OSError of one line, at the next call; the steps before stay."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # as the commands do
    checkpoints = Checkpoints(folder, 2, IDENTITY)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        checkpoints.save(at_step(written[1], 3), {"position": 3}, CONFIG)
        with pytest.raises(OSError, match="File too large") as error:
            checkpoints.__exit__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        logging.getLogger("absl").setLevel(logging.WARNING)
    assert error.value.errno == errno.EFBIG
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert newest_step(folder, set_aside=True) == 2
    (folder / "9.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # of a process that was killed
    with Checkpoints(folder, 2, IDENTITY) as checkpoints:
        assert checkpoints.latest == 2 and not (folder / "9.orbax-checkpoint-tmp").exists()
        checkpoints.save(at_step(written[1], 4), {"position": 4}, CONFIG)
    assert sorted(path.name for path in folder.iterdir() if path.name.isdecimal()) == ["2", "4"]
    assert newest_step(folder, set_aside=True) == 4
