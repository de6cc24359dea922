"""The fallback for WSGI applications: Flask, Django, Bottle, or none of these.

    app = FallbackMiddleware(app, guard, agent="billing-agent@2.4.0", workflow="refunds", paths=("/chat",))

A response that is streaming when a stop comes ends at its next chunk: WSGI has no way to interrupt one. See
`docs/fallback.md`.
"""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rescind.guard.fallback import Fallback, Fallbacks, Held
from rescind.integrations.answers import answer, form_for, header_of, tail_for
from rescind.integrations.front import EXEMPT, Front, Standing, Tenant, refuses
from rescind.model.level import Level
from rescind.model.scope import Subject

if TYPE_CHECKING:
    from rescind.guard.guard import Guard

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class FallbackMiddleware:
    """Shows users a helpful answer while their agent is stopped. See `rescind.integrations.asgi.FallbackMiddleware`."""

    def __init__(
        self,
        app: App,
        guard: "Guard",
        *,
        agent: str | None = None,
        tenant: Tenant = "",
        workflow: str = "",
        paths: Iterable[str] = ("/",),
        exempt: Iterable[str] = EXEMPT,
        fallbacks: Fallbacks | None = None,
        standing: Standing | None = None,
    ) -> None:
        """Stand in front of an application.

        Args:
            app: The application.
            guard: Its guard.
            agent: Who answers here, `name@version` or `name`. Without it only orders that name no agent count.
            tenant: On whose behalf, or a function that says so of a request's environ.
            workflow: The class of task.
            paths: Which paths are the agent's, with all below them; relative to where the application is mounted.
            exempt: Which are not, all the same.
            fallbacks: What is shown; the guard's by default.
            standing: Which orders stand; the guard's by default.

        Raises: UsageError, if the agent or a path cannot be read.
        """
        self._app = app
        self._front = Front(
            guard,
            agent=agent,
            tenant=tenant,
            workflow=workflow,
            paths=paths,
            exempt=exempt,
            fallbacks=fallbacks,
            standing=standing,
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if not self._front.covers(_path(environ)) or _is_preflight(environ):
            return self._app(environ, start_response)
        subject = self._front.subject(environ)
        response = Response(self._front, subject, environ, start_response)
        held = self._front.admits(subject)
        if refuses(held):
            response.end(self._front.shown(held))
        else:
            response.begin(self._app)
        return response


class Response:
    """One response, as the server iterates over it.

    What the application starts is passed on with its first chunk, as late as WSGI allows: until then an error page can
    still become the fallback.
    """

    def __init__(self, front: Front, subject: Subject, environ: Environ, start_response: StartResponse) -> None:
        """A response that neither the application nor we have begun."""
        self._front, self._subject, self._environ, self._start = front, subject, environ, start_response
        self._chunks: Iterable[bytes] = ()  # the application's own, to be closed
        self._iterator: Iterator[bytes] = iter(())
        self._status, self._headers = "", Headers()
        self._server_write: Write | None = None  # what the server gave us when the response was started
        self._bytes_sent = 0
        self._last: Iterator[bytes] | None = None  # our own words, once the application is not heard any more

    def begin(self, app: App) -> None:
        """Ask the application.

        Raises: what it raises, unless it is a refusal of a guard.
        """
        try:
            self._chunks = app(self._environ, self._note_start)
            self._iterator = iter(self._chunks)
        except Exception as error:  # noqa: BLE001  # raised again, if it is none of ours
            self._end_for(error)

    def end(self, fallback: Fallback) -> None:
        """End with the fallback, as far as the response still allows."""
        is_head = self._environ.get("REQUEST_METHOD") == "HEAD"
        if self._server_write is not None:
            tail = b"" if is_head else tail_for(self._status, self._headers, fallback)
            self._last = iter((tail,) if tail else ())
            return
        whole = answer(fallback, form_for(self._environ.get("HTTP_ACCEPT", "")), head=is_head)
        self._last = iter((whole.body,) if whole.body else ())
        status = "200 OK" if whole.status == 200 else "503 Service Unavailable"
        self._server_write = self._start(status, list(whole.headers))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._last is None and not self._is_settled():
            held = self._front.held(self._subject)
            if held.level is Level.HALTED:
                self.end(self._front.shown(held))
        chunk = b"" if self._last is not None else self._next_of_app()
        return next(self._last) if self._last is not None else chunk

    def close(self) -> None:
        """Close the application's response. A second close does nothing."""
        chunks, self._chunks = self._chunks, ()
        close = getattr(chunks, "close", None)
        if close is not None:
            close()

    def _next_of_app(self) -> bytes:
        try:
            chunk = next(self._iterator)
        except StopIteration:
            self._pass_on_start()
            if self._last is None:
                raise
            return b""
        except Exception as error:  # noqa: BLE001  # raised again, if it is none of ours
            self._end_for(error)
            return b""
        self._pass_on_start()
        self._bytes_sent += len(chunk)
        return chunk

    def _end_for(self, error: Exception) -> None:
        fallback = self._front.shown_for(error)
        if fallback is None or (self._server_write is not None and self._is_short()):
            raise error  # of a response that is cut short, the server closes the connection
        self.end(fallback)

    def _note_start(self, status: str, headers: Headers, exc_info: ExcInfo | None = None, /) -> Write:
        if self._server_write is not None and self._last is None:
            return self._start(status, headers, exc_info)  # too late: the server raises what it is given
        if self._status and exc_info is None:
            raise AssertionError("start_response was called a second time, and without exc_info")
        self._status, self._headers = status, headers
        return self._write

    def _pass_on_start(self) -> None:
        if self._server_write is not None or not self._status:
            return
        held = self._front.held(self._subject) if self._status.startswith("500") else Held()
        if refuses(held):
            self.end(self._front.shown(held))  # frameworks make an error page of what the guard raised
        else:
            self._server_write = self._start(self._status, self._headers)

    def _write(self, data: bytes) -> None:
        self._pass_on_start()
        if self._last is None and self._server_write is not None:
            self._server_write(data)
            self._bytes_sent += len(data)

    def _is_settled(self) -> bool:
        # With a length the content is settled: no agent is at work on it any more, and a part of it is no use.
        return self._length() is not None

    def _is_short(self) -> bool:
        is_head = self._environ.get("REQUEST_METHOD") == "HEAD"
        return not is_head and self._length() not in (None, str(self._bytes_sent))

    def _length(self) -> str | None:
        return header_of(self._headers, "content-length")


def _path(environ: Environ) -> str:
    """The path below the place where the application is mounted."""
    return str(environ.get("PATH_INFO", "")).encode("latin-1", "replace").decode("utf-8", "replace")


def _is_preflight(environ: Environ) -> bool:
    """Whether a browser only asks what it may ask. A refusal would keep it from reading the real one."""
    return environ.get("REQUEST_METHOD") == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
