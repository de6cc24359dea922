"""From what an operator writes to channels."""

from collections.abc import Sequence

from rescind.clock import Clock
from rescind.errors import UsageError
from rescind.switch.alerts.apprise_channel import AppriseChannel
from rescind.switch.alerts.channel import Channel
from rescind.switch.alerts.webhook import WebhookChannel


def channels_of(urls: Sequence[str], webhook_secret: str = "", *, clock: Clock | None = None) -> tuple[Channel, ...]:
    """A channel for each URL, in their order; of several with one name, the later ones are numbered.

    Args:
        urls: `https://…` and `http://…` are webhooks; everything else is a URL of Apprise.
        webhook_secret: `whsec_…`; needed if there is a webhook.
        clock: For the webhooks.

    Raises: UsageError, which says which of them (`alert URL 2`), without the URL, and what to write.
    """
    channels: list[Channel] = []
    named: dict[str, int] = {}
    for place, url in enumerate(urls, start=1):
        channel = _channel(url.strip(), webhook_secret, clock, place)
        named[channel.name] = named.get(channel.name, 0) + 1
        if named[channel.name] > 1:
            channel.name += f" #{named[channel.name]}"
        channels.append(channel)
    return tuple(channels)


def _channel(url: str, webhook_secret: str, clock: Clock | None, place: int) -> WebhookChannel | AppriseChannel:
    try:
        if url.lower().startswith(("http://", "https://")):
            return WebhookChannel(url, webhook_secret, clock=clock)
        return AppriseChannel(url)
    except UsageError as error:
        raise UsageError(f"alert URL {place}: {error}") from None
