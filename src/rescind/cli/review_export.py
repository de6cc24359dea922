"""The channel that review tasks are told to: as the command line says, else as `rescind.yaml` does."""

from pathlib import Path

from rescind.config import load_settings
from rescind.errors import UsageError
from rescind.switch.alerts.webhook import WebhookChannel


def channel_of(url: str | None, secret_file: str | None) -> WebhookChannel:
    """The webhook of this URL, signing with the secret in this file; what is None, `review:` of rescind.yaml says.

    Raises: UsageError, if there is no webhook, or no secret that can be read.
    """
    settings = load_settings()
    config, base = settings.config.review, settings.source.parent if settings.source else Path()
    url = url or config.webhook
    if not url:
        raise UsageError(
            "no webhook is named; give --webhook URL --secret-file FILE, or write review: {webhook: …, secret_file: …} "
            "into rescind.yaml"
        )
    if secret_file is None and config.secret_file is not None:
        secret_file = str(base / config.secret_file)
    if secret_file is None:
        raise UsageError("a webhook needs a secret to sign with; name its file with --secret-file")
    return WebhookChannel(url, _secret(Path(secret_file)))


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the webhook's secret file {path} cannot be read: {reason}") from error
