"""The hosted sandbox, against a stand-in with the interface of e2b-code-interpreter; where that is installed, it is
asked whether it has that interface."""

import asyncio
import importlib.util
import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
from sandboxed import session

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import sandbox_remote
from mirothinker_jax.tools.sandbox_interface import OUTPUT_CHARS, FileRefused, SandboxDied, SandboxFailed
from mirothinker_jax.tools.sandbox_remote import PACKAGE, RemoteHost
from mirothinker_jax.tools.spec import Failure

REAL = importlib.util.find_spec(PACKAGE) is not None
EXCEPTIONS = (
    "SandboxNotRunningException",
    "SandboxNotFoundException",
    "InvalidArgumentException",
    "NotEnoughSpaceException",
)


class Service(ModuleType):
    """The package and the service behind it. `does` is what happens at a request."""

    def __init__(self):
        super().__init__(PACKAGE)
        self.__spec__ = importlib.util.spec_from_loader(PACKAGE, None)
        self.asked, self.alive, self.does = [], [], None
        for name in EXCEPTIONS:
            setattr(self, name, type(name, (Exception,), {}))

        class CommandExitException(Exception):
            stdout, stderr, exit_code = "out", "err", 3

        self.CommandExitException = CommandExitException
        self.AsyncSandbox = SimpleNamespace(create=self.create)

    async def create(self, **options):
        await self.ask("create", options)
        self.alive.append(len(self.alive))
        return SimpleNamespace(
            run_code=lambda code, **more: self.ask("run_code", code, more),
            set_timeout=lambda seconds, **more: self.ask("set_timeout", seconds, more),
            kill=lambda **more: self.kill(more),
            commands=SimpleNamespace(run=lambda command, **more: self.ask("command", command, more)),
            files=SimpleNamespace(write=lambda path, data, **more: self.ask("write", path, data, more)),
        )

    async def ask(self, *what):
        self.asked.append(what)
        await asyncio.sleep(0)
        if isinstance(self.does, type | Exception):
            raise self.does
        if callable(self.does):
            return await self.does()
        return self.does

    async def kill(self, more):
        self.asked.append(("kill", more))
        self.alive.pop()


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, PACKAGE, service)
    monkeypatch.setenv("E2B_API_KEY", "secret-key")
    return service


def said(stdout=(), stderr=(), results=(), error=None):
    logs = SimpleNamespace(stdout=list(stdout), stderr=list(stderr))
    return SimpleNamespace(logs=logs, results=[SimpleNamespace(text=t) for t in results], error=error)


def use(body, **settings):
    async def main():
        sandbox = await RemoteHost(ToolsConfig(sandbox="e2b", **settings)).create(90.5)
        return await body(sandbox)

    return asyncio.run(main())


def test_a_new_one_has_no_network_and_is_where_the_settings_say(service):
    async def body(sandbox):
        await sandbox.kill()
        await sandbox.kill()

    use(body)
    use(body, sandbox_url="https://api.mine.example/", sandbox_template="t")
    options = {
        "timeout": 91,
        "allow_internet_access": False,
        "api_key": "secret-key",
        "request_timeout": 30.0,
    }
    mine = {"api_url": "https://api.mine.example", "domain": "mine.example", "template": "t"}
    ended = ("kill", {"request_timeout": 30.0})
    assert service.asked == [("create", options), ended, ("create", options | mine), ended]


def test_code(service):
    error = SimpleNamespace(name="ValueError", value="v", traceback="\x1b[0;31mValueError\x1b[0m: v")
    answers = iter(
        [
            said(["a\n", "b\n"], ["warning\n"], ["42", None]),
            said(["before\n"], error=error),
            said(["x" * (OUTPUT_CHARS + 1)]),
        ]
    )

    async def answer():
        return next(answers)

    async def body(sandbox):
        service.does = answer
        return [await sandbox.run_code(f"code {i}", 2.0) for i in range(3)]

    good, bad, long = use(body)
    assert (good.output, good.exit_code) == ("a\nb\nwarning\n42\n", 0)
    assert (bad.output, bad.exit_code) == ("before\nValueError: v", 1)
    assert len(long.output) == OUTPUT_CHARS and long.cut
    assert service.asked[1] == ("run_code", "code 0", {"timeout": 7.0})


