"""`python -m mirothinker_jax.convert`: weights of the Qwen family from Hugging Face's form into a run, and back.

Files to files, one tensor in memory at a time, whatever the size of the model; no accelerator is needed. --out is
there whole or not at all: it is renamed from a scratch folder beside it, which the next attempt clears away.

Not safe: two conversions into the same --out at the same time, and a power cut right after the end (nothing is flushed
to disk).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mirothinker_jax.config_tree import ConfigError, check_local
from mirothinker_jax.flags import CommandParser, started_as, version

EXAMPLES = """
examples:
  python -m mirothinker_jax.convert --from hf --path models/Qwen3-8B --out runs/qwen3-8b
      then: python -m mirothinker_jax.train --config qwen/sft:runs/qwen3-8b --config.data.path=my.jsonl
  python -m mirothinker_jax.convert --to hf --path runs/my-run --out exported
      what transformers, vLLM and SGLang load: the newest checkpoint of the run's last stage (or of a stage folder)
"""


def main(argv: list[str] | None = None) -> int:
    options = _arguments(argv)
    for noisy in ("orbax", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Orbax logs every error that it raises, with a traceback.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        for option, path in (("--path", options.path), ("--out", options.out)):
            check_local(option, str(path).replace(":/", "://"))  # as it was before Path took it for a folder
        said = _convert(options)
    except (ConfigError, OSError) as error:
        what = error if isinstance(error, ConfigError) else f"{options.out}: {error}"
        sys.stderr.write(f"error: {' '.join(str(what).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"error: stopped; nothing is left of {options.out}, give the same command again\n")
        return 130
    sys.stdout.write(f"{options.out}: {said}\n")
    if options.to is None:
        sys.stdout.write(f"train it with --config qwen/sft:{options.out} (or qwen/lora)\n")
    return 0


def _convert(options: argparse.Namespace) -> str:
    """What to say about what was written. Only when all paths and the files' headers are right jax is imported."""
    from mirothinker_jax.pipeline.inputs import check_exportable, read_source

    _check_apart(options.path, options.out)
    if options.to is None:
        source = read_source(options.path)
        with _scratch(options.out) as folder:
            from mirothinker_jax.pipeline.convert_hf import from_hf

            return from_hf(source, folder, options.dtype)
    check_exportable(options.path)
    with _scratch(options.out) as folder:
        from mirothinker_jax.pipeline.convert_hf import to_hf_folder

        return to_hf_folder(options.path, folder, options.dtype, round(options.shard_gib * 2**30))


def _check_apart(path: Path, out: Path) -> None:
    """Raises ConfigError where one folder lies in the other: what is read would be mixed with what is written."""
    read, written = Path(os.path.realpath(path)), Path(os.path.realpath(out))
    if read != written and (read in written.parents or written in read.parents):
        raise ConfigError(f"{out} and {path} lie one in the other; give an --out beside --path")


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and of which nothing is left when it does not."""
    target = Path(os.path.realpath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{out} exists; give another --out, or remove it")
    made = [folder for folder in target.parents if not folder.exists()]
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)  # of an attempt that was killed
    try:
        scratch.mkdir(parents=True)
        yield scratch
        scratch.replace(target)  # an empty folder may be in the way; a full one was refused
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=started_as("convert"),
        description="Weights of the Qwen family (Qwen2.5, Qwen3, Qwen3-MoE) from Hugging Face's form into a run folder "
        "that training starts from, and back. One tensor is in memory at a time.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version())
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", choices=["hf"], help="from a Hugging Face folder into a run")
    way.add_argument(
        "--to", choices=["hf"], help="from a run, or one of its stages, to a Hugging Face folder"
    )
    parser.add_argument("--path", type=Path, required=True, help="folder to read")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must be new")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of the numbers written (default: as they are; of a run that began with a converted one, as that was)",
    )
    parser.add_argument(
        "--shard-gib", type=_positive, default=4.0, help="size of one safetensors file (default: 4)"
    )
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return size


if __name__ == "__main__":
    sys.exit(main())
