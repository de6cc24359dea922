"""Which token to show to which switch.

Every switch keeps tokens of its own, so who speaks to several may hold several. A token's text is one token for all, or
lines of `URL TOKEN`; a line with a token alone is for the switches that have no line.
"""

from rescind.errors import ConfigError

_FORM = "write one token, or lines of `URL TOKEN`"


def token_for(url: str, text: str) -> str:
    """The token for a switch; empty if there is none for it.

    Args:
        url: The switch.
        text: As RESCIND_TOKEN or a token file holds it.

    Raises: ConfigError, if the text cannot be read; it is not repeated in the message, since it may be a secret.
    """
    return tokens_by_url(text).get(url.rstrip("/"), tokens_by_url(text).get("", ""))


def tokens_by_url(text: str) -> dict[str, str]:
    """Every token by the URL that it is for; that for all others stands under the empty text.

    Raises: ConfigError, as `token_for`.
    """
    found: dict[str, str] = {}
    for line in filter(str.strip, text.splitlines()):
        words = line.split()
        url, token = ("", words[0]) if len(words) == 1 else (words[0].rstrip("/"), words[-1])
        if len(words) > 2 or (url and not url.startswith(("http://", "https://"))):
            raise ConfigError(f"the token has blanks in it, as no token has; is it the right file? {_FORM}")
        if not all("!" <= character <= "~" for character in token):
            raise ConfigError(f"the token has characters that no token has; is it the right file? {_FORM}")
        if url in found:
            whose = url or "all switches"
            raise ConfigError(f"there are two tokens for {whose}; {_FORM}")
        found[url] = token
    return found
