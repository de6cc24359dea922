"""Running a tool: with the call's idempotency key and secrets at hand, and what it reports of itself collected."""

import contextlib
from contextvars import ContextVar
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from rescind.errors import UsageError
from rescind.guard.recording import Recording, current_secrets
from rescind.guard.reporting import Collecting

if TYPE_CHECKING:
    from rescind.guard.run import Run
    from rescind.guard.tool import WriteTool

current_key: ContextVar[str | None] = ContextVar("rescind_idempotency_key", default=None)
"""The idempotency key of the write whose tool is running; a tool may hand it on to the system it calls."""


def idempotency_key() -> str | None:
    """The idempotency key of the guarded write whose tool is running here, to hand on to the system it calls."""
    return current_key.get()


class Invocation:
    """One run of a tool; it happens at most once.

    Attributes:
        began: Whether the tool was begun.
        collecting: What it says of itself.
        cut_short: Why it was cancelled, if a halt of the run did it.
    """

    def __init__(self, tool: "WriteTool", run: "Run") -> None:
        self._tool, self._run = tool, run
        self.began = False
        self.collecting = Collecting()
        self.cut_short = ""

    def invoke(self, recording: Recording, key: str) -> Any:
        """The tool itself, or a coroutine of it. What it raises, or its cancellation, is the flow's to judge.

        Raises: UsageError, if it returns a generator.
        """
        self.began = True
        if self._tool.is_async:
            return self._invoke_async(recording, key)
        key_token, secrets_token = current_key.set(key), current_secrets.set(recording.secrets)
        try:
            with self.collecting:
                result = self._tool.function(*recording.args, **recording.kwargs)
        finally:
            current_key.reset(key_token)
            current_secrets.reset(secrets_token)
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            raise UsageError(f"{self._tool.name} returned a generator, whose work would come after its outcome")
        return result

    async def _invoke_async(self, recording: Recording, key: str) -> Any:
        key_token, secrets_token = current_key.set(key), current_secrets.set(recording.secrets)
        try:
            with self.collecting:
                if self._tool.cancellable:
                    return await self._invoke_cancellable(recording)
                return await self._tool.function(*recording.args, **recording.kwargs)
        finally:
            # A coroutine that is closed from outside is left in another context than the one it was in.
            with contextlib.suppress(ValueError):
                current_key.reset(key_token)
                current_secrets.reset(secrets_token)

    async def _invoke_cancellable(self, recording: Recording) -> Any:
        from rescind.guard.cancelling import Cancelling  # and with it asyncio, which synchronous programs do without

        cancelling = Cancelling(self._run, self._tool.name)
        try:
            with cancelling:
                return await self._tool.function(*recording.args, **recording.kwargs)
        finally:
            self.cut_short = cancelling.reason
