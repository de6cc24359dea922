"""Has the rate of bad calls risen above what is tolerated? A change detector with a promise about false alarms.

Counting in a window needs a window that is long enough to be sure and short enough to be quick, and no length is both.
A change detector needs none: it weighs each call once, keeps a few numbers, and forgets by itself what speaks for
nothing. This one is a mixture of CUSUM-type e-detectors.

**The null.** Whatever has happened before, the next call is bad with probability at most `p_max`.

**One alternative.** Suppose that calls had become bad with probability q > p_max. The evidence for that in one call is
the likelihood ratio L = q / p_max for a bad call and (1 - q) / (1 - p_max) for a good one. Under the null E[L] <= 1,
with equality at its edge: a bet that nobody can win. The detector is the product of these, begun again whenever it has
fallen below 1, since the change may begin now just as well as earlier:

    M_n = L_n * max(M_{n-1}, 1)

**The promise.** Let S_n = L_n * (S_{n-1} + 1), Shiryaev's and Roberts' sum over all times at which the change may
have begun. M_n <= S_n, and S_n - n is a supermartingale under the null. So if N is the call at which M first reaches a
limit c, then c <= E[M_N] <= E[S_N] <= E[N]: between false alarms there are at least c calls on average, at the worst
rate that is tolerated, for any dependence between calls, and far more where the rate is lower.

**Several alternatives.** We do not know q, so we take some (1.5, 2 and 4 times p_max, and 50, 80 and 95 %) and the mean
of their M. A mean of e-detectors is one, so the promise stands; and the mean is at least the largest divided by their
number, so it costs log(6) / log(L), about one bad call, not to know.

A detector in which no M is above 1 is at rest: a good call leaves it there, so that a healthy agent pays for a look at
one attribute. The price of a bad call is six multiplications.

Source: J. Shin, A. Ramdas, A. Rinaldo, E-detectors: a nonparametric framework for sequential change detection, New
England Journal of Statistics in Data Science (2024), arXiv 2203.03532; E. S. Page (1954), Biometrika 41, 100-115.
"""

import math
from functools import lru_cache
from typing import NamedTuple

_TIMES = (1.5, 2.0, 4.0)
_RATES = (0.50, 0.80, 0.95)


class Weights(NamedTuple):
    """The likelihood ratios of one null, one for each alternative: of a bad call and of a good one."""

    p_max: float
    bad: tuple[float, ...]
    good: tuple[float, ...]


@lru_cache(maxsize=1024)
def weights_of(p_max: float) -> Weights:
    """The weights for a tolerated rate, more than 0 and less than 0.95; the same object for the same rate.

    Raises: ValueError, if the rate is not between these.
    """
    if not 0 < p_max < _RATES[-1]:
        raise ValueError(f"the tolerated rate is {p_max:g}; it must be more than 0 and less than {_RATES[-1]:g}")
    candidates = {p_max * times for times in _TIMES} | set(_RATES)
    alternatives = sorted(rate for rate in candidates if p_max < rate < 1)
    return Weights(
        p_max,
        tuple(rate / p_max for rate in alternatives),
        tuple((1 - rate) / (1 - p_max) for rate in alternatives),
    )


class Change:
    """See the module. `evidence` is what is compared with a limit."""

    __slots__ = ("_levels", "_weights", "bads", "calls")

    def __init__(self, weights: Weights) -> None:
        """A detector at rest."""
        self._weights = weights
        self.calls = self.bads = 0
        """Calls since it left its rest, and how many of them were bad: what people are told."""
        self._levels: list[float] | None = None  # None: all are at most 1, which is all that the next call asks of them

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing speaks for a change; a good call changes nothing then."""
        return self._levels is None

    @property
    def evidence(self) -> float:
        """How much speaks for a change: the mean of the alternatives, at rest 1 (and then at most 1)."""
        return 1.0 if self._levels is None else sum(self._levels) / len(self._levels)

    def bad(self) -> float:
        """A call was bad. Returns the evidence."""
        weights = self._weights.bad
        self.calls += 1
        self.bads += 1
        if self._levels is None:
            self._levels = list(weights)
        else:
            self._levels = [
                level * weight if level > 1.0 else weight for level, weight in zip(self._levels, weights, strict=True)
            ]
        return sum(self._levels) / len(self._levels)

    def good(self) -> None:
        """A call was good. Evidence never grows by that."""
        if self._levels is None:
            return
        levels = [
            level * weight if level > 1.0 else weight
            for level, weight in zip(self._levels, self._weights.good, strict=True)
        ]
        self.calls += 1
        self._levels = levels
        if max(levels) <= 1.0:
            self._levels = None
            self.calls = self.bads = 0


def tolerated(bad: int, calls: int) -> float:
    """The rate to tolerate, from a recorded baseline of a healthy time.

    The upper end of Wilson's interval for the healthy rate, doubled, but at least 3 and at most 10 percentage points
    above it: of 2, 10 and 25 % in a long record it makes 5, 20 and 35 %.

    Args:
        bad: Bad calls in the record, from 0 to `calls`.
        calls: All calls in the record, at least 1.

    Returns: A rate from 0.03 to 0.9. One call says nearly nothing, and tolerates 0.89 at least.
    Raises: ValueError, if the counts are impossible.
    Source: E. B. Wilson (1927), J. Am. Stat. Assoc. 22, 209-212; the doubling reproduces the pairs that the choice
        among rules was simulated with.
    """
    if not 0 <= bad <= calls or calls < 1:
        raise ValueError(f"a baseline of {bad} bad calls of {calls} cannot be; write 0 <= bad <= calls, calls >= 1")
    upper = _wilson_upper(bad / calls, calls)
    return min(upper + min(max(upper, 0.03), 0.10), 0.9)


def _wilson_upper(rate: float, calls: int, z: float = 1.96) -> float:
    centre = rate + z * z / (2 * calls)
    spread = z * math.sqrt(rate * (1 - rate) / calls + z * z / (4 * calls * calls))
    return (centre + spread) / (1 + z * z / calls)
