"""Who may do what. A token is 256 random bits, shown once; what is kept of it is its SHA-256.

    agent     subscribe and acknowledge; say what it notices; place orders that hold nobody but its own identity
    viewer    look
    operator  look and stop; pause, cancel and start undos, and decide review tasks
    approver  look, stop and lift; as an operator, and let the plan of an incident begin
    peer      exchange records, as another switch
    verifier  post verdicts, and look at nothing

A token with so many random bits cannot be guessed from its hash, so a slow hash would only slow a stop down.
"""

import enum
import hashlib
import hmac
import secrets
from collections.abc import Iterable

import msgspec

from rescind.clock import Clock, IdSource
from rescind.errors import UsageError
from rescind.model.scope import EVERYTHING_WORD, Scope
from rescind.web.problems import Refused

PREFIX = "rsc_"
"""Ours can be told from other secrets, by people and by scanners of repositories."""

NAME_LENGTH_MAX = 100


class Role(enum.StrEnum):
    """What a token is good for."""

    AGENT = "agent"
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    PEER = "peer"
    VERIFIER = "verifier"


class Power(enum.Enum):
    """What a request needs."""

    LOOK = enum.auto()
    SUBSCRIBE = enum.auto()
    STOP = enum.auto()
    LIFT = enum.auto()
    EXCHANGE = enum.auto()
    NOTICE = enum.auto()
    JUDGE = enum.auto()
    UNDO = enum.auto()
    APPROVE = enum.auto()


POWERS: dict[Role, frozenset[Power]] = {
    Role.AGENT: frozenset({Power.SUBSCRIBE, Power.STOP, Power.NOTICE}),
    Role.VIEWER: frozenset({Power.LOOK}),
    Role.OPERATOR: frozenset({Power.LOOK, Power.STOP, Power.JUDGE, Power.UNDO}),
    Role.APPROVER: frozenset({Power.LOOK, Power.STOP, Power.LIFT, Power.JUDGE, Power.UNDO, Power.APPROVE}),
    Role.PEER: frozenset({Power.EXCHANGE}),
    Role.VERIFIER: frozenset({Power.JUDGE}),
}
"""An agent may stop within its own identity only; whoever places the order sees to that."""

NOBODYS_POWERS = frozenset({Power.LOOK, Power.SUBSCRIBE, Power.STOP, Power.NOTICE, Power.JUDGE})
"""What a switch without any token lets everybody do who reaches it. Power is given back by somebody with a name."""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as the ledger keeps it. `identity` is the scope an agent acts in; empty for the other roles."""

    token_id: str
    hash: str
    role: Role
    name: str
    identity: str = ""
    created_at_us: int = 0
    revoked_at_us: int | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request: the token that was shown, or nobody in particular."""

    name: str
    role: Role | None
    identity: Scope = Scope()
    origin: str = ""

    def may(self, power: Power) -> bool:
        """Whether the caller has this power."""
        return power in (NOBODYS_POWERS if self.role is None else POWERS[self.role])


def asker_of(caller: Caller) -> str:
    """In whose name requests are counted: a token's holder, or a network address."""
    return caller.name if caller.role is not None else caller.origin


def new_token(role: Role, name: str, identity: str, *, clock: Clock, ids: IdSource) -> tuple[str, Token]:
    """A new secret, to be shown once, and what is kept of it.

    Raises: UsageError, if the name is none, or an agent has no identity that could be read.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, known_token(secret, role, name, identity, clock=clock, ids=ids)


def known_token(secret: str, role: Role, name: str, identity: str, *, clock: Clock, ids: IdSource) -> Token:
    """What is kept of a token that was made at another switch.

    Raises: UsageError, as `new_token`, or if the secret is none of ours.
    """
    if not secret.startswith(PREFIX) or len(secret) < len(PREFIX) + 40:
        raise UsageError(f"this is no token: one begins with {PREFIX} and is made by `rescind token create`")
    if not name.strip() or not name.isprintable() or len(name) > NAME_LENGTH_MAX:
        raise UsageError(f"a token needs the name of its holder, printable and at most {NAME_LENGTH_MAX} characters")
    if (role is Role.AGENT) != bool(identity):
        raise UsageError(
            "an agent's token needs --identity, such as `--identity agent:billing-agent`: it may only ever stop itself"
            if role is Role.AGENT
            else f"--identity is for tokens of agents; {role} has none"
        )
    try:
        scope = Scope.parse(identity) if identity else None
    except ValueError as error:
        raise UsageError(f"--identity: {error}") from error
    if scope == Scope():
        raise UsageError("--identity everything would let an agent stop all others; name the agent, such as agent:NAME")
    return Token(
        token_id=ids.new_id("tok"),
        hash=hash_of(secret),
        role=role,
        name=name.strip(),
        identity=str(scope) if scope is not None else "",
        created_at_us=clock.now_us(),
    )


def hash_of(secret: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


class TokenBook:
    """The tokens that are good now, in memory."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        """A book of those among `tokens` that were not revoked."""
        every = tuple(tokens)
        self._good = {token.hash: token for token in every if token.revoked_at_us is None}
        self._identities = {token.name: token.identity for token in self._good.values() if token.identity}
        # Not "none is good": whoever revokes the last token does not mean to let everybody in.
        self.is_empty = not every

    def identity_of(self, name: str) -> Scope:
        """What the token of this holder is limited to; everything, if it is not limited or not known."""
        return Scope.parse(self._identities.get(name, EVERYTHING_WORD))

    def find(self, secret: str) -> Token | None:
        """Whose token this is; None if nobody's."""
        wanted = hash_of(secret)
        token = self._good.get(wanted)
        # Found by its hash, so timing tells nothing of the secret; compared once more all the same, in constant time.
        return token if token is not None and hmac.compare_digest(token.hash, wanted) else None


def caller_with(authorization: str, origin: str, tokens: TokenBook) -> Caller:
    """Who sends a request with this `Authorization` header from this address.

    Raises: Refused (401), if the header shows no token that is good here.
    """
    scheme, _, secret = authorization.partition(" ")
    if not authorization:
        raise Refused(401, "a token is asked for here: send `Authorization: Bearer TOKEN`; see `rescind token --help`")
    token = tokens.find(secret.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        raise Refused(401, "this token is not known here, or was revoked; `rescind token create` makes another")
    identity = Scope.parse(token.identity) if token.identity else Scope()
    return Caller(name=token.name, role=token.role, identity=identity, origin=origin)


def refusal_of_power(caller: Caller, power: Power) -> Refused:
    """What to say to somebody whose role does not have this power."""
    return Refused(403, f"a token of role {caller.role} may not do this; it takes {_roles_with(power)}")


def _roles_with(power: Power) -> str:
    roles = [role.value for role in Role if Caller(name="", role=role).may(power) and role is not Role.AGENT]
    return " or ".join(roles) or "agent"
