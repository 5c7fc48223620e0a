"""Running code in the sandbox, for its tests."""

import asyncio
import os
import shutil

import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.sandbox import RunPython
from mirothinker_jax.tools.spec import ToolCall

# In CI a missing bubblewrap fails these tests: isolation that nobody tests is none.
HAS_BWRAP = shutil.which("bwrap") is not None or os.environ.get("CI") == "true"
isolated = pytest.mark.skipif(not HAS_BWRAP, reason="bubblewrap is not installed")
BOTH = [pytest.param(False, marks=isolated, id="isolated"), pytest.param(True, id="unsafe")]


def whole(text, tokens):
    return text, False


def run(*blocks, unsafe=False, deadline_s=10.0, **arguments):
    """Runs pieces of code one after the other; one result, or a list of them."""

    async def main():
        settings = ToolsConfig(unsafe_sandbox=unsafe, deadline_s=deadline_s)
        async with ToolExecutor([RunPython(settings)], settings, whole) as executor:
            return [
                await executor.execute(
                    ToolCall("tool-python", "run_python_code", {"code_block": code, **arguments}), "e:0.0"
                )
                for code in blocks
            ]

    results = asyncio.run(main())
    return results[0] if len(results) == 1 else results
