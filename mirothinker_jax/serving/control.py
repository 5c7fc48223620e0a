"""New weights while the server runs: vLLM's and SGLang's endpoints for pausing, reloading and resuming.

They are there only where the server was told a folder that weights may come from. What is loaded must lie in it, and be
whole: a folder of safetensors with the marker of a publication (rollout/remote/weights.py).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from mirothinker_jax.config import ConfigError
from mirothinker_jax.rollout.remote.weights import MARKER, read_publication
from mirothinker_jax.serving.desk import MODES, Desk
from mirothinker_jax.serving.errors import ApiError, bad, read_object, refuse_unknown

_OF_SGLANG = {"abort": "abort", "retract": "keep"}


class WeightEndpoints:
    """Over one desk."""

    def __init__(self, desk: Desk):
        self._desk, self._served = desk, desk.served
        self._one = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """The endpoints; those that change something only where the weights can be changed."""
        shown = [
            web.get("/weight_info", self.info),
            web.get("/is_paused", self.is_paused),
            web.get("/model_info", self.model_info),
            web.get("/get_model_info", self.model_info),
        ]
        if self._served.reload is None or self._served.weights_dir is None:
            return shown
        return [
            *shown,
            web.post("/pause", self.pause),
            web.post("/resume", self.resume),
            web.post("/abort_requests", self.abort),
            web.post("/collective_rpc", self.reload_vllm),
            web.post("/update_weight_version", self.rename),
            web.post("/pause_generation", self.pause_sglang),
            web.post("/continue_generation", self.resume),
            web.post("/update_weights_from_disk", self.reload_sglang),
        ]

    async def info(self, request: web.Request) -> web.Response:
        return web.json_response({"weight_version": self._served.label})

    async def is_paused(self, request: web.Request) -> web.Response:
        return web.json_response({"is_paused": self._desk.paused})

    async def model_info(self, request: web.Request) -> web.Response:
        s = self._served
        about = {"model_path": s.name, "is_generation": True, "weight_version": s.label}
        return web.json_response(about | {"max_model_len": s.context_tokens, "vocab_size": s.vocab_size})

    async def pause(self, request: web.Request) -> web.Response:
        await self._pause(request.query.get("mode", "abort"), MODES)
        return web.json_response({"status": "paused"})

    async def pause_sglang(self, request: web.Request) -> web.Response:
        mode = (await read_object(request)).get("mode", "abort")
        if mode == "in_place":
            raise bad(
                "mode in_place keeps what old weights computed, which this server never does; give retract",
                "mode",
            )
        await self._pause(_OF_SGLANG.get(mode, mode), ("abort", "keep"))
        return web.json_response({"status": "ok"})

    async def _pause(self, mode: Any, modes: tuple[str, ...]) -> None:
        if mode not in modes:
            raise bad(f"mode is {mode!r}; choose one of {', '.join(modes)}", "mode")
        await self._desk.pause(mode)

    async def resume(self, request: web.Request) -> web.Response:
        self._desk.resume()
        return web.json_response({"status": "resumed"})

    async def abort(self, request: web.Request) -> web.Response:
        body = await read_object(request) if request.can_read_body else {}
        if body.get("request_ids"):
            raise bad(
                "request_ids: single requests are ended by closing their connection; leave it out for all"
            )
        self._desk.abort()
        return web.json_response({"status": "aborted"})

    async def rename(self, request: web.Request) -> web.Response:
        label = (await read_object(request)).get("new_version")
        if not isinstance(label, str) or not label:
            raise bad("new_version must be a text, not an empty one", "new_version")
        self._served.name_weights(label)
        return web.json_response({"success": True, "new_version": label})

    async def reload_vllm(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        refuse_unknown(body, {"method", "kwargs", "timeout"}, {"args": ([],)})
        if body.get("method") != "reload_weights":
            raise bad(f"method is {body.get('method')!r}; only reload_weights can be called", "method")
        kwargs = body.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            raise bad("kwargs is not an object", "kwargs")
        refuse_unknown(kwargs, {"weights_path"}, {"is_checkpoint_format": (True,)})
        await self._reload(kwargs.get("weights_path"), "weights_path")
        return web.json_response({"results": [None]})

    async def reload_sglang(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        off = {
            "flush_cache": (True, False),
            "abort_all_requests": (False,),
            "load_format": ("auto", "safetensors"),
        }
        refuse_unknown(body, {"model_path", "weight_version"}, off)
        await self._reload(body.get("model_path"), "model_path")
        if isinstance(label := body.get("weight_version"), str) and label:
            self._served.name_weights(label)
        return web.json_response({"success": True, "message": "weights reloaded", "num_paused_requests": 0})

    async def _reload(self, path: Any, name: str) -> None:
        served = self._served
        assert served.reload is not None and served.weights_dir is not None
        if not isinstance(path, str) or not path:
            raise bad(f"{name} must be the path of a folder", name)
        folder, allowed = Path(path).resolve(), served.weights_dir.resolve()
        if not folder.is_relative_to(allowed):
            raise bad(f"{name} is {path!r}, outside {allowed}, which --weights-dir allows", name)
        publication = await asyncio.to_thread(read_publication, folder)
        if publication is None:
            raise bad(f"{path} has no {MARKER}: there is no such folder here, or it is not whole", name)
        async with self._one:
            version = served.version + 1
            served.labels[version] = publication.label
            try:
                await served.reload(folder, version)
            except (ConfigError, OSError) as error:
                raise ApiError(400, f"{path}: {error}", name) from None
            served.version = version
            served.name_weights(publication.label)
