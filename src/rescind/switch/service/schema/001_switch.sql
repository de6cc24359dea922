-- A switch's file, format 1. What was ordered is added and never changed; the triggers below hold everybody to it.

-- One row: which switch this is. Other switches and guards know it by this name.
CREATE TABLE switch (
    switch_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO switch VALUES ('sw_' || lower(hex(randomblob(8))));

-- Orders, lifts and consents, in the order in which they came to this switch.
CREATE TABLE records (
    sequence       INTEGER PRIMARY KEY,
    digest         TEXT NOT NULL UNIQUE,   -- SHA-256 of kind and body: the same record is the same everywhere
    kind           TEXT NOT NULL CHECK (kind IN ('order', 'lift', 'consent')),
    subject        TEXT NOT NULL,          -- order_id or lift_id
    body           TEXT NOT NULL,          -- JSON, as in wire.py
    received_at_us INTEGER NOT NULL        -- microseconds since 1970-01-01 UTC
);
CREATE INDEX records_subject ON records (subject);

-- Who did or tried what, from where. Each line covers the one before it by hash.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    at_us    INTEGER NOT NULL,
    what     TEXT NOT NULL,                -- order.placed, lift.placed, consent.given, record.merged, token.created, ...
    subject  TEXT NOT NULL,                -- order_id, lift_id or the name of a token
    actor    TEXT NOT NULL,                -- on whose behalf, as they say
    person   TEXT NOT NULL,                -- whose token it was; empty where none was shown
    origin   TEXT NOT NULL,                -- network address, or the switch it came from
    detail   TEXT NOT NULL,                -- the reason, for people
    hash     TEXT NOT NULL                 -- SHA-256 over the hash before and this line
);

-- Tokens are shown once. What is kept is a hash, which no token can be read from.
CREATE TABLE tokens (
    token_id      TEXT NOT NULL PRIMARY KEY,
    hash          TEXT NOT NULL UNIQUE,    -- SHA-256; tokens are 256 random bits, so that no salt or stretching is needed
    role          TEXT NOT NULL CHECK (role IN ('agent', 'viewer', 'operator', 'approver', 'peer')),
    name          TEXT NOT NULL,           -- the person or program
    identity      TEXT NOT NULL,           -- of an agent: the scope it acts in, such as agent:billing-agent
    created_at_us INTEGER NOT NULL,
    revoked_at_us INTEGER                  -- NULL while it is good
) WITHOUT ROWID;

-- Guards that may be out there after a restart, until they are heard again or their lease has run out.
CREATE TABLE guards (
    guard_id   TEXT NOT NULL PRIMARY KEY,
    owner      TEXT NOT NULL,              -- the name of its token; empty where none was shown
    report     TEXT NOT NULL,              -- JSON, as in wire.py; without runs and steps
    seen_at_us INTEGER NOT NULL
) WITHOUT ROWID;

-- One row, rewritten again and again: a disk that cannot take it could not take a stop.
CREATE TABLE pulse (
    pulse_id INTEGER PRIMARY KEY CHECK (pulse_id = 1),
    at_us    INTEGER NOT NULL
);
INSERT INTO pulse VALUES (1, 0);

CREATE TRIGGER switch_update BEFORE UPDATE ON switch BEGIN SELECT RAISE(ABORT, 'a switch keeps its name'); END;
CREATE TRIGGER switch_delete BEFORE DELETE ON switch BEGIN SELECT RAISE(ABORT, 'a switch keeps its name'); END;
CREATE TRIGGER switch_insert BEFORE INSERT ON switch BEGIN SELECT RAISE(ABORT, 'a switch has one name'); END;

CREATE TRIGGER records_update BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records are never changed'); END;
CREATE TRIGGER records_delete BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END;
CREATE TRIGGER records_replace BEFORE INSERT ON records
WHEN EXISTS (SELECT 1 FROM records WHERE digest = NEW.digest OR sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'this record is known already'); END;

CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;
CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is never shortened'); END;
CREATE TRIGGER audit_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'the audit log is never changed'); END;
