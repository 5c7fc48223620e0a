"""What a model gives as a name is a name: no tool makes a path of it. Without isolation, where a path would reach."""

import pytest
from sandboxed import session

from mirothinker_jax.tools.spec import Failure


@pytest.mark.parametrize(
    "name", ["../../../etc", "/etc/passwd", "~/x", "null\0byte", "$(touch x)", "\ud800", "x" * 10_000]
)
def test_sandbox_ids_are_no_paths(name):
    async def body(call):
        code = "import os; open('mine', 'a').write('x'); os.listdir('.')"
        return [await call(code, sandbox_id=name), await call(code)]

    refused, own = session(body, unsafe_sandbox=True)
    assert refused.failure in (Failure.TOOL_ERROR, Failure.INVALID_ARGUMENTS) and "sandbox" in refused.text
    assert own.text == "['mine']"
