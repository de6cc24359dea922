-- Standing orders, probes and guards that several machines share, revision 0001. Orders, lifts, probes and their ends
-- are append-only: rows are added and never changed, and the triggers below hold everybody to it but who removes them.
-- An order stands while no lift names its id; there is no flag to switch off.

-- One row. Whoever changes the orders locks it, so that stamps are given in the order of the commits.
CREATE TABLE rescind.orders_state (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    store_id text NOT NULL DEFAULT gen_random_uuid()::text,  -- which store this is
    stamp    bigint NOT NULL CHECK (stamp >= 0 AND stamp % 2 = 0),  -- of the newest change
    change   text NOT NULL DEFAULT gen_random_uuid()::text  -- its name: after a failover, a stamp may come twice
);
INSERT INTO rescind.orders_state (stamp) VALUES (2);

CREATE TABLE rescind.orders (
    sequence     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id     text NOT NULL UNIQUE,
    stamp        bigint NOT NULL,  -- the change that placed it
    scope        text NOT NULL,    -- `everything`, or KIND:VALUE terms joined by `+`
    level        text NOT NULL,    -- normal, supervised, read_only, paused or halted
    reason       text NOT NULL,
    actor        text NOT NULL,
    placed_at_us bigint NOT NULL,  -- microseconds since 1970-01-01 UTC, by the clock of who placed it
    measure      text NOT NULL DEFAULT 'level',
    cause        text NOT NULL DEFAULT '',
    trigger      text NOT NULL DEFAULT ''
);

CREATE TABLE rescind.lifts (
    sequence     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lift_id      text NOT NULL UNIQUE,
    stamp        bigint NOT NULL,
    reason       text NOT NULL,
    actor        text NOT NULL,
    lifted_at_us bigint NOT NULL
);

-- Which orders a lift names. The order may be unknown here: it stays lifted if it arrives later.
CREATE TABLE rescind.lifted (
    order_id text NOT NULL,
    lift_id  text NOT NULL,
    PRIMARY KEY (order_id, lift_id)
);

-- The probes of a breaker that has tripped: each is claimed once, by one process, and its outcome is added once.
CREATE TABLE rescind.probes (
    order_id      text NOT NULL,
    round         integer NOT NULL,
    number        integer NOT NULL,
    claimed_by    text NOT NULL,
    claimed_at_us bigint NOT NULL,
    PRIMARY KEY (order_id, round, number)
);
CREATE TABLE rescind.probe_ends (
    order_id    text NOT NULL,
    round       integer NOT NULL,
    number      integer NOT NULL,
    outcome     text NOT NULL CHECK (outcome IN ('succeeded', 'failed', 'void')),
    ended_at_us bigint NOT NULL,
    PRIMARY KEY (order_id, round, number)
);

-- The guards that follow these orders. A row speaks of a living process: it is replaced, and goes when the guard does.
CREATE TABLE rescind.guards (
    guard_id    text PRIMARY KEY,
    host        text NOT NULL,
    lease_ttl_s double precision NOT NULL,  -- so long after a beat it goes on without having heard more
    on_silence  text NOT NULL,              -- the level that it lowers itself to then
    beats       bigint NOT NULL,            -- how often it has renewed its lease
    beat_at     timestamptz NOT NULL,       -- when it last did, by this database's clock
    report      bytea,                      -- what it last said of itself: a GuardReport as JSON; null before the first
    bound_at    timestamptz,                -- when it bound the stamp of that report, and when it had drained it
    drained_at  timestamptz
);

CREATE FUNCTION rescind.append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of %.% are added, and neither changed nor removed', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER orders_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON rescind.orders
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();
CREATE TRIGGER lifts_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON rescind.lifts
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();
CREATE TRIGGER lifted_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON rescind.lifted
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();
CREATE TRIGGER probes_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON rescind.probes
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();
CREATE TRIGGER probe_ends_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON rescind.probe_ends
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();
CREATE TRIGGER orders_state_kept BEFORE DELETE OR TRUNCATE ON rescind.orders_state
    FOR EACH STATEMENT EXECUTE FUNCTION rescind.append_only();

-- Stamps never go back, whoever writes them.
CREATE FUNCTION rescind.stamp_moves_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.stamp <= OLD.stamp OR NEW.store_id <> OLD.store_id THEN
        RAISE EXCEPTION 'the stamp of the orders only moves on, and the store keeps its name'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER orders_state_moves BEFORE UPDATE ON rescind.orders_state
    FOR EACH ROW EXECUTE FUNCTION rescind.stamp_moves_on();
