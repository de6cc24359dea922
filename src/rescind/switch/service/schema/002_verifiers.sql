-- Format 2: tokens of verifiers. A list of allowed values cannot be widened in place, so the table is made anew.

CREATE TABLE tokens_of_format_2 (
    token_id      TEXT NOT NULL PRIMARY KEY,
    hash          TEXT NOT NULL UNIQUE,    -- SHA-256; tokens are 256 random bits, so that no salt or stretching is needed
    role          TEXT NOT NULL CHECK (role IN ('agent', 'viewer', 'operator', 'approver', 'peer', 'verifier')),
    name          TEXT NOT NULL,           -- the person or program
    identity      TEXT NOT NULL,           -- of an agent: the scope it acts in, such as agent:billing-agent
    created_at_us INTEGER NOT NULL,
    revoked_at_us INTEGER                  -- NULL while it is good
) WITHOUT ROWID;
INSERT INTO tokens_of_format_2 SELECT token_id, hash, role, name, identity, created_at_us, revoked_at_us FROM tokens;
DROP TABLE tokens;
ALTER TABLE tokens_of_format_2 RENAME TO tokens;
