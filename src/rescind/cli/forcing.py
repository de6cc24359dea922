"""`rescind undo --force`: who may have somebody else's later change overwritten.

Where switches are configured, an approver: the switch says whose token this is, and its name is what the journal keeps.
Without any switch nobody has a role, and whoever may write to the store's files may overwrite what stands in them; the
journal keeps the name that was given, and the reason.
"""

from rescind.cli.safe import safe
from rescind.cli.trouble import failed
from rescind.clock import Clock
from rescind.config import TOKEN_VARIABLE, Settings
from rescind.errors import UsageError
from rescind.switch.client.asking import Switches
from rescind.switch.client.operator import get_asker


def approver_of(settings: Settings, actor: str, *, clock: Clock) -> str:
    """In whose name it is done: the holder of the token, or `actor` where no switch is configured.

    Raises: SwitchesFailed, if no switch answers; UsageError, if one of those that do takes this for no approver's.
    """
    configured = settings.switch
    if not configured.urls:
        return actor
    switches = Switches(urls=tuple(configured.urls), token=settings.token, ca_file=configured.ca_file)
    replies = get_asker(switches, clock=clock).every()
    askers = [(reply.url, reply.answer) for reply in replies if reply.answer is not None]
    if not askers:
        raise failed("--force takes an approver, and no switch says whose token this is; nothing was undone", replies)
    for url, asker in askers:
        if not asker.may_lift:
            known = f"for {asker.name}, {asker.role}" if asker.role else "for nobody in particular"
            raise UsageError(
                f"--force takes an approver's token, and {safe(url)} takes this {safe(known)}; name an approver's with "
                f"{TOKEN_VARIABLE} (see `rescind token create --role approver`). Nothing was undone"
            )
    return askers[0][1].name
