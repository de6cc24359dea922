-- What guarded steps change in a SQLite database: one changeset of SQLite's session extension for each step.
CREATE TABLE IF NOT EXISTS rescind_change_set (
  number INTEGER PRIMARY KEY,       -- random: a number that was rolled back must not come again
  run_id TEXT NOT NULL,
  step_id TEXT NOT NULL,
  action TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  made_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  state TEXT NOT NULL CHECK (state IN ('done', 'undone', 'purged')),
  signature TEXT NOT NULL,          -- of the tables then, as JSON
  digest TEXT NOT NULL,             -- of the changeset, SHA-256
  changeset BLOB                    -- NULL when purged
) STRICT;
DROP INDEX IF EXISTS rescind_change_set_made_at;  -- it cost each step a page, and `purge` looks at each row anyhow
CREATE TABLE IF NOT EXISTS rescind_change_database (id TEXT NOT NULL) STRICT;
INSERT INTO rescind_change_database SELECT lower(hex(randomblob(8)))
  WHERE NOT EXISTS (SELECT 1 FROM rescind_change_database);
