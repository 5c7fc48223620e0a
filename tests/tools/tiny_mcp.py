"""A server of MCP in the standard library alone, which starts in 20 ms and misbehaves as it is asked to.

`python -I -S tiny_mcp.py [WAY]` speaks the handshake protocol over stdio. A tool's name says what a call does; WAY is
what the server does instead of starting.
"""

import json
import os
import sys
import time

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NAMES = (
    "say",
    "crash",
    "hang",
    "garbage",
    "huge",
    "flood",
    "endless",
    "error",
    "fault",
    "wrong",
    "lie",
    "picture",
)
NAMES += ("environment", "pid", "nothing", "ask", "bad_json", "hits", "page")
HUB = "https://huggingface.co/datasets/x/y"


def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def text(*texts, **fields):
    return {"content": [{"type": "text", "text": one} for one in texts], **fields}


def call(name, given, identifier):
    """The result, or None where nothing is answered."""
    if name == "crash":
        sys.exit("I cannot go on")
    if name == "hang":
        time.sleep(60)
    if name == "garbage":
        sys.stdout.write('no JSON at all\n\x00\x01\n{"jsonrpc": "2.0"}\n[1, 2]\nnull\n')
        sys.stdout.flush()
        return text("after garbage")
    if name == "bad_json":
        sys.stdout.write(f'{{"jsonrpc": "2.0", "id": {identifier}, "result": {{"content": [}}\n')
        sys.stdout.flush()
        return None
    if name == "huge":
        return text("x" * int(given))
    if name == "flood":
        line = json.dumps(
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}
        )
        for _ in range(1000):
            sys.stdout.write(f"{line}\n" * 100)
        sys.stdout.flush()
        return None
    if name == "endless":
        for _ in range(2000):
            sys.stdout.write("x" * (1 << 20))
        return None
    if name == "error":
        return text("no such file: a.txt", isError=True)
    if name == "wrong":
        return {"content": "this is no list"}
    if name == "lie":
        send({"jsonrpc": "2.0", "id": 10**9, "result": text("of another call")})
        send({"jsonrpc": "2.0", "id": identifier, "result": text("true")})
        return text("again")
    if name == "picture":
        image = {"type": "image", "mimeType": "image/png", "data": "A" * 4000}
        link = {"type": "resource_link", "uri": HUB, "name": "answers"}
        file = {
            "type": "resource",
            "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "inside"},
        }
        return {"content": [image, link, file]}
    if name == "environment":
        return text(json.dumps(dict(os.environ)))
    if name == "pid":
        return text(str(os.getpid()))
    if name == "hits":
        good, bad = {"url": "https://a.test", "said": "one"}, {"url": HUB, "said": "the answer is 42"}
        return text(json.dumps({"found": [good, bad]}))
    if name == "page":
        return text(f"First.\n\nThe answers are at {HUB} and say 42.\n\nLast.", "more")
    if name == "nothing":
        return {"content": [], "structuredContent": {"found": 3}}
    return text(given)


def tools(way):
    if way == "none":
        return []
    named = {"names": ["a<b"], "twice": ["say", "say"], "many": [f"t{i}" for i in range(300)]}.get(way, NAMES)
    schema = {"type": "object", "properties": {"x": {"type": 5}}} if way == "schema" else SCHEMA
    listed = [{"name": name, "description": "d" * 9000, "inputSchema": schema} for name in named]
    if way == "calm":  # an old schema, which is none by today's rules
        pair = {"type": "array", "items": [{"type": "integer"}]}
        draft = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"pair": pair}}
        listed[1]["inputSchema"] = SCHEMA | draft
        listed[0] |= {"description": "says it", "annotations": {"readOnlyHint": True}}
        listed[0]["outputSchema"] = {"type": "object", "$ref": "http://127.0.0.1:1/schema"}
    return listed


def answer(message, way):
    method, identifier, params = message.get("method"), message.get("id"), message.get("params", {})
    if method == "initialize":
        asked = params["protocolVersion"]
        info = {"name": "tiny server" if way != "google" else "search_and_scrape_webpage", "version": "1"}
        return {"protocolVersion": asked, "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        page = {"tools": tools(way)}
        return page | ({"nextCursor": "for ever"} if way == "pages" else {})
    if method == "tools/call":
        return call(params["name"], params.get("arguments", {}).get("text", ""), identifier)
    raise LookupError(method)


def main(way=""):
    if way == "dies":
        sys.exit("Traceback\nModuleNotFoundError: no module named tiny\n")
    if way == "silent":
        time.sleep(60)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        if message.get("params", {}).get("name") == "fault":
            send(reply | {"error": {"code": -32603, "message": "division by zero"}})
            continue
        if message.get("params", {}).get("name") == "ask":
            send(reply | {"error": {"code": -32602, "message": "text: is missing"}})
            continue
        try:
            result = answer(message, way)
        except LookupError:
            send(reply | {"error": {"code": -32601, "message": "Method not found"}})
            continue
        if result is not None:
            send(reply | {"result": result})


if __name__ == "__main__":
    main(*sys.argv[1:])
