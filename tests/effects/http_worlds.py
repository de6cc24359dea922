"""Worlds of the contract suite whose target is an HTTP server."""

import json
import ssl
from collections.abc import Callable
from typing import Any

import httpx

from effects.harness import World
from effects.http_server import HttpServer, Kind
from rescind.compensation.effects import HttpResource

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the many certificates, which take a while to read
BEFORE = b'{"plan":  "gold", "sum": 1.10, "revision": 0}'  # spaces and digits that a parser would lose


def _resource(
    tool: Callable[[httpx.Client], Any], path: str, *, etags: Kind = "strong", revises: bool = False
) -> Callable[[Any], World]:
    def build(_: Any) -> World:
        server = HttpServer(etags=etags, revises=revises)
        server.put("/api/customers/ann", BEFORE)
        server.put("/api/photos/ann", b"\xff\xd8\x00", "image/jpeg")
        server.put("/api/customers/bob", b"{}")
        client = httpx.Client(base_url=server.url, verify=NO_TLS)
        effect = HttpResource(
            f"{server.url}/api",
            path=lambda: path,
            client=client,
            without_etag="refuse" if etags == "strong" else "check",
            ignore=["revision"] if revises else [],
        )
        at = f"/api/{path}"
        left: list[tuple[str, bytes] | None] = []

        def meddle() -> None:
            left.append(server.resources.get(at))
            server.put(at, b'{"plan": "others"}')

        def mend() -> None:
            kind_and_body = left[-1]
            if kind_and_body is None:
                server.delete(at)
            else:
                server.put(at, kind_and_body[1], kind_and_body[0])

        def content() -> Any:
            if not revises:
                return sorted(server.resources.items())
            found = {name: json.loads(body) for name, (_, body) in server.resources.items() if "photos" not in name}
            return sorted((name, sorted((rest | {"revision": 0}).items())) for name, rest in found.items())

        def close() -> None:
            client.close()
            server.close()

        return World(
            effect=effect,
            tool=lambda: tool(client).raise_for_status(),
            meddle=meddle,
            mend=mend,
            content=content,
            cut_off=server.close,
            abandons=False,
            close=close,
        )

    return build


def _patch(client: httpx.Client) -> httpx.Response:
    return client.patch("/api/customers/ann", json={"plan": "free"})


HTTP = {
    "patched": _resource(_patch, "customers/ann"),
    "replaced": _resource(lambda client: client.put("/api/photos/ann", content=b"\xff"), "photos/ann"),
    "created": _resource(lambda client: client.put("/api/customers/dan", json={"plan": "new"}), "customers/dan"),
    "deleted": _resource(lambda client: client.delete("/api/customers/ann"), "customers/ann"),
    "without ETags": _resource(_patch, "customers/ann", etags="none"),
    "deleted, weak ETags": _resource(lambda client: client.delete("/api/photos/ann"), "photos/ann", etags="weak"),
    "a server that writes, too": _resource(_patch, "customers/ann", revises=True),
}
