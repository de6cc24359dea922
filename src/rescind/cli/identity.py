"""Who gives an order."""

import os


def whoami() -> str:
    """Who is at the keyboard, as far as the system knows: the user, and the one behind `sudo`."""
    import pwd  # asked only if nobody was named

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number without a name
        user = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER")
    return f"{behind} as {user}" if behind and behind != user else user
