-- The journal on PostgreSQL, revision 1. Run with the schema as the only one on the search path.
--
-- Every batch of every writer passes through one row, that of the table `journal`: its lock is held from the number of
-- the first entry to the commit, so that sequences have no gaps and appear in their order. Writers need no right on any
-- table: the functions below are the only way in.

CREATE TABLE journal (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    journal_id    text NOT NULL,                              -- what this journal is called in its seals
    last_sequence bigint NOT NULL DEFAULT 0,
    appended_at   timestamptz NOT NULL DEFAULT '-infinity'    -- of the last batch, by this server's clock
) WITH (fillfactor = 10);                                     -- new versions of the row stay on its page

INSERT INTO journal (journal_id) VALUES ('jrn_' || replace(gen_random_uuid()::text, '-', ''));

-- Who appends, and how far: a writer whose connection broke asks here what became of its batch.
CREATE TABLE writers (
    writer      text PRIMARY KEY,
    recorded    bigint NOT NULL,           -- its last batch that was recorded
    voided      bigint NOT NULL DEFAULT 0, -- up to this number, a batch that is not recorded by now never will be
    appended_at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A run as it was first opened.
CREATE TABLE runs (
    run_key       bigint PRIMARY KEY,      -- the sequence of the run's first entry
    run_id        text COLLATE "C" NOT NULL UNIQUE,
    agent_name    text COLLATE "C" NOT NULL,
    agent_version text COLLATE "C" NOT NULL,
    tenant        text COLLATE "C" NOT NULL,
    workflow      text NOT NULL,
    session       text NOT NULL,
    trace_id      text COLLATE "C" NOT NULL,
    ancestors     text NOT NULL            -- JSON array of run ids, parent first
);
CREATE INDEX runs_trace ON runs (trace_id, run_id);
CREATE INDEX runs_tenant ON runs (tenant, run_id);
CREATE INDEX runs_agent ON runs (agent_name, agent_version, run_id);

-- The entries, in partitions by month of append, which is what is kept or archived together. The time of append is taken
-- under the lock and never goes back, so a partition is a range of sequences as well.
CREATE TABLE entries (
    sequence       bigint NOT NULL,        -- 1, 2, 3, ... without gaps, in order of commit
    run_key        bigint NOT NULL,
    position       bigint NOT NULL,        -- 0, 1, 2, ... within the run
    recorded_at_us bigint NOT NULL,        -- microseconds since 1970-01-01 UTC, by the clock of who recorded it
    appended_at    timestamptz NOT NULL,   -- by this server's clock
    kind           text NOT NULL,          -- the body's "type"
    target         bytea,                  -- first 16 bytes of the target's SHA-256, where a step was intended on one
    hash           bytea NOT NULL,         -- 32 bytes, see rescind.journal.chain
    body           bytea NOT NULL,         -- the event as JSON
    PRIMARY KEY (sequence, appended_at)
) PARTITION BY RANGE (appended_at);
CREATE INDEX entries_run ON entries (run_key, sequence);
CREATE INDEX entries_target ON entries (target, sequence) WHERE target IS NOT NULL;
CREATE INDEX entries_review ON entries (sequence) WHERE kind IN ('review_opened', 'review_resolved');
CREATE TABLE entries_default PARTITION OF entries DEFAULT;  -- what no month was made for

-- The time range of each 1,024 sequences (a span: sequence / 1024). Clocks mostly go forward, so these few rows find a
-- range of recorded times as well as an index on each entry would.
CREATE TABLE spans (
    span        bigint PRIMARY KEY,
    first_at_us bigint NOT NULL,
    last_at_us  bigint NOT NULL
) WITH (fillfactor = 50);

-- The last link of each chain: an end that was cut off shows as a difference to this.
CREATE TABLE heads (
    run_key  bigint PRIMARY KEY,
    sequence bigint NOT NULL,
    position bigint NOT NULL,
    hash     bytea NOT NULL
) WITH (fillfactor = 50);

-- Who holds an idempotency key. The result is not repeated here: it stands in the entry that outcome_sequence names.
CREATE TABLE slots (
    tenant           text COLLATE "C" NOT NULL,
    key              text COLLATE "C" NOT NULL,
    digest           text NOT NULL,
    run_key          bigint NOT NULL,
    step_id          text COLLATE "C" NOT NULL,
    intent_sequence  bigint NOT NULL,
    outcome_sequence bigint,               -- NULL while nobody knows an end
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX slots_step ON slots (run_key, step_id);

-- What was recorded is not changed, whoever asks. (The owner of the tables can take these triggers away; that shows in
-- the audit's chains and seals.)
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the journal is append-only: % of % was refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON entries_default FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON runs FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON runs FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_rewind() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_sequence < OLD.last_sequence OR NEW.appended_at < OLD.appended_at THEN
        RAISE EXCEPTION 'the journal does not go back: % to %', OLD.last_sequence, NEW.last_sequence
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER never_back BEFORE UPDATE ON journal FOR EACH ROW EXECUTE FUNCTION refuse_rewind();
CREATE TRIGGER never_emptied BEFORE DELETE OR TRUNCATE ON journal FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Wait until no other writer is at it. The last sequence; nobody appends until this transaction ends.
CREATE FUNCTION lock_journal() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    SELECT last_sequence FROM journal FOR UPDATE
$$;

-- Append one batch, if `expected` is the last sequence; else do nothing. The last sequence before it; NULL, if the batch
-- was voided. An empty batch only asks.
CREATE FUNCTION append(
    expected bigint, by_writer text, batch bigint, run_keys bigint[], positions bigint[], at_us bigint[], kinds text[],
    targets bytea[], hashes bytea[], bodies bytea[], new_runs json, free_slots json, put_slots json
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    before bigint;
    now_at timestamptz;
    added  bigint := coalesce(array_length(run_keys, 1), 0);
BEGIN
    SELECT last_sequence, greatest(appended_at, clock_timestamp()) INTO before, now_at FROM journal FOR UPDATE;
    IF before <> expected OR added = 0 THEN
        RETURN before;
    END IF;
    INSERT INTO writers AS w VALUES (by_writer, batch, 0, now_at)
        ON CONFLICT (writer) DO UPDATE SET recorded = batch, appended_at = now_at WHERE w.voided < batch;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE journal SET last_sequence = expected + added, appended_at = now_at;
    INSERT INTO entries
        SELECT expected + n, run_key, pos, at, now_at, kind, target, digest, body
        FROM unnest(run_keys, positions, at_us, kinds, targets, hashes, bodies) WITH ORDINALITY
            AS new (run_key, pos, at, kind, target, digest, body, n);
    INSERT INTO heads AS h
        SELECT DISTINCT ON (run_key) run_key, expected + n, pos, digest
        FROM unnest(run_keys, positions, hashes) WITH ORDINALITY AS new (run_key, pos, digest, n)
        ORDER BY run_key, n DESC
        ON CONFLICT (run_key) DO UPDATE
            SET sequence = excluded.sequence, position = excluded.position, hash = excluded.hash;
    INSERT INTO spans AS s
        SELECT (expected + n) >> 10, min(at), max(at) FROM unnest(at_us) WITH ORDINALITY AS new (at, n) GROUP BY 1
        ON CONFLICT (span) DO UPDATE SET first_at_us = least(s.first_at_us, excluded.first_at_us),
            last_at_us = greatest(s.last_at_us, excluded.last_at_us)
            WHERE excluded.first_at_us < s.first_at_us OR excluded.last_at_us > s.last_at_us;
    IF new_runs IS NOT NULL THEN
        INSERT INTO runs SELECT * FROM json_populate_recordset(NULL::runs, new_runs);
    END IF;
    IF free_slots IS NOT NULL THEN
        DELETE FROM slots s USING json_populate_recordset(NULL::slots, free_slots) f
            WHERE s.tenant = f.tenant AND s.key = f.key;
    END IF;
    IF put_slots IS NOT NULL THEN
        INSERT INTO slots SELECT * FROM json_populate_recordset(NULL::slots, put_slots)
            ON CONFLICT (tenant, key) DO UPDATE SET digest = excluded.digest, run_key = excluded.run_key,
                step_id = excluded.step_id, intent_sequence = excluded.intent_sequence,
                outcome_sequence = excluded.outcome_sequence;
    END IF;
    PERFORM pg_notify('rescind_journal', '');  -- a hint that there is something to read, never more than that
    RETURN before;
END $$;

-- What became of a batch: whether it is recorded. If it is not, it never will be from now on, even if a request to append
-- it is still on its way.
CREATE FUNCTION settle_batch(by_writer text, batch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    known bigint;
BEGIN
    PERFORM lock_journal();
    SELECT recorded INTO known FROM writers WHERE writer = by_writer;
    IF known >= batch THEN
        RETURN true;
    END IF;
    INSERT INTO writers VALUES (by_writer, 0, batch, clock_timestamp())
        ON CONFLICT (writer) DO UPDATE SET voided = batch;
    RETURN false;
END $$;

-- Make the partitions of this month and of the two after it, where they are missing, and forget writers that ended long
-- ago. How many were made. Half a second of lock at most: it is two months early, and comes again.
CREATE FUNCTION make_partitions(moment timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '500ms' SET timezone = 'UTC' AS $$
DECLARE
    month timestamptz;
    name  text;
    made  integer := 0;
BEGIN
    FOR month IN SELECT generate_series(date_trunc('month', moment), moment + interval '2 months', interval '1 month') LOOP
        name := 'entries_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(quote_ident(name)) IS NOT NULL;
        PERFORM pg_advisory_xact_lock(1920164708);  -- writers that notice at once make it once
        CONTINUE WHEN to_regclass(quote_ident(name)) IS NOT NULL;
        BEGIN
            -- Made apart and attached: to be made in place, it would need a lock that no reader could share.
            EXECUTE format('CREATE TABLE %I (LIKE entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
            EXECUTE format('ALTER TABLE entries ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                name, month, month + interval '1 month');
            EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON %I FOR EACH STATEMENT'
                ' EXECUTE FUNCTION refuse_change()', name);
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            NULL;  -- The default has entries of this month already; they, and what follows of it, stay there.
        END;
    END LOOP;
    DELETE FROM writers WHERE appended_at < clock_timestamp() - interval '90 days';
    RETURN made;
END $$;

REVOKE ALL ON FUNCTION lock_journal(), append, settle_batch, make_partitions FROM PUBLIC;
SELECT make_partitions();