def test_commands_and_files(service):
    async def body(sandbox):
        service.does = SimpleNamespace(stdout="out", stderr="err", exit_code=0)
        good = await sandbox.commands.run("ls", 2.0)
        service.does = service.CommandExitException
        bad = await sandbox.commands.run("false", 2.0)
        service.does = None
        await sandbox.files.write("/home/user/a", b"x")
        service.does = service.NotEnoughSpaceException("the disk is full")
        with pytest.raises(FileRefused, match=r"cannot write a: .*the disk is full"):
            await sandbox.files.write("a", b"x")
        return good, bad, sandbox.alive

    good, bad, alive = use(body)
    assert (good.output, good.exit_code, bad.output, bad.exit_code, alive) == ("outerr", 0, "outerr", 3, True)
    assert ("write", "/home/user/a", b"x", {"request_timeout": 30.0}) in service.asked


def test_time(service, monkeypatch):
    async def for_ever():
        await asyncio.sleep(60)

    async def body(sandbox):
        service.does = for_ever
        late = await sandbox.run_code("while True: pass", 0.02)
        later = await sandbox.commands.run("sleep 60", 0.02)
        service.does = said()
        now = sandbox_remote.time.monotonic()
        monkeypatch.setattr(sandbox_remote.time, "monotonic", lambda: now + 60)
        await sandbox.run_code("1", 1.0)  # too near to the end of its time
        await sandbox.run_code("1", 1.0)
        return late, later

    late, later = use(body)
    assert late.timed_out and later.timed_out and late.exit_code is None
    assert [what[:2] for what in service.asked].count(("set_timeout", 91)) == 1


def test_a_sandbox_that_is_gone_and_a_service_that_is_away(service):
    async def body(sandbox):
        service.does = ConnectionError("no route")
        with pytest.raises(SandboxFailed, match="service fails: ConnectionError: no route"):
            await sandbox.run_code("1", 1.0)
        assert sandbox.alive
        service.does = service.SandboxNotRunningException
        with pytest.raises(SandboxDied, match="the service ended it"):
            await sandbox.commands.run("ls", 1.0)
        assert not sandbox.alive
        with pytest.raises(SandboxDied):
            await sandbox.run_code("1", 1.0)

    use(body)
    service.does = RuntimeError("quota")
    with pytest.raises(SandboxFailed, match="did not start: RuntimeError: quota"):
        use(body)


def test_a_cancelled_call_ends_it(service):
    async def body(sandbox):
        service.does = lambda: asyncio.sleep(60)
        call = asyncio.create_task(sandbox.run_code("1", 30.0))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return sandbox.alive

    assert use(body) is False and service.asked[-1][0] == "kill"


def test_the_tools_over_it(service):
    async def body(call):
        service.does = said(["hello\n"])
        good = await call("print('hello')")
        service.does = ConnectionError("away")
        away = await call("1")
        service.does = service.SandboxNotFoundException("gone")
        gone = await call("1")
        service.does = None
        created = await call({"timeout": "60"}, "create_sandbox")
        assert len(service.alive) == 2
        await call.end()
        return good, away, gone, created

    good, away, gone, created = session(body, sandbox="e2b")
    assert (good.text, good.failure) == ("hello", None)
    assert away.failure is Failure.NETWORK and gone.failure is Failure.TOOL_ERROR
    assert created.text == "sandbox_id: sandbox-4-0"
    assert [what[1]["timeout"] for what in service.asked if what[0] == "create"] == [600, 60]


def test_without_a_key_or_the_package(service, monkeypatch):
    monkeypatch.delenv("E2B_API_KEY")
    with pytest.raises(
        ConfigError, match=r"set the environment variable E2B_API_KEY \(tools\.sandbox_key_env"
    ):
        RemoteHost(ToolsConfig(sandbox="e2b"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mirothinker-jax\[e2b\]'"):
        RemoteHost(ToolsConfig(sandbox="e2b"))


@pytest.mark.skipif(not REAL, reason="the e2b extra is not installed")
def test_the_real_package_takes_what_the_stand_in_takes():
    package = importlib.import_module(PACKAGE)
    from e2b.connection_config import ApiParams
    from e2b.sandbox_async.commands.command import Commands
    from e2b.sandbox_async.filesystem.filesystem import Filesystem

    for name in (*EXCEPTIONS, "CommandExitException"):
        assert issubclass(getattr(package, name), Exception)
    assert {"api_key", "request_timeout", "api_url", "domain"} <= set(ApiParams.__annotations__)
    create = inspect.signature(package.AsyncSandbox.create).parameters
    assert {"template", "timeout", "allow_internet_access"} <= set(create)
    inspect.signature(package.AsyncSandbox.run_code).bind(None, "1", timeout=1.0)
    inspect.signature(Commands.run).bind(None, "ls", timeout=1.0)
    inspect.signature(Filesystem.write).bind(None, "a", b"", request_timeout=1.0)
