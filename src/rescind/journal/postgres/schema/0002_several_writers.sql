-- The journal on PostgreSQL, revision 2: writers that do not touch the same runs are in each other's way for one
-- statement only. Revision 1 stays as it is, so that programs which were started before go on beside newer ones.

ALTER TABLE writers ADD COLUMN behind bigint;  -- the last sequence before its last batch that was recorded

-- Append one batch, if all that it was judged by is as it was; else do nothing. The last sequence before it; NULL, if
-- something has changed or the batch was voided. An empty batch only asks.
--
-- A batch does not know the sequences it will get. A run key or a sequence below 0 in it means its own entry of that
-- number: -1 is its first.
CREATE FUNCTION append_batch(
    by_writer text, batch bigint,
    seen_runs bigint[], seen_hashes bytea[], unknown_runs text[], seen_slots json,  -- what it was judged by
    run_keys bigint[], positions bigint[], at_us bigint[], kinds text[], targets bytea[], hashes bytea[], bodies bytea[],
    new_runs json, free_slots json, put_slots json
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    before bigint;
    now_at timestamptz;
    added  bigint := coalesce(array_length(run_keys, 1), 0);
BEGIN
    -- Under this lock nothing of the journal changes but by us, and each statement sees what was committed before it.
    SELECT last_sequence, greatest(appended_at, clock_timestamp()) INTO before, now_at FROM journal FOR UPDATE;
    IF EXISTS (SELECT FROM unnest(seen_runs, seen_hashes) AS seen (run_key, digest)
            LEFT JOIN heads h ON h.run_key = seen.run_key WHERE h.hash IS DISTINCT FROM seen.digest)
        OR (unknown_runs <> '{}' AND EXISTS (SELECT FROM runs WHERE run_id = ANY (unknown_runs)))
        OR (seen_slots IS NOT NULL AND EXISTS (SELECT FROM json_populate_recordset(NULL::slots, seen_slots) seen
            LEFT JOIN slots s ON s.tenant = seen.tenant AND s.key = seen.key
            WHERE s.intent_sequence IS DISTINCT FROM seen.intent_sequence
               OR s.outcome_sequence IS DISTINCT FROM seen.outcome_sequence))
    THEN
        RETURN NULL;
    END IF;
    IF added = 0 THEN
        RETURN before;
    END IF;
    INSERT INTO writers AS w VALUES (by_writer, batch, 0, now_at, before)
        ON CONFLICT (writer) DO UPDATE SET recorded = batch, appended_at = now_at, behind = before
            WHERE w.voided < batch;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE journal SET last_sequence = before + added, appended_at = now_at;
    IF new_runs IS NOT NULL THEN
        run_keys := ARRAY(SELECT CASE WHEN run_key < 0 THEN before - run_key ELSE run_key END
            FROM unnest(run_keys) WITH ORDINALITY AS new (run_key, n) ORDER BY n);
        INSERT INTO runs
            SELECT before - run_key, run_id, agent_name, agent_version, tenant, workflow, session, trace_id, ancestors
            FROM json_populate_recordset(NULL::runs, new_runs);
    END IF;
    INSERT INTO entries
        SELECT before + n, run_key, pos, at, now_at, kind, target, digest, body
        FROM unnest(run_keys, positions, at_us, kinds, targets, hashes, bodies) WITH ORDINALITY
            AS new (run_key, pos, at, kind, target, digest, body, n);
    INSERT INTO heads AS h
        SELECT DISTINCT ON (run_key) run_key, before + n, pos, digest
        FROM unnest(run_keys, positions, hashes) WITH ORDINALITY AS new (run_key, pos, digest, n)
        ORDER BY run_key, n DESC
        ON CONFLICT (run_key) DO UPDATE
            SET sequence = excluded.sequence, position = excluded.position, hash = excluded.hash;
    INSERT INTO spans AS s
        SELECT (before + n) >> 10, min(at), max(at) FROM unnest(at_us) WITH ORDINALITY AS new (at, n) GROUP BY 1
        ON CONFLICT (span) DO UPDATE SET first_at_us = least(s.first_at_us, excluded.first_at_us),
            last_at_us = greatest(s.last_at_us, excluded.last_at_us)
            WHERE excluded.first_at_us < s.first_at_us OR excluded.last_at_us > s.last_at_us;
    IF free_slots IS NOT NULL THEN
        DELETE FROM slots s USING json_populate_recordset(NULL::slots, free_slots) f
            WHERE s.tenant = f.tenant AND s.key = f.key;
    END IF;
    IF put_slots IS NOT NULL THEN
        INSERT INTO slots
            SELECT tenant, key, digest, CASE WHEN run_key < 0 THEN before - run_key ELSE run_key END, step_id,
                CASE WHEN intent_sequence < 0 THEN before - intent_sequence ELSE intent_sequence END,
                CASE WHEN outcome_sequence < 0 THEN before - outcome_sequence ELSE outcome_sequence END
            FROM json_populate_recordset(NULL::slots, put_slots)
            ON CONFLICT (tenant, key) DO UPDATE SET digest = excluded.digest, run_key = excluded.run_key,
                step_id = excluded.step_id, intent_sequence = excluded.intent_sequence,
                outcome_sequence = excluded.outcome_sequence;
    END IF;
    PERFORM pg_notify('rescind_journal', '');  -- a hint that there is something to read, never more than that
    RETURN before;
END $$;

-- What became of the last batch that a writer sent: the last sequence before it, if it is recorded. If it is not, NULL,
-- and it never will be from now on, even if a request to append it is still on its way.
CREATE FUNCTION resolve_batch(by_writer text, batch bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    known writers;
BEGIN
    PERFORM lock_journal();
    SELECT * INTO known FROM writers WHERE writer = by_writer;
    IF known.recorded >= batch THEN
        RETURN known.behind;
    END IF;
    INSERT INTO writers VALUES (by_writer, 0, batch, clock_timestamp())
        ON CONFLICT (writer) DO UPDATE SET voided = batch;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION append_batch, resolve_batch FROM PUBLIC;

-- Who was let in by the doors of revision 1, is let in by these.
DO $$
DECLARE
    who text;
BEGIN
    FOR who IN
        SELECT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(granted.grantee)) END
        FROM pg_proc door, aclexplode(door.proacl) granted
        WHERE door.oid = 'append'::regproc AND granted.grantee <> door.proowner
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION append_batch, resolve_batch TO ' || who;
    END LOOP;
END $$;
