"""A resource of an HTTP server as an effect."""

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, cast
from urllib.parse import unquote

from rescind.compensation.effects.http_exchange import Exchange, HttpFailed, Reply, shown  # says if httpx is missing

# isort: split
import httpx

from rescind.compensation.effects.one_place import OnePlace, before_of, is_to_put_back
from rescind.errors import Conflict, DeclarationError, Transient, UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target

_HEADERS_KEPT = ("content-type", "content-encoding", "content-language")
_REFUSALS = (404, 409, 410, 412, 423, 428)
_NO_PATH = re.compile(r"[\x00-\x20\x7f\\#]")


class HttpResource(OnePlace):
    """What an address holds, before and after a call; the undo puts it back, if it is still as the call left it.

        crm = HttpResource("https://crm.example/api", path=lambda id: f"customers/{quote(id, safe='')}", client=client)

        @guard.write("customer.update", effect=crm)
        def update(id: str, status: str) -> None:
            client.patch(f"https://crm.example/api/customers/{id}", json={"status": status}).raise_for_status()

    The tool sends whatever it likes: PUT, PATCH, DELETE, POST to an action. The effect GETs before and after, and
    restores by PUT of the body from before, or DELETE where there was nothing. Each carries the condition that the
    resource is still the one that was compared (`If-Match` with its ETag, `If-None-Match: *` where it is gone), so
    checking and writing are one step at the server, and 412 is a conflict.

    The version is the content: type, encoding, language and body, JSON as values. An ETag is a condition and no
    version, for most servers give a restored body a new one. So somebody who changed the resource and changed it back
    has, for an undo, changed nothing. What the server writes into a JSON body itself, such as a time of change, is
    named in `ignore`.

    A server that sends no ETag, or only weak ones, is refused before the tool runs. With `without_etag="check"` its
    resources are compared and then written without a condition: a write by somebody else in that very moment is lost.
    That is also so at a server that sends ETags and does not heed `If-Match`, which nobody can see from here.

    A tool that raised is unknown: a request whose reply was lost may still arrive. Bodies go into the journal, headers
    and credentials of the client do not. 404 and 410 count as absent; a server that hides behind them what the client
    may not see needs a client that may.
    """

    parallel = True

    def __init__(
        self,
        base_url: str,
        *,
        path: Callable[..., str],
        client: httpx.Client | None = None,
        without_etag: Literal["refuse", "check"] = "refuse",
        ignore: Sequence[str] = (),
        system: str = "http",
        bytes_max: int = 1 << 20,
        timeout_s: float = 30.0,
    ) -> None:
        """Guard resources below an address.

        Args:
            base_url: What no resource may leave, such as `https://crm.example/api`; no query, no credentials.
            path: Which resource below it, as a function of those of the tool's arguments that it names. Quote what
                comes from an agent (`urllib.parse.quote(id, safe="")`).
            client: An `httpx.Client` with the credentials; by default one without any.
            without_etag: What to do with a server that sends none: refuse the call, or check and then act.
            ignore: Top-level members of a JSON body that the server writes itself.
            system: What targets call the server.
            bytes_max: How large a body may be; more is refused before the tool runs.
            timeout_s: How long one request may take to connect, and between two signs of life, and to deliver a body.

        Raises: DeclarationError for an address that is none.
        """
        self._base = _base_of(base_url)
        if without_etag not in ("refuse", "check"):
            raise DeclarationError(f'without_etag is {without_etag!r}; it must be "refuse" or "check"')
        super().__init__(path, role="path", system=system)
        self._checks = without_etag == "check"
        self._ignore = frozenset([ignore] if isinstance(ignore, str) else ignore)
        self._owns_client = client is None
        self.client = client or httpx.Client()
        """What the effect sends its requests by; tools may use it too."""
        self._exchange = Exchange(self.client, bytes_max=bytes_max, timeout_s=timeout_s)

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the path below the base."""
        return Target(self._system, "resource", self._path_of(arguments))

    def close(self) -> None:
        """Close the client, if it is the effect's own."""
        if self._owns_client:
            self.client.close()

    def open(self, call: Call) -> "_ResourceTouch":
        """See `Effect`. Raises: UsageError for a server without ETags, or too much; HttpFailed; Transient; OSError."""
        path = self._path_of(call.arguments)
        before, etag = self._look(path)
        if not (before.absent or etag or self._checks):
            raise UsageError(
                f"{shown(self._url(path))} has no strong ETag, so an undo could not write it back under a condition; "
                'the tool was not run. without_etag="check" accepts that a write by others in that moment is lost'
            )
        return _ResourceTouch(self, path, before)

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(step.before["path"]) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`."""
        return self._snapshot(image)

    def restore(self, step: PastStep) -> None:
        """See `Effect`. Raises also: ConnectionError, TimeoutError, if it may have happened; HttpFailed."""
        before = before_of(step, "the body from")
        path = before.image["path"]
        now, etag = self._look(path)
        if not is_to_put_back(step, now, path):
            return
        reply = self._put_back(path, before, now, etag)
        if reply.status in _REFUSALS:
            self._explain(path, reply, before, now)
        elif not 200 <= reply.status < 300:
            raise HttpFailed(f"putting back {path} was refused: the server answered {reply.status}")

    def _put_back(self, path: str, before: Snapshot, now: Snapshot, etag: str) -> Reply:
        # The ETag came with the body that was compared: whoever writes after that look makes the condition false.
        if now.absent:
            condition = {"if-none-match": "*"}
        elif etag:
            condition = {"if-match": etag}
        elif self._checks:
            condition = {}
        else:
            raise Conflict(f'{path} has no strong ETag any more, so it was not changed; see without_etag="check"')
        if before.absent:
            return self._exchange.write("DELETE", self._url(path), headers=condition)
        headers = {**before.image["headers"], **condition}
        return self._exchange.write("PUT", self._url(path), headers=headers, content=_body_of(before.image))

    def _explain(self, path: str, reply: Reply, before: Snapshot, after: Snapshot) -> None:
        """Returns if another restore was quicker. Raises: Conflict; Transient, if it is as the step left it again."""
        seen = self.look(path)
        if seen.version == before.version:
            return
        if seen.version != after.version:
            raise Conflict(f"{path} is not as the step left it: it changed just now, and was not touched")
        if reply.status == 412:
            raise Transient(f"{path} was written by others while it was put back")
        raise Conflict(f"the server does not let {path} be put back: it answered {reply.status}; nothing was changed")

    def look(self, path: str) -> Snapshot:
        """The resource now. Raises: HttpFailed, Transient, UsageError, ConnectionError, TimeoutError."""
        return self._look(path)[0]

    def _look(self, path: str) -> tuple[Snapshot, str]:
        """And its ETag, if it is a strong one."""
        reply = self._exchange.read(self._url(path))
        if reply.status in (404, 410):
            return self._snapshot({"path": path}), ""
        if reply.status not in (200, 204):
            hint = "; are the client's credentials right?" if reply.status in (401, 403) else ""
            raise HttpFailed(f"GET {shown(self._url(path))} answered {reply.status}{hint}")
        kept = {name: reply.headers[name] for name in _HEADERS_KEPT if name in reply.headers}
        etag = reply.headers.get("etag", "")
        return self._snapshot({"path": path, "headers": kept, **_as_image(reply.body)}), (
            "" if etag.startswith("W/") else etag
        )

    def _snapshot(self, image: dict[str, Any]) -> Snapshot:
        if "headers" not in image:
            return Snapshot.of(image, absent=True)
        headers, body = image["headers"], _body_of(image)
        values = _json_values(body, self._ignore) if _is_json(headers) else None
        return Snapshot.of(image, version=None if values is None else Snapshot.of([headers, values]).ref)

    def _path_of(self, arguments: Mapping[str, Any]) -> str:
        path = self._name(arguments)
        self._url(path)
        return path

    def _url(self, path: str) -> httpx.URL:
        """Raises: UsageError for what leaves the base; a recorded path is checked like a new one."""
        plain = path.partition("?")[0]
        for _ in range(3):  # some servers decode twice
            if plain.startswith("/") or _NO_PATH.search(plain) or {".", ".."} & set(plain.split("/")):
                raise UsageError(
                    f"path {path!r:.200} may lead elsewhere than below {self._base}; the tool was not run. Give a "
                    "relative path without dots, and quote what comes from an agent"
                )
            plain = unquote(plain)
        try:
            return httpx.URL(f"{self._base}/{path}" if path else self._base)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise UsageError(f"path {path!r:.200} makes no address: {error}; the tool was not run") from error


def _base_of(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise DeclarationError(f"base_url is no address: {error}") from None
    if url.userinfo:
        raise DeclarationError("base_url holds credentials, which would be shown; give them to the client (auth=…)")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise DeclarationError(f"base_url is {shown(url)!r}; give http:// or https://, a host, and no query")
    return str(url).rstrip("/")


def _as_image(body: bytes) -> dict[str, str]:
    """Text where it is some: people read journals."""
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _body_of(image: Mapping[str, Any]) -> bytes:
    return image["text"].encode() if "text" in image else base64.b64decode(image["base64"])


def _is_json(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return "content-encoding" not in headers and (kind == "application/json" or kind.endswith("+json"))


def _json_values(body: bytes, ignore: frozenset[str]) -> str | None:
    """What a JSON body says, in one form and without what is ignored; None if it is none, or says something twice."""
    try:
        found: Any = json.loads(body, parse_float=_exact, object_pairs_hook=_members)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    if isinstance(found, dict) and _OBJECT in found:
        members = cast("dict[str, Any]", found[_OBJECT])
        found = {_OBJECT: {name: value for name, value in members.items() if name not in ignore}}
    return json.dumps(found, sort_keys=True)


_OBJECT = "object"  # what stands for an object is named so, lest one look like what stands for a number


def _exact(text: str) -> dict[str, str]:
    return {"float": str(Decimal(text).normalize())}  # 1.10 is 1.1, and no digit is lost as in a double


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name appears twice")
    return {_OBJECT: members}


class _ResourceTouch:
    """See `Touch`."""

    def __init__(self, effect: HttpResource, path: str, before: Snapshot) -> None:
        self.before = before
        self._effect, self._path = effect, path

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        return self._effect.look(self._path)

    def abandon(self) -> bool:
        """See `Touch`. A request whose reply was lost may still arrive."""
        return False
