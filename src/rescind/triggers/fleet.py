"""How far a switch acts by itself on what guards and verifiers tell it: the part of a policy that a switch reads."""

import msgspec

from rescind.model.level import Level


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a switch acts by itself.

    Attributes:
        evidence_guards: So many guards must have the evidence.
        stop_share_pct: At most this share of the open runs may be held automatically.
        window_seconds: How long evidence counts.
        verdict_level: Where a verifier's critical verdict holds its scope; empty: it only alerts.
    """

    evidence_guards: int = 2
    stop_share_pct: float = 50.0
    window_seconds: float = 300.0
    verdict_level: str = "read_only"

    def __post_init__(self) -> None:
        if not 1 <= self.evidence_guards <= 1_000:
            raise ValueError(f"evidence_guards is {self.evidence_guards}; it must be from 1 to 1000")
        if not 0 < self.stop_share_pct <= 100:
            raise ValueError(f"stop_share_pct is {self.stop_share_pct:g}; it must be more than 0 and at most 100")
        if not 1 <= self.window_seconds <= 86_400:
            raise ValueError(f"window_seconds is {self.window_seconds:g}; it must be from 1 to 86400")
        if self.verdict_level and Level.parse(self.verdict_level) is Level.NORMAL:
            raise ValueError("verdict_level is normal, which holds nothing; leave it empty to be alerted only")
