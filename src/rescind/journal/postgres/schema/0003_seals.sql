-- The journal on PostgreSQL, revision 3: it is sealed while it is written, as one in a file is. What a seal is, and how
-- its digest is made: see rescind.journal.seal.

CREATE TABLE seals (
    through_sequence bigint PRIMARY KEY,  -- the last entry it covers
    entries          bigint NOT NULL,     -- how many it adds to the seal before
    digest           text NOT NULL,       -- of the digest before and the hashes of those entries; hexadecimal
    sealed_at        timestamptz NOT NULL -- by this server's clock
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON seals FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON seals FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- How many seals were written, and the digest of the last: so that seals which are taken away are missed.
CREATE TABLE sealed (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    seals  bigint NOT NULL,
    digest text NOT NULL
);

-- Seal what was appended since the last seal, at most 100,000 entries. Whether there is more to seal. Nobody's append
-- waits for it; the digest is this server's own, so whoever may call it can seal nothing but what is there.
CREATE FUNCTION seal_journal() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    last    seals;
    head    journal;
    through bigint;
    sealing text;
BEGIN
    LOCK TABLE seals IN SHARE ROW EXCLUSIVE MODE;  -- one after another
    SELECT * INTO last FROM seals ORDER BY through_sequence DESC LIMIT 1;
    SELECT * INTO head FROM journal;
    last.through_sequence := coalesce(last.through_sequence, 0);
    through := least(head.last_sequence, last.through_sequence + 100000);
    IF through = last.through_sequence THEN
        RETURN false;
    END IF;
    SELECT encode(sha256(
        coalesce(decode(last.digest, 'hex'), sha256(convert_to('rescind-seals-1:' || head.journal_id, 'UTF8')))
        || string_agg(e.hash, '' ORDER BY e.sequence)), 'hex')
        INTO sealing FROM entries e WHERE e.sequence > last.through_sequence AND e.sequence <= through;
    INSERT INTO seals VALUES (through, through - last.through_sequence, sealing, clock_timestamp());
    INSERT INTO sealed AS s VALUES (true, 1, sealing)
        ON CONFLICT (one) DO UPDATE SET seals = s.seals + 1, digest = sealing;
    RETURN through < head.last_sequence;
END $$;

REVOKE ALL ON FUNCTION seal_journal FROM PUBLIC;

-- Who may append, may seal and read seals.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END
        FROM pg_proc door, aclexplode(door.proacl) granted
        WHERE door.oid = 'append_batch'::regproc AND granted.grantee <> door.proowner
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION seal_journal TO ' || who;
        EXECUTE 'GRANT SELECT ON seals, sealed TO ' || who;
    END LOOP;
END $$;
