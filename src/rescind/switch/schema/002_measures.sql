-- Format 2: orders that do more than hold a level, and the probes of breakers that have tripped.

ALTER TABLE orders ADD COLUMN measure TEXT NOT NULL DEFAULT 'level';  -- see `Measure`
ALTER TABLE orders ADD COLUMN cause   TEXT NOT NULL DEFAULT '';       -- the signal or incident it answers
ALTER TABLE orders ADD COLUMN trigger TEXT NOT NULL DEFAULT '';       -- the rule that placed it; '' for a person

-- The probes of a breaker that has tripped: each is claimed once, by one process, and its outcome is added once.
-- `round` counts the times the breaker has been half-open; a failed probe begins the next cooldown and round.
CREATE TABLE probes (
    order_id      TEXT NOT NULL,     -- the trip
    round         INTEGER NOT NULL,
    number        INTEGER NOT NULL,  -- from 1, in the order of the claims
    claimed_by    TEXT NOT NULL,
    claimed_at_us INTEGER NOT NULL,
    PRIMARY KEY (order_id, round, number)
) WITHOUT ROWID;

CREATE TABLE probe_ends (
    order_id    TEXT NOT NULL,
    round       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    outcome     TEXT NOT NULL CHECK (outcome IN ('succeeded', 'failed', 'void')),  -- void: the call was not made
    ended_at_us INTEGER NOT NULL,
    PRIMARY KEY (order_id, round, number)
) WITHOUT ROWID;

CREATE TRIGGER probes_update BEFORE UPDATE ON probes BEGIN SELECT RAISE(ABORT, 'a probe is claimed once'); END;
CREATE TRIGGER probes_delete BEFORE DELETE ON probes BEGIN SELECT RAISE(ABORT, 'probes are never deleted'); END;
CREATE TRIGGER probe_ends_update BEFORE UPDATE ON probe_ends BEGIN SELECT RAISE(ABORT, 'a probe ends once'); END;
CREATE TRIGGER probe_ends_delete BEFORE DELETE ON probe_ends BEGIN SELECT RAISE(ABORT, 'a probe ends once'); END;

-- As for orders: INSERT OR REPLACE would delete without firing the triggers above.
CREATE TRIGGER probes_replace BEFORE INSERT ON probes
WHEN EXISTS (SELECT 1 FROM probes WHERE (order_id, round, number) = (NEW.order_id, NEW.round, NEW.number))
BEGIN SELECT RAISE(ABORT, 'a probe is claimed once'); END;
CREATE TRIGGER probe_ends_replace BEFORE INSERT ON probe_ends
WHEN EXISTS (SELECT 1 FROM probe_ends WHERE (order_id, round, number) = (NEW.order_id, NEW.round, NEW.number))
BEGIN SELECT RAISE(ABORT, 'a probe ends once'); END;
