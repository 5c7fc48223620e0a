"""What is installed from the source distribution works without the checkout, from another folder.

The wheel is built from the unpacked source distribution, so that what either lacks is missed. Dependencies come from
the environment of the tests, by a `.pth` file; their own `.pth` files, such as our editable install's, do not count.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from mirothinker_jax import __version__
from mirothinker_jax.config_file import names

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "mirothinker_jax", "kernels", "configs")


def output(*command, cwd, **environment):
    """stdout of a command that must succeed, without our checkout on its path."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build(kind, source, out):
    """The archive that setuptools builds from the folder `source`, without the network."""
    out.mkdir()
    output(
        *(sys.executable, "-c", f"import sys, setuptools.build_meta as b; b.build_{kind}(sys.argv[1])", out),
        cwd=source,
    )
    (archive,) = out.iterdir()
    return archive


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    with tarfile.open(build("sdist", source, folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked, folder / "wheel")


@pytest.fixture(scope="session")
def scripts(wheel, tmp_path_factory):
    """The folder of the console scripts of an environment that has nothing but the wheel, and what it depends on."""
    environment = tmp_path_factory.mktemp("environment")
    output(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    output(*pip, wheel, cwd=environment)
    (site,) = environment.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(paths) + "\n")
    found = output(python, "-c", "import mirothinker_jax as p; print(p.__path__[0])", cwd=environment)
    assert Path(found.strip()) == site / "mirothinker_jax"
    return python.parent


def test_everything_is_in_the_wheel(wheel):
    """Every file of the packages, and every config; nothing else beside the metadata."""
    folders = {"mirothinker_jax": "mirothinker_jax", "kernels": "mirothinker_kernels"}
    folders["configs"] = "mirothinker_jax/configs"
    expected = {
        f"{there}/{path.relative_to(ROOT / here)}"
        for here, there in folders.items()
        for path in (ROOT / here).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wheel.name == f"mirothinker_jax-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected


def test_commands_say_how_they_are_called(scripts, tmp_path):
    for command in (
        "train",
        "plan",
        "convert",
        "evaluate",
        "serve",
        "report",
        "study",
        "watch",
        "mcp",
        "agent",
    ):
        said = output(scripts / f"mirothinker-{command}", "--help", cwd=tmp_path)
        assert f"usage: mirothinker-{command} " in said
        said = output(scripts / f"mirothinker-{command}", "--version", cwd=tmp_path)
        assert said.startswith(f"mirothinker-jax {__version__} (jax ")
    said = output(scripts / "mirothinker-train", "--help", cwd=tmp_path)
    assert all(name in " ".join(said.split()) for name in names())


def test_two_steps_by_the_configs_name(scripts, tmp_path):
    turns = [{"role": "user", "content": "Where is KTM?"}, {"role": "assistant", "content": "In Kathmandu."}]
    (tmp_path / "my.jsonl").write_text(f"{json.dumps({'messages': turns})}\n" * 8)
    small = ("steps=2", "batch_size=2", "microbatch_size=2", "sequence_length=128", "log_every=1")
    settings = [f"--config.sft.training.{setting}" for setting in small]
    command = (scripts / "mirothinker-train", "--config", "toy/sft", *settings)
    output(*command, cwd=tmp_path, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    lines = (tmp_path / "runs" / "sft" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1]


@pytest.mark.slow
def test_the_world_the_agent_and_the_report_by_the_configs_name(scripts, tmp_path):
    """Their data and templates are installed too."""
    short = ("--config.stages=sft", "--config.sft.training.steps=2")
    command = (scripts / "mirothinker-train", "--config", "toy/smoke", *short)
    said = output(*command, cwd=tmp_path, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert said.splitlines()[-1] == "report: runs/smoke/report.html"
    assert (tmp_path / "runs" / "smoke" / "report.html").stat().st_size > 10_000
