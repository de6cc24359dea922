-- One row, once something was sealed: how many seals were written beside the journal, and the digest of the last one.
CREATE TABLE IF NOT EXISTS sealed (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    seals  INTEGER NOT NULL,
    digest TEXT NOT NULL
);
