-- The journal, format 1. Append-only: rescind never updates or deletes a row of `entries`.

-- One row: what this journal is called in its seals.
CREATE TABLE IF NOT EXISTS journal (
    journal_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- A run as it was first opened. Agent, tenant, trace and the like are facts of the run, so entries carry only run_key:
-- integer keys wrote 2.5 to 5 times faster than names in every index at a million rows.
CREATE TABLE IF NOT EXISTS runs (
    run_key       INTEGER PRIMARY KEY,  -- the sequence of the run's first entry
    run_id        TEXT NOT NULL UNIQUE,
    agent_name    TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    tenant        TEXT NOT NULL,
    workflow      TEXT NOT NULL,
    session       TEXT NOT NULL,
    trace_id      TEXT NOT NULL,
    ancestors     TEXT NOT NULL         -- JSON array of run ids, parent first
);
CREATE INDEX IF NOT EXISTS runs_trace ON runs (trace_id, run_id);
CREATE INDEX IF NOT EXISTS runs_tenant ON runs (tenant, run_id);
CREATE INDEX IF NOT EXISTS runs_agent ON runs (agent_name, agent_version, run_id);

-- The entries. A run's positions ascend with the sequence, so (run_key, sequence) orders a run as well as the journal.
CREATE TABLE IF NOT EXISTS entries (
    sequence       INTEGER PRIMARY KEY,  -- 1, 2, 3, ... without gaps, in order of commit
    run_key        INTEGER NOT NULL,
    position       INTEGER NOT NULL,     -- 0, 1, 2, ... within the run
    recorded_at_us INTEGER NOT NULL,     -- microseconds since 1970-01-01 UTC
    kind           TEXT NOT NULL,        -- the body's "type"
    target         BLOB,                 -- first 16 bytes of the target's SHA-256, where a step was intended on one
    hash           BLOB NOT NULL,        -- 32 bytes, see rescind.journal.chain
    body           BLOB NOT NULL         -- the event as JSON
);
CREATE INDEX IF NOT EXISTS entries_of_reviews ON entries (sequence)
    WHERE kind IN ('review_opened', 'review_noted', 'review_resolved');

-- What would be indexes of `entries`, filled not with each entry but in order for each 1,024 of them (a span: sequence /
-- 1024), when these are complete. An index on each entry touches a page for every run and target that is being written,
-- in every commit, and the log carries each of those pages; sorted and at once, a span costs a tenth of that. Readers
-- look into these tables up to the last complete span, and read the few entries after it one by one.
CREATE TABLE IF NOT EXISTS run_entries (
    run_key  INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (run_key, sequence)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS target_entries (
    target   BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (target, sequence)
) WITHOUT ROWID;

-- The time range of each complete span. Clocks mostly go forward, so these few rows find a time range as well as an
-- index on each entry would.
CREATE TABLE IF NOT EXISTS spans (
    span        INTEGER PRIMARY KEY,
    first_at_us INTEGER NOT NULL,
    last_at_us  INTEGER NOT NULL
);

-- The last link of each chain, with each commit: an end cut off a run, or off the journal, shows as a difference to this.
CREATE TABLE IF NOT EXISTS heads (
    run_key  INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash     BLOB NOT NULL
);

-- Who holds an idempotency key. The result is not repeated here: it stands in the entry that outcome_sequence names.
CREATE TABLE IF NOT EXISTS slots (
    tenant           TEXT NOT NULL,
    key              TEXT NOT NULL,
    digest           TEXT NOT NULL,
    run_key          INTEGER NOT NULL,
    step_id          TEXT NOT NULL,
    intent_sequence  INTEGER NOT NULL,
    outcome_sequence INTEGER,           -- NULL while nobody knows an end
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS slots_step ON slots (run_key, step_id);
