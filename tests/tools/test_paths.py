"""What a model gives as a name is a name: no tool makes a path of it. Without isolation, where a path would reach."""

import pytest
from sandboxed import run


@pytest.mark.parametrize(
    "name", ["../../../etc", "/etc/passwd", "~/x", "null\0byte", "$(touch x)", "\ud800", "x" * 10_000]
)
def test_sandbox_ids_are_no_paths(name):
    code = "import os; open('mine', 'a').write('x'); [len(open('mine').read()), os.listdir('.')]"
    results = run(code, code, unsafe=True, sandbox_id=name)
    assert isinstance(results, list)
    # One folder for both, named by chance.
    assert [result.text for result in results] == ["[1, ['mine']]", "[2, ['mine']]"]
