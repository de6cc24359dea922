"""Signatures of webhooks, by the Standard Webhooks convention (https://www.standardwebhooks.com), symmetric form."""

import base64
import binascii
import hashlib
import hmac
import secrets

from rescind.errors import UsageError

PREFIX = "whsec_"

KEY_BYTES_MIN = 24
KEY_BYTES_MAX = 64
"""The convention's bounds."""

_REMEDY = (
    "make one with: python -c 'from rescind.switch.alerts import new_webhook_secret as n; print(n())', and name its "
    "file with --webhook-secret-file"
)


def new_webhook_secret() -> str:
    """A new secret, `whsec_…`, for the switch and for the receiver."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def keys_of(secret: str) -> tuple[bytes, ...]:
    """The keys of a secret; several, separated by blanks, while receivers move from one to the next.

    Raises: UsageError with a remedy, and without the secret, if it is empty or malformed.
    """
    if not secret.split():
        raise UsageError(f"a webhook needs a secret to sign with; {_REMEDY}")
    return tuple(_key_of(part) for part in secret.split())


def sign(keys: tuple[bytes, ...], *, message_id: str, timestamp_s: int, body: bytes) -> str:
    """The header `webhook-signature`: one `v1,…` for each key."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp_s, body)
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def _key_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise UsageError(
            f"the webhook secret is not {PREFIX} and {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes in base64; {_REMEDY}"
        )
    return key
