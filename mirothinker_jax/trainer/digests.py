"""What the files of a checkpoint step were when it was complete, and what is wrong with them now.

STEP/digests.json has the size and the XXH3-128 of every other file of the step, and its own digest behind. XXH3 keeps
up with the disk on one core (`xxhash`; a cryptographic hash is ten times slower). Files are read in threads, and
several processes share them.

Left out: files that digests.json does not list; nothing of a step refers to them. Not safe: against somebody who
writes fitting digests, and against bits that flipped before they reached the file.

As a command, it writes the digests of a step that has none and is trusted all the same:
`python -m mirothinker_jax.trainer.digests RUN/sft/checkpoints/120`.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from mirothinker_jax.data.atomic import replacing

NAME = "digests.json"
PART = "digests.{}.json"  # what one process found of its own files, until the step is complete
THREADS = min(16, os.cpu_count() or 1)

Digest = tuple[int, str]  # bytes, hexadecimal XXH3-128


def write_digests(step: Path) -> None:
    """Writes the digests of a step's files, which must not change any more: the last file of a step.

    What processes left by `write_part` is taken over and removed; other files are read. Raises OSError.
    """
    known: dict[str, Digest] = {}
    for part in step.glob(f"*/{PART.format('*')}"):
        for name, digest in json.loads(part.read_text(encoding="utf-8")).items():
            known[f"{part.parent.name}/{name}"] = digest
        part.unlink()
    rest = [name for name in _files(step) if name not in known and name != NAME]
    found = known | _digests(step, rest)
    _write(step / NAME, {name: found[name] for name in sorted(found)})


def write_part(item: Path, folder: str, process: int) -> None:
    """Reads the files of `item`/`folder`, written by this process, so that the first one need not. Raises OSError."""
    if (item / folder).is_dir():
        digests = _digests(item, [f"{folder}/{name}" for name in _files(item / folder)])
        (item / PART.format(process)).write_text(json.dumps(digests), encoding="utf-8")


def damage(step: Path, index: int = 0, count: int = 1) -> str:
    """What is wrong with a step: a file and what it is, or "" where nothing is.

    Reads the share `index` of `count` of its bytes, about equal ones. Raises OSError where a file may be whole but
    cannot be read (permissions).
    """
    path = step / NAME
    try:
        body, _, own = path.read_text(encoding="utf-8").partition("\n")
    except FileNotFoundError:
        return (
            f"{NAME} is missing (it was lost, or an earlier version wrote the step: where the step is trusted, "
            f"`python -m mirothinker_jax.trainer.digests {step}` writes it)"
        )
    except (UnicodeDecodeError, IsADirectoryError):
        return f"{NAME} is not what was written"
    if own != _seal(body):
        return f"{NAME} is not what was written"
    expected: dict[str, Digest] = json.loads(body)
    for name, (size, _) in expected.items():  # what takes no reading comes first
        file = step / name
        if not file.is_file():
            return f"{name} is missing"
        if (now := file.stat().st_size) != size:
            return f"{name} has {now} of {size} bytes"
    shares = [0] * count
    mine = []
    for name in sorted(expected, key=lambda name: (-expected[name][0], name)):
        least = shares.index(min(shares))
        shares[least] += expected[name][0]
        if least == index:
            mine.append(name)
    try:
        found = _digests(step, mine)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return f"{error.filename} cannot be read: {error.strerror}"
    wrong = [name for name in mine if found[name] != tuple(expected[name])]
    return f"{wrong[0]} is not what was written" if wrong else ""


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _digests(folder: Path, names: Iterable[str]) -> dict[str, Digest]:
    def of(name: str) -> tuple[str, Digest]:
        path = folder / name
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
                return name, (file.tell(), digest)
        except OSError as error:  # of a read, which does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from None

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(threads.map(of, names))


def _write(path: Path, digests: dict[str, Digest]) -> None:
    body = json.dumps(digests)
    with replacing(path) as scratch:
        scratch.write_text(f"{body}\n{_seal(body)}", encoding="utf-8")


def _seal(body: str) -> str:
    return xxhash.xxh3_128_hexdigest(body.encode())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mirothinker_jax.trainer.digests",
        description=f"Writes the {NAME} of a checkpoint step that has none, from its files as they are now.",
    )
    parser.add_argument("step", type=Path, help="the step's folder, RUN/STAGE/checkpoints/STEP")
    step: Path = parser.parse_args(argv).step
    if not (step / "state").is_dir() or (step / NAME).exists():
        what = "has digests already" if (step / NAME).exists() else "is not a checkpoint step's folder"
        sys.stderr.write(f"error: {step} {what}; give RUN/STAGE/checkpoints/STEP of a step without {NAME}\n")
        return 2
    try:
        write_digests(step)
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
