-- Format 3: what guards ask to have approved, and what people decided, are records too. As in format 2, the table is made
-- anew, with every record in its place.

CREATE TABLE records_of_format_3 (
    sequence       INTEGER PRIMARY KEY,
    digest         TEXT NOT NULL UNIQUE,   -- SHA-256 of kind and body: the same record is the same everywhere
    kind           TEXT NOT NULL CHECK (kind IN ('order', 'lift', 'consent', 'approval', 'decision')),
    subject        TEXT NOT NULL,          -- order_id, lift_id or approval_id
    body           TEXT NOT NULL,          -- JSON, as in wire.py and approval_wire.py
    received_at_us INTEGER NOT NULL        -- microseconds since 1970-01-01 UTC
);
INSERT INTO records_of_format_3 SELECT sequence, digest, kind, subject, body, received_at_us FROM records;
DROP TABLE records;
ALTER TABLE records_of_format_3 RENAME TO records;
CREATE INDEX records_subject ON records (subject);

CREATE TRIGGER records_update BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'records are never changed'); END;
CREATE TRIGGER records_delete BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'records are never deleted'); END;
CREATE TRIGGER records_replace BEFORE INSERT ON records
WHEN EXISTS (SELECT 1 FROM records WHERE digest = NEW.digest OR sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'this record is known already'); END;
