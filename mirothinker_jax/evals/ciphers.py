"""The ciphers by which benchmarks keep their questions out of training data.

Base64 around an XOR with a key that stands beside the text: its canary, or the SHA-256 of it. Nothing is secret, and
nothing is meant to be: whoever reads the file can read the question, and a crawler cannot. So a decoded text belongs in
memory alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping

import numpy as np

# Cipher → the bytes that are repeated over the text. sha256: BrowseComp and its kin; canary: xbench.
KEYS: Mapping[str, Callable[[str], bytes]] = {
    "sha256": lambda canary: hashlib.sha256(canary.encode()).digest(),
    "canary": lambda canary: canary.encode(),
}


def decode(text: str, canary: str, cipher: str) -> str:
    """What an encoded text says.

    Args:
      cipher: of KEYS.

    Raises:
      ValueError: no canary, what is not base64, or a canary that is not this text's.
    """
    if not canary:
        raise ValueError("there is no canary to decode it with")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64, as an encoded text is") from None
    try:
        return xor(data, KEYS[cipher](canary)).decode()
    except UnicodeDecodeError:
        raise ValueError("does not decode to UTF-8 with its canary") from None


def xor(data: bytes, key: bytes) -> bytes:
    """`data` with `key`, repeated, laid over it; its own inverse."""
    pad = np.resize(np.frombuffer(key, np.uint8), len(data))
    return (np.frombuffer(data, np.uint8) ^ pad).tobytes()
