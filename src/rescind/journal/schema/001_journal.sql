-- The journal, format 1. Append-only: rescind never updates or deletes a row of `entries`.

-- One row: what this journal is called in its seals.
CREATE TABLE IF NOT EXISTS journal (
    journal_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- A run as it was first opened. Agent, tenant, trace and the like are facts of the run, so entries carry only run_key
-- and four indexes stay small: integer keys wrote 2.5 to 5 times faster than names in every index at a million rows.
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
CREATE INDEX IF NOT EXISTS entries_run ON entries (run_key);        -- the sequence is the implied last column
CREATE INDEX IF NOT EXISTS entries_target ON entries (target) WHERE target IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_review ON entries (sequence) WHERE kind IN ('review_opened', 'review_resolved');

-- The last link of each chain. An end cut off a run shows as a difference to this.
CREATE TABLE IF NOT EXISTS heads (
    run_key  INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash     BLOB NOT NULL
);

-- The time range of each 1,024 consecutive sequences. Clocks mostly go forward, so these few rows find a time range
-- as well as an index on each entry would, and cost one row per commit instead of one per entry.
CREATE TABLE IF NOT EXISTS spans (
    span          INTEGER PRIMARY KEY,  -- sequence / 1024
    first_at_us   INTEGER NOT NULL,
    last_at_us    INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL      -- the journal's length, in the last row
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
