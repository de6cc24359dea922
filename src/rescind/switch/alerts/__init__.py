"""Who is told that somebody was stopped or let go: channels, and the outbox that is never in the way of a stop."""

from rescind.switch.alerts.alert import (
    Alert,
    Severity,
    alert_of_cannot_store,
    alert_of_lift,
    alert_of_order,
    alert_of_stores_again,
)
from rescind.switch.alerts.apprise_channel import AppriseChannel
from rescind.switch.alerts.channel import Channel, Undelivered
from rescind.switch.alerts.named import channels_of
from rescind.switch.alerts.outbox import Alerts, ChannelHealth, Retries
from rescind.switch.alerts.signature import new_webhook_secret
from rescind.switch.alerts.webhook import WebhookChannel

__all__ = [
    "Alert",
    "Alerts",
    "AppriseChannel",
    "Channel",
    "ChannelHealth",
    "Retries",
    "Severity",
    "Undelivered",
    "WebhookChannel",
    "alert_of_cannot_store",
    "alert_of_lift",
    "alert_of_order",
    "alert_of_stores_again",
    "channels_of",
    "new_webhook_secret",
]
