"""Pages of a list: so many, and where to go on."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from litestar.params import Parameter

from rescind.errors import UsageError

PAGE_MAX = 1_000

After = Annotated[str, Parameter(max_length=200, description="`after` of the page before; empty for the first one.")]
Most = Annotated[int, Parameter(ge=1, le=PAGE_MAX, description="How many at most.")]

T = TypeVar("T")


def page_of(found: Sequence[T], key: Callable[[T], str], after: str, limit: int) -> tuple[Sequence[T], str]:
    """The page that comes after the one with this key, and the key to go on after; empty if this is the last page.

    Raises: UsageError, if nothing of that list has the key.
    """
    begin = 0
    if after:
        place = next((number for number, each in enumerate(found) if key(each) == after), None)
        if place is None:
            raise UsageError(f"after={after!r} is no page of this list any more; begin with its first page")
        begin = place + 1
    page = found[begin : begin + limit]
    return page, key(page[-1]) if begin + limit < len(found) else ""
