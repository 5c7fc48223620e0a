"""The log across crashes and restarts, and the bar where there is no terminal."""

import io
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from mirothinker_jax.trainer.metrics import MetricsLog, progress


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder, stage):
    return [line["step"] for line in lines(folder) if line["stage"] == stage]


def events(folder, stage):
    """A stage's TensorBoard events, as another project reads them. A record is its length (8 bytes), a checksum (4),
    itself, another (4)."""
    for path in sorted((folder / "tensorboard" / stage).iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            record, rest = data[12 : 12 + size], data[12 + size :]
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            assert int.from_bytes(rest[:4], "little") == masked_crc32c(record)
            yield Event.FromString(record)
            data = rest[4:]


def scalars(folder, stage):
    return [(e.step, v.tag, v.simple_value) for e in events(folder, stage) for v in e.summary.value]


def test_a_line_holds_stage_step_time_and_figures(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(3, {"loss": np.float32(0.5), "reward": 1}, "sft")
        (line,) = lines(tmp_path)  # flushed before close
    assert line["time_s"] > 1.6e9
    assert {k: v for k, v in line.items() if k != "time_s"} == {
        "stage": "sft",
        "step": 3,
        "loss": 0.5,
        "reward": 1.0,
    }
    assert scalars(tmp_path, "sft") == [(3, "loss", 0.5), (3, "reward", 1.0)]


def test_tensorboard_gets_any_name_and_size(tmp_path):
    """A summary longer than a byte can say; a name that is not ASCII; a number beyond float32."""
    figures = {f"π/{i}" * 9: 2.0**-i for i in range(40)} | {"huge": -1e300}
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(123_456_789, figures, "sft")
    largest = float(np.finfo(np.float32).max)
    expected = [(123_456_789, name, max(value, -largest)) for name, value in figures.items()]
    assert scalars(tmp_path, "sft") == expected


def test_each_stage_has_its_own_tensorboard_folder(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        for stage in ("sft", "dpo"):
            log.write(1, {"loss": 0.25}, stage)
    assert sorted(path.name for path in (tmp_path / "tensorboard").iterdir()) == ["dpo", "sft"]
    assert scalars(tmp_path, "dpo") == [(1, "loss", 0.25)]


def test_figures_that_are_not_finite_are_null(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(1, {"loss": float("nan"), "norm": np.float32("inf"), "ok": 2.0}, "sft")
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert [lines(tmp_path)[0][k] for k in ("loss", "norm", "ok")] == [None, None, 2.0]
    assert scalars(tmp_path, "sft") == [(1, "ok", 2.0)]


def test_half_a_line_is_dropped_on_reopening(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(1, {"loss": 1.0}, "sft")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "sft", "step": 2, "lo')
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(2, {"loss": 2.0}, "sft")
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 2.0]


def test_resume_takes_back_what_came_after_the_checkpoint(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        for stage in ("sft", "dpo"):
            for step in range(6):
                log.write(step, {"loss": step}, stage)
    with MetricsLog(tmp_path, enabled=True) as log:
        log.resume(3, "dpo")
        assert steps(tmp_path, "dpo") == [0, 1, 2, 3]
        for step in (4, 5):
            log.write(step, {"loss": 10 + step}, "dpo")
    assert steps(tmp_path, "sft") == steps(tmp_path, "dpo") == list(range(6))
    assert [line["loss"] for line in lines(tmp_path)][-2:] == [14.0, 15.0]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_resume_tells_tensorboard_what_to_hide(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log:
        log.write(4, {"loss": 1.0}, "sft")
        log.resume(3, "sft")
        log.write(4, {"loss": 2.0}, "sft")
    starts = [e.step for e in events(tmp_path, "sft") if e.session_log.status == SessionLog.START]
    assert starts == [4]
    assert scalars(tmp_path, "sft") == [(4, "loss", 1.0), (4, "loss", 2.0)]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "sft", "step": 1}\nnot json\n')
    with (
        MetricsLog(tmp_path, enabled=True) as log,
        pytest.raises(ValueError, match=r"metrics\.jsonl:2: not a line"),
    ):
        log.resume(1, "sft")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_figures_may_not_take_the_logs_own_names(tmp_path):
    with MetricsLog(tmp_path, enabled=True) as log, pytest.raises(ValueError, match="named step"):
        log.write(1, {"step": 2.0}, "sft")
    assert lines(tmp_path) == []


def test_other_processes_write_nothing(tmp_path):
    with MetricsLog(tmp_path / "run", enabled=False) as log:
        log.write(1, {"loss": 1.0}, "sft")
        log.resume(0, "sft")
    assert not (tmp_path / "run").exists()


def test_a_closed_log_refuses(tmp_path):
    log = MetricsLog(tmp_path, enabled=True)
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write(1, {"loss": 1.0}, "sft")


def test_a_killed_process_loses_no_line(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from mirothinker_jax.trainer.metrics import MetricsLog\n"
        "log = MetricsLog(sys.argv[1], True)\n"
        "for step in range(5):\n"
        "    log.write(step, {'loss': step}, 'sft')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60)
    assert done.returncode == -9
    assert steps(tmp_path, "sft") == [0, 1, 2, 3, 4]


def test_metrics_import_no_jax():
    program = "import sys, mirothinker_jax.trainer.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_bar(monkeypatch, stream, seconds_per_step, count=40):
    """A bar of `count` steps on a clock of its own; what it wrote."""
    clock = [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    bar = progress(count + 10, 10, "sft", "step")
    monkeypatch.setattr(bar, "_time", lambda: clock[0])
    bar.start_t = bar.last_print_t = 0.0
    for step in range(count):
        clock[0] += seconds_per_step
        bar.advance({"loss": 1 / (step + 1)})
    bar.close()
    return stream.getvalue()


def test_a_file_gets_a_line_every_ten_seconds(monkeypatch):
    written = run_bar(monkeypatch, io.StringIO(), 2.0).splitlines()
    assert len(written) == 1 + 8  # at the start, then at 10 s, 20 s, … 80 s
    assert all(re.fullmatch(r"sft: \d+/50 \[\d\d:\d\d<[\d:?]+, .*step/?s?.*\]", line) for line in written), (
        written
    )
    assert written[1].startswith("sft: 15/50 [00:10<01:10") and written[1].endswith(", loss=0.2]")
    assert written[-1].startswith("sft: 50/50")


def test_a_terminal_gets_one_line_that_changes(monkeypatch):
    written = run_bar(monkeypatch, Terminal(), 0.5)
    assert written.count("\n") == 1 and written.count("\r") > 10
    assert "50/50" in written and "loss=" in written


def test_a_disabled_bar_is_silent_and_no_bar_starts_a_thread(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    before = threading.active_count()
    with progress(3, 0, "sft", "step", enabled=False) as bar:
        bar.advance({"loss": 1.0})
    assert stream.getvalue() == ""
    with progress(3, 0, "sft", "step"):
        assert threading.active_count() == before
