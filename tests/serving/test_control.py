"""New weights while turns are under way: what a pause does to them, and which folders are taken."""

import asyncio
import json

import pytest
from scripted_engine import run

from mirothinker_jax.config import ConfigError

TEXT = "/v1/completions"


def reloadable(tmp_path):
    """Fields of a server that takes weights from below a folder, and what it took."""
    taken = []

    async def reload(folder, version):
        if "broken" in folder.name:
            raise ConfigError("2 tensors do not fit")
        taken.append((folder.name, version))

    return {"reload": reload, "weights_dir": tmp_path / "weights"}, taken


def publish(tmp_path, name, label):
    folder = tmp_path / "weights" / name
    folder.mkdir(parents=True)
    (folder / "published.json").write_text(json.dumps({"version": 4, "label": label}))
    return str(folder)


@pytest.mark.parametrize(
    ("pause", "body", "resume", "finish"),
    [
        ("/pause?mode=keep", None, "/resume", "stop"),
        ("/pause?mode=wait", None, "/resume", "stop"),
        ("/pause?mode=abort", None, "/resume", "abort"),
        ("/pause", None, "/resume", "abort"),
        ("/pause_generation", {"mode": "retract"}, "/continue_generation", "stop"),
        ("/pause_generation", {}, "/continue_generation", "abort"),
    ],
)
def test_a_pause_holds_new_turns_and_does_to_those_at_work_what_its_mode_says(
    tmp_path, pause, body, resume, finish
):
    async def test(client):
        hold = client.engine.hold = asyncio.Event()
        at_work = asyncio.create_task(client.post(TEXT, {"prompt": "x"}))
        await client.engine.begun.wait()
        pausing = asyncio.create_task(client.post(pause, body))
        if "wait" in pause:
            while not client.server.desk.paused:
                await asyncio.sleep(0)
            assert not pausing.done()
            hold.set()
        assert (await pausing)[0] == 200
        assert (await client.get("/is_paused"))[1] == {"is_paused": True}
        new = asyncio.create_task(client.post(TEXT, {"prompt": "y"}))
        while client.server.desk.count < 1 + (
            not at_work.done() and finish == "stop" and "wait" not in pause
        ):
            await asyncio.sleep(0)
        hold.set()
        first = (await at_work)[1]["choices"][0]
        assert not new.done() and len(client.engine.requests) == 1
        assert (await client.post(resume))[0] == 200
        second = (await new)[1]["choices"][0]
        return first, second

    fields, _ = reloadable(tmp_path)
    first, second = run(tmp_path, test, "yes", **fields)
    assert (first["finish_reason"], first["text"]) == (finish, "yes" if finish == "stop" else "")
    assert (second["finish_reason"], second["text"]) == ("stop", "yes")


def test_weights_come_from_whole_publications_below_the_allowed_folder(tmp_path):
    whole, broken = publish(tmp_path, "whole", "4-aa"), publish(tmp_path, "broken", "5-bb")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "published.json").write_text('{"version": 1, "label": "x"}')
    (tmp_path / "weights" / "half").mkdir()
    (tmp_path / "weights" / "link").symlink_to(outside)
    fields, taken = reloadable(tmp_path)

    def call(path, method="reload_weights"):
        return "/collective_rpc", {"method": method, "kwargs": {"weights_path": path}}

    async def test(client):
        said = {}
        for name, request in {
            "outside": call(str(outside)),
            "link": call(str(tmp_path / "weights" / "link")),
            "half": call(str(tmp_path / "weights" / "half")),
            "method": call(whole, "execute"),
            "none": call(None),
            "broken": call(broken),
        }.items():
            status, body = await client.post(*request)
            assert status == 400, name
            said[name] = body["error"]["message"]
        assert taken == [] and (await client.get("/weight_info"))[1] == {"weight_version": "initial"}
        assert (await client.post(*call(whole)))[0] == 200
        assert (await client.get("/weight_info"))[1] == {"weight_version": "4-aa"}
        await client.post("/update_weight_version", {"new_version": "mine"})
        assert (await client.get("/model_info"))[1]["weight_version"] == "mine"
        body = {"model_path": whole, "weight_version": "again", "flush_cache": True}
        assert (await client.post("/update_weights_from_disk", body))[1]["success"]
        assert (await client.get("/model_info"))[1]["weight_version"] == "again"
        return said

    said = run(tmp_path, test, **fields)
    assert taken == [("whole", 1), ("whole", 2)]
    assert "outside" in said["outside"] and "outside" in said["link"]
    assert "published.json" in said["half"] and "only reload_weights" in said["method"]
    assert "2 tensors do not fit" in said["broken"]
