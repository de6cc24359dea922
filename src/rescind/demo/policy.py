"""The desk's policy, as its `rescind.yaml` has it: how fast a release may go before somebody has looked at it.

The other agents of the desk go faster than this allows, and rightly. What tells them from the new release is no
number: they have proven themselves, and the policy says so by name. It names no release that is new, so that the next
one begins under the same limit, whatever may be wrong with it.
"""

from rescind.demo.bystanders import GLOBEX_AGENT, REPORTING_AGENT

RULE = "new-releases-start-slowly"

_BEGIN = "policy:\n"
_SHADOW = "  mode: shadow  # it says what it would do, and leaves the doing to whoever is on call\n"
_DETECT, _RESPOND = "  detect:\n", "  respond:\n"

_LENGTHS = """\
    # A run here goes on all day, and may become as long as it likes. What counts is its pace.
    behaviour: {steps_max: 100000, mutations_max: 100000}
    # A record is a subscription, an account or a mailbox: up to three for one customer.
"""
_PACE = "    blast_radius: {records_per_minute: 60, records_per_run: 100000}\n"

_PROVEN = f"""\
    # These have worked at this desk for months. How far they reach is written down, and nothing else is done.
    - {{signal: blast_radius, scope: "agent:{GLOBEX_AGENT}", then: report}}
    - {{signal: blast_radius, scope: "agent:{REPORTING_AGENT}", then: report}}
    # Whoever else comes is new. If one goes too fast, all its processes wait until a person lifts the order.
"""

_NEW = f"""\
    - name: {RULE}
      signal: blast_radius
      then: [paused on agent@version, incident]
"""

EXCERPT = f"{_BEGIN}{_DETECT}{_PACE}{_RESPOND}{_NEW}"
"""The lines that matter, for the screen."""


def policy_text(*, shadow: bool) -> str:
    """The section `policy:`. In shadow it counts and reports, and does nothing."""
    return f"{_BEGIN}{_SHADOW if shadow else ''}{_DETECT}{_LENGTHS}{_PACE}{_RESPOND}{_PROVEN}{_NEW}"
