-- What guarded steps change in guarded tables of PostgreSQL (14 or later), and how it is put back. Run by the owner of
-- the tables. Everything is idempotent. `SqlChanges.install()` runs this; `install_sql()` shows it.
--
-- Capture. Statement triggers with transition tables copy the rows that a statement found, in their own types, into one
-- shadow table for each guarded table. A transaction is a step's if it has a row in `change_set`: that row cannot be
-- forged or taken away by the role that the tool runs as, and no session variable decides anything.
--
-- What one statement did to fifty rows or more goes into a second table beside the shadow, 500 rows packed into one: that
-- takes half the time, since each row kept on its own costs what a row written costs. It is unpacked into the shadow when
-- its rows are needed one by one: by an undo, and by the end of a step that did more than this one statement.
--
-- Net effect. When the step ends, the first event of each row is kept; what is there now decides what became of it.
-- So a shadow holds one row for each row changed: I inserted (the key alone), U updated, D deleted (the row before).
--
-- Version. A row is as the step left it if the transaction that wrote it is the step's (xmin), so also a change that was
-- taken back is seen. A row that another change set's undo has written is compared by hash as well: `rescind_left`, taken
-- from the transition table of new rows, which has the same rows in the same order as that of old ones.
--
-- Order of two events of one row: by when their statements began, not by when they were captured, because a statement
-- inside a trigger is captured before the statement around it. `slot_N` holds, for this session, when the statement at
-- trigger depth N began; a sequence is the one store that is fast, of the session, and out of the tool's reach.

CREATE SCHEMA IF NOT EXISTS rescind_changes;
REVOKE ALL ON SCHEMA rescind_changes FROM PUBLIC;

CREATE TABLE IF NOT EXISTS rescind_changes.guarded (
  rel oid PRIMARY KEY,
  shadow name NOT NULL UNIQUE,
  signature text NOT NULL,     -- of the columns and the key, as they were when it was guarded
  keys name[] NOT NULL,
  columns name[] NOT NULL,
  insertable name[] NOT NULL,  -- without generated columns
  updatable name[] NOT NULL,   -- and without the key and identities that only the database may set
  plain text NOT NULL,         -- the columns of alias t in the types of the shadow
  image text NOT NULL,         -- an expression over alias t that hashes the row
  merges boolean NOT NULL      -- cascades of one statement may come as one event with a row in it twice
);

CREATE SEQUENCE IF NOT EXISTS rescind_changes.ids;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.ticks CACHE 200;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_1;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_2;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_3;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_4;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_5;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_6;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_7;
CREATE SEQUENCE IF NOT EXISTS rescind_changes.slot_8;

CREATE TABLE IF NOT EXISTS rescind_changes.change_set (
  id bigint PRIMARY KEY,
  run_id text NOT NULL,
  step_id text NOT NULL,
  action text NOT NULL,
  idempotency_key text NOT NULL,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  role name NOT NULL DEFAULT session_user,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'undone')),
  moved_at timestamptz,
  moved_xid xid8,      -- the transaction that brought it into this state
  writers xid[]        -- it and its savepoints, as the rows name them
);
CREATE INDEX IF NOT EXISTS change_set_xid ON rescind_changes.change_set (xid);
DROP INDEX IF EXISTS rescind_changes.change_set_key;  -- no question used it
CREATE INDEX IF NOT EXISTS change_set_made_at ON rescind_changes.change_set (made_at);

CREATE TABLE IF NOT EXISTS rescind_changes.part (
  change_set bigint NOT NULL,
  rel oid NOT NULL,
  signature text NOT NULL,   -- of the table then: a row before a column was added cannot say what that column held
  inserted bigint NOT NULL,
  updated bigint NOT NULL,
  deleted bigint NOT NULL,
  digest text NOT NULL,
  PRIMARY KEY (change_set, rel)
);
ALTER TABLE rescind_changes.part DROP COLUMN IF EXISTS hashes;  -- it was kept here once

CREATE TABLE IF NOT EXISTS rescind_changes.restored (xid xid NOT NULL, change_set bigint NOT NULL);
CREATE INDEX IF NOT EXISTS restored_xid ON rescind_changes.restored USING hash (xid);

CREATE TABLE IF NOT EXISTS rescind_changes.restoring (xid xid8 PRIMARY KEY);
CREATE TABLE IF NOT EXISTS rescind_changes.agent (role name PRIMARY KEY);
CREATE TABLE IF NOT EXISTS rescind_changes.horizon (id bigint NOT NULL);
INSERT INTO rescind_changes.horizon SELECT 0 WHERE NOT EXISTS (SELECT FROM rescind_changes.horizon);

-- --- capture ---

-- This and what else a step asks for is in plpgsql, which keeps its plans; a function in SQL is planned at each call.
CREATE OR REPLACE FUNCTION rescind_changes.lock_of(id bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN hashtextextended('rescind change set ' || id, 0); END $$;

-- For whoever writes outside a step: refuse it to a tool's role.
CREATE OR REPLACE FUNCTION rescind_changes.refuse_agents(rel oid) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM rescind_changes.agent a WHERE a.role = session_user) AND NOT rescind_changes.restoring() THEN
    RAISE EXCEPTION 'role % writes to % outside a guarded step; take the connection from the effect', session_user, rel::regclass
      USING ERRCODE = 'insufficient_privilege';
  END IF;
END $$;

-- Whether this transaction is an undo: for triggers that a user wants to stay quiet then.
CREATE OR REPLACE FUNCTION rescind_changes.restoring() RETURNS boolean LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (SELECT FROM rescind_changes.restoring r WHERE r.xid = pg_current_xact_id_if_assigned())
$$;

CREATE OR REPLACE FUNCTION rescind_changes.statement_begins() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE depth int := pg_trigger_depth(); me bigint;
BEGIN
  SELECT c.id INTO me FROM rescind_changes.change_set c WHERE c.xid = pg_current_xact_id_if_assigned() AND c.state = 'open';
  IF me IS NULL THEN
    PERFORM rescind_changes.refuse_agents(TG_RELID);
  ELSIF depth = 1 THEN
    PERFORM setval('rescind_changes.slot_1', nextval('rescind_changes.ticks'));
  ELSIF depth <= 8 THEN
    BEGIN  -- what cascades from here is captured one level above, where perhaps nothing that is guarded has ever begun
      PERFORM currval(('rescind_changes.slot_' || depth - 1)::regclass);
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
      PERFORM setval(('rescind_changes.slot_' || depth - 1)::regclass, nextval('rescind_changes.ticks'));
    END;
    PERFORM setval(('rescind_changes.slot_' || depth)::regclass, nextval('rescind_changes.ticks'));
  ELSE
    RAISE EXCEPTION 'triggers are nested deeper than 8 at %; the order of its changes could not be told', TG_RELID::regclass;
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION rescind_changes.refuse_truncate() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM rescind_changes.change_set c WHERE c.xid = pg_current_xact_id_if_assigned() AND c.state = 'open') THEN
    RAISE EXCEPTION 'TRUNCATE of % could not be undone; DELETE its rows instead', TG_RELID::regclass
      USING ERRCODE = 'feature_not_supported';
  END IF;
  PERFORM rescind_changes.refuse_agents(TG_RELID);
  RETURN NULL;
END $$;

-- --- guarding a table ---

CREATE OR REPLACE FUNCTION rescind_changes.signature_of(rel oid) RETURNS text LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT md5(string_agg(a.attname || ' ' || a.atttypid || a.attgenerated::text || a.attidentity::text, ',' ORDER BY a.attnum)
                     || (SELECT string_agg(i.indkey::text, '') FROM pg_index i WHERE i.indrelid = $1 AND i.indisprimary))
            FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped);
END $$;

-- The type that a column has in a shadow: without length or precision, and without the constraints of a domain.
CREATE OR REPLACE FUNCTION rescind_changes.plain_type(type oid) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE below AS (
    SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = $1
    UNION ALL SELECT t.oid, t.typtype, t.typbasetype FROM below b JOIN pg_type t ON t.oid = b.typbasetype
  ) SELECT format_type(oid, NULL) FROM below WHERE typtype <> 'd' LIMIT 1
$$;

-- An expression for what is to be hashed of a value: itself, if values that hash alike are alike to the bit, else as it is
-- sent to a client, or its text. The hash of a numeric knows no sign, that of an array no dimensions.
CREATE OR REPLACE FUNCTION rescind_changes.exact(type oid, value text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  WITH RECURSIVE below AS (
    SELECT t.* FROM pg_type t WHERE t.oid = $1
    UNION ALL SELECT t.* FROM below b JOIN pg_type t ON t.oid = b.typbasetype
  ) SELECT CASE WHEN oid::regtype::text IN ('text', 'character varying') THEN value || ' COLLATE "C"'
                WHEN typtype = 'e' OR oid::regtype::text IN ('boolean', 'smallint', 'integer', 'bigint', 'oid', 'bytea', 'uuid', 'date',
                       'timestamp without time zone', 'timestamp with time zone') THEN value
                WHEN typsend <> 0 THEN format('%s(%s)', typsend::regproc, value) ELSE value || '::text' END
      FROM below WHERE typtype <> 'd' LIMIT 1
$$;

-- Whether rows of a table may be too wide to be packed: it has values that are stored out of line.
CREATE OR REPLACE FUNCTION rescind_changes.has_wide_values(rel oid) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT c.reltoastrelid <> 0 AND pg_relation_size(c.reltoastrelid) > 0 FROM pg_class c WHERE c.oid = rel);
END $$;

-- The columns of a packed row, in its order; some of them the table may have no more.
CREATE OR REPLACE FUNCTION rescind_changes.packed_columns(shadow name) RETURNS name[] LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
   WHERE a.attrelid = format('rescind_changes.%I', shadow || '_row')::regclass AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- A query for the packed rows of a change set, one by one, with the columns that a shadow has.
CREATE OR REPLACE FUNCTION rescind_changes.unpacked(shadow name, columns name[], me bigint) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('SELECT p.rescind_set, p.rescind_began, p.rescind_op, u.rescind_left, %s FROM rescind_changes.%I p,
           unnest(p.rescind_left, p.rescind_rows) AS u(rescind_left, %s) WHERE p.rescind_set = %s',
    (SELECT string_agg('u.' || quote_ident(n), ', ') FROM unnest(columns) n), shadow || '_packed',
    (SELECT string_agg(quote_ident(n), ', ') FROM unnest(rescind_changes.packed_columns(shadow)) n), me)
$$;

-- Put the packed rows of a change set into the shadow, one by one.
CREATE OR REPLACE FUNCTION rescind_changes.unpack(shadow name, columns name[], me bigint) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('INSERT INTO rescind_changes.%I (rescind_set, rescind_began, rescind_op, rescind_left, %s) %s', shadow,
    (SELECT string_agg(quote_ident(c), ', ') FROM unnest(columns) c), rescind_changes.unpacked(shadow, columns, me));
  EXECUTE format('DELETE FROM rescind_changes.%I WHERE rescind_set = $1', shadow || '_packed') USING me;
END $$;

CREATE OR REPLACE FUNCTION rescind_changes.guard_table(rel regclass) RETURNS name LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  class pg_class; space name; shadow_name name; key_names name[]; all_names name[]; settable name[]; changeable name[];
  plain_list text; hashed text; merged boolean; missing record; key_list text; list text; on_keys text; moved text;
  row_of text; key_row text;
BEGIN
  SELECT * INTO class FROM pg_class WHERE oid = rel;
  SELECT nspname INTO space FROM pg_namespace WHERE oid = class.relnamespace;
  IF class.relkind <> 'r' OR class.relispartition OR class.relpersistence <> 'p'
     OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = rel OR inhparent = rel) THEN
    RAISE EXCEPTION '% cannot be guarded: only plain permanent tables, no partitions, parents, views or foreign tables', rel
      USING ERRCODE = 'RSC02';
  END IF;
  IF NOT pg_has_role(class.relowner, 'USAGE') THEN
    RAISE EXCEPTION 'guarding % takes its owner: an undo has to hold its triggers', rel USING ERRCODE = 'RSC02';
  END IF;
  SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum)) INTO key_names
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
   WHERE i.indrelid = rel AND i.indisprimary;
  IF key_names IS NULL THEN
    RAISE EXCEPTION 'table % has no primary key, so its rows cannot be told apart; add one', rel USING ERRCODE = 'RSC02';
  END IF;
  SELECT array_agg(a.attname ORDER BY a.attnum),
         array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE a.attgenerated = ''),
         coalesce(array_agg(a.attname ORDER BY a.attnum)
                  FILTER (WHERE a.attgenerated = '' AND a.attidentity <> 'a' AND a.attname <> ALL (key_names)), '{}'),
         string_agg(format('t.%I', a.attname) || CASE WHEN y.typtype = 'd' THEN '::' || rescind_changes.plain_type(y.oid) ELSE '' END,
                    ', ' ORDER BY a.attnum),
         'hash_record_extended(ROW(' || string_agg(
           rescind_changes.exact(a.atttypid, format('t.%I', a.attname)), ', ' ORDER BY a.attnum)
           || '), 0)'
    INTO all_names, settable, changeable, plain_list, hashed
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped;
  merged := EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = rel AND c.contype = 'f'
                      AND (c.confupdtype NOT IN ('a', 'r') OR c.confdeltype NOT IN ('a', 'r')));
  -- Once named, it keeps its name: a table may be renamed, and what is kept of its steps must be found under the new one.
  SELECT x.shadow INTO shadow_name FROM rescind_changes.guarded x WHERE x.rel = guard_table.rel;
  IF shadow_name IS NULL THEN
    shadow_name := left(class.relname, 40) || '_' || left(md5(space || '.' || class.relname), 8);
    IF EXISTS (SELECT FROM rescind_changes.guarded x WHERE x.shadow = shadow_name) THEN  -- another table was called so
      shadow_name := left(class.relname, 40) || '_' || left(md5(rel::oid::text), 8);
    END IF;
  END IF;

  IF to_regclass(format('rescind_changes.%I', shadow_name)) IS NULL THEN  -- or somebody dropped it, because a type changed
    EXECUTE format('DROP TABLE IF EXISTS rescind_changes.%I', shadow_name || '_packed');
    EXECUTE format('DROP TYPE IF EXISTS rescind_changes.%I', shadow_name || '_row');
  END IF;
  EXECUTE format('CREATE TABLE IF NOT EXISTS rescind_changes.%I (rescind_set bigint NOT NULL, rescind_began bigint NOT NULL,
    rescind_n bigint NOT NULL DEFAULT nextval(''rescind_changes.ticks''), rescind_op "char" NOT NULL)', shadow_name);
  -- The hash of the row as it was left; NULL where none was left, and while the step runs where it may not have changed.
  EXECUTE format('ALTER TABLE rescind_changes.%I ADD COLUMN IF NOT EXISTS rescind_left bigint', shadow_name);
  EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON rescind_changes.%I (rescind_set, rescind_n)', shadow_name || '_set', shadow_name);
  EXECUTE format('REVOKE ALL ON rescind_changes.%I FROM PUBLIC', shadow_name);
  FOR missing IN
    SELECT a.attname, rescind_changes.plain_type(a.atttypid) AS type, format_type(s.atttypid, NULL) AS had
      FROM pg_attribute a LEFT JOIN pg_attribute s ON s.attrelid = format('rescind_changes.%I', shadow_name)::regclass
           AND s.attname = a.attname AND NOT s.attisdropped
     WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
  LOOP
    IF missing.had IS NULL THEN
      EXECUTE format('ALTER TABLE rescind_changes.%I ADD COLUMN %I %s', shadow_name, missing.attname, missing.type);
    ELSIF missing.had <> missing.type THEN  -- what was kept in the old type may not fit the new one
      RAISE EXCEPTION 'column % of % was %, is % now: purge what is kept, DROP TABLE rescind_changes.%, and install again',
        missing.attname, rel, missing.had, missing.type, quote_ident(shadow_name) USING ERRCODE = 'RSC02';
    END IF;
  END LOOP;
  IF to_regclass(format('rescind_changes.%I', shadow_name || '_row')) IS NULL THEN
    EXECUTE format('CREATE TYPE rescind_changes.%I AS ()', shadow_name || '_row');
  END IF;
  FOR missing IN
    SELECT a.attname, rescind_changes.plain_type(a.atttypid) AS type FROM pg_attribute a
     WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
           SELECT FROM pg_attribute s WHERE s.attrelid = format('rescind_changes.%I', shadow_name || '_row')::regclass
              AND s.attname = a.attname AND NOT s.attisdropped) ORDER BY a.attnum
  LOOP
    EXECUTE format('ALTER TYPE rescind_changes.%I ADD ATTRIBUTE %I %s', shadow_name || '_row', missing.attname, missing.type);
  END LOOP;
  EXECUTE format('CREATE TABLE IF NOT EXISTS rescind_changes.%I (rescind_set bigint NOT NULL, rescind_began bigint NOT NULL,
    rescind_op "char" NOT NULL, rescind_many int NOT NULL, rescind_left bigint[], rescind_rows rescind_changes.%I[] NOT NULL)', shadow_name || '_packed', shadow_name || '_row');
  EXECUTE format('ALTER TABLE rescind_changes.%I ALTER rescind_rows SET STORAGE EXTERNAL, ALTER rescind_left SET STORAGE EXTERNAL',
                 shadow_name || '_packed');  -- to compress them takes longer than to write them
  EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON rescind_changes.%I (rescind_set)', shadow_name || '_packed_set', shadow_name || '_packed');
  EXECUTE format('REVOKE ALL ON rescind_changes.%I FROM PUBLIC', shadow_name || '_packed');
  SELECT format('ROW(%s)::rescind_changes.%I', string_agg(CASE WHEN n = ANY (all_names) THEN format('t.%I', n) ELSE 'NULL' END, ', '), shadow_name || '_row'),
         format('ROW(%s)::rescind_changes.%I', string_agg(CASE WHEN n = ANY (key_names) THEN format('t.%I', n) ELSE 'NULL' END, ', '), shadow_name || '_row')
    INTO row_of, key_row FROM unnest(rescind_changes.packed_columns(shadow_name)) n;
  INSERT INTO rescind_changes.guarded VALUES
    (rel, shadow_name, rescind_changes.signature_of(rel), key_names, all_names, settable, changeable, plain_list, hashed, merged)
  ON CONFLICT ON CONSTRAINT guarded_pkey DO UPDATE SET (shadow, signature, keys, columns, insertable, updatable, plain, image, merges) =
    (excluded.shadow, excluded.signature, excluded.keys, excluded.columns, excluded.insertable, excluded.updatable,
     excluded.plain, excluded.image, excluded.merges);

  SELECT string_agg(quote_ident(c), ', ') INTO key_list FROM unnest(key_names) c;
  SELECT string_agg(quote_ident(c), ', ') INTO list FROM unnest(all_names) c;
  SELECT string_agg(format('t.%1$I = s.%1$I', c), ' AND ') INTO on_keys FROM unnest(key_names) c;
  SELECT string_agg(format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', c), ' OR ') INTO moved FROM unnest(key_names) c;
  EXECUTE format($body$
    CREATE OR REPLACE FUNCTION rescind_changes.%1$I() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $code$
    DECLARE me bigint; began bigint;
    BEGIN
      SELECT c.id INTO me FROM rescind_changes.change_set c WHERE c.xid = pg_current_xact_id_if_assigned() AND c.state = 'open';
      IF me IS NULL THEN RETURN NULL; END IF;  -- whether that is allowed was asked when the statement began
      -- A cascade is captured one level above where it began, so the slot there may be an earlier statement's.
      began := CASE WHEN pg_trigger_depth() = 1 THEN currval('rescind_changes.slot_1')
                    ELSE currval(('rescind_changes.slot_' || pg_trigger_depth())::regclass) END;
      IF TG_LEVEL = 'ROW' THEN  -- the key has moved: one row vanishes, another appears
        INSERT INTO rescind_changes.%2$I (rescind_set, rescind_began, rescind_op, rescind_left, %3$s)
          SELECT me, began, 'I', %5$s, %3$s FROM (SELECT NEW.*) t;
      ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO rescind_changes.%2$I (rescind_set, rescind_began, rescind_op, rescind_left, %3$s)
          SELECT me, began, 'I', %5$s, %3$s FROM rescind_new t
           WHERE %7$L OR NOT EXISTS (SELECT FROM rescind_new OFFSET 49) OR rescind_changes.has_wide_values(TG_RELID);
        IF NOT FOUND THEN
          INSERT INTO rescind_changes.%6$I
            SELECT me, began, 'I', count(*), array_agg(q.hash), array_agg(q.kept)
              FROM (SELECT row_number() OVER () AS place, %5$s AS hash, %9$s AS kept FROM rescind_new t) q GROUP BY q.place / 500;
        END IF;
      ELSIF TG_OP = 'UPDATE' THEN  -- an array, because no plan of a join fits one row as well as a hundred thousand
        INSERT INTO rescind_changes.%2$I (rescind_set, rescind_began, rescind_op, rescind_left, %4$s)
          SELECT me, began, 'U', nullif((ARRAY (SELECT %5$s FROM rescind_new t))[row_number() OVER ()], %5$s), %4$s FROM rescind_old t
           WHERE %7$L OR NOT EXISTS (SELECT FROM rescind_old OFFSET 49) OR rescind_changes.has_wide_values(TG_RELID);
        IF NOT FOUND THEN
          INSERT INTO rescind_changes.%6$I
            SELECT me, began, 'U', count(*), array_agg(nullif((ARRAY (SELECT %5$s FROM rescind_new t))[q.place], q.hash)), array_agg(q.kept)
              FROM (SELECT row_number() OVER () AS place, %5$s AS hash, %8$s AS kept FROM rescind_old t) q GROUP BY q.place / 500;
        END IF;
      ELSE
        INSERT INTO rescind_changes.%2$I (rescind_set, rescind_began, rescind_op, %4$s) SELECT me, began, 'D', %4$s FROM rescind_old
         WHERE %7$L OR NOT EXISTS (SELECT FROM rescind_old OFFSET 49) OR rescind_changes.has_wide_values(TG_RELID);
        IF NOT FOUND THEN
          INSERT INTO rescind_changes.%6$I SELECT me, began, 'D', count(*), NULL, array_agg(q.kept)
            FROM (SELECT row_number() OVER () AS place, %8$s AS kept FROM rescind_old t) q GROUP BY q.place / 500;
        END IF;
      END IF;
      RETURN NULL;
    END $code$ $body$, 'capture_' || shadow_name, shadow_name, key_list, list, hashed,
    shadow_name || '_packed', merged, row_of, key_row);
  EXECUTE format($body$
    CREATE OR REPLACE FUNCTION rescind_changes.%1$I(me bigint, top xid) RETURNS xid[] LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- By the key's index, row by row, however many there are: what a plan knows of a shadow is always of yesterday, and a
    -- plan that reads the whole table for a thousand rows costs more than all the rest.
    SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $code$
    DECLARE several boolean; spread boolean; odd bigint; others bigint; stale bigint; i bigint; u bigint; d bigint; left_as bigint[]; wrote xid[];
    BEGIN
      SELECT min(rescind_began) <> max(rescind_began) OR min(rescind_op::text) <> max(rescind_op::text)
               OR bool_or(rescind_op = 'U' AND array_position(rescind_left, NULL) IS NOT NULL)
               OR EXISTS (SELECT FROM rescind_changes.%2$I WHERE rescind_set = me),
             ARRAY (SELECT xmin FROM rescind_changes.%13$I WHERE rescind_set = me LIMIT 1),
             coalesce(sum(rescind_many) FILTER (WHERE rescind_op = 'I'), 0),
             coalesce(sum(rescind_many) FILTER (WHERE rescind_op = 'U'), 0),
             coalesce(sum(rescind_many) FILTER (WHERE rescind_op = 'D'), 0),
             array_agg(hash_array_extended(rescind_left, 0))
        INTO spread, wrote, i, u, d, left_as FROM rescind_changes.%13$I WHERE rescind_set = me;
      IF NOT spread THEN
        INSERT INTO rescind_changes.part VALUES (me, %11$s, %12$L, i, u, d, md5(concat_ws(' ', i, u, d, hash_array_extended(left_as, 0))));
        RETURN wrote;
      END IF;
      spread := i + u + d > 0;
      IF spread THEN PERFORM rescind_changes.unpack(%14$L, %15$L, me); END IF;
      SELECT min(rescind_began) <> max(rescind_began) OR bool_or(rescind_op = 'I') <> bool_and(rescind_op = 'I'),
             count(*) FILTER (WHERE rescind_op = 'U' AND rescind_left IS NULL),
             ARRAY (SELECT xmin FROM rescind_changes.%2$I WHERE rescind_set = me LIMIT 1),
             count(*) FILTER (WHERE rescind_op = 'I'), count(*) FILTER (WHERE rescind_op = 'U'),
             count(*) FILTER (WHERE rescind_op = 'D'), array_agg(rescind_left ORDER BY rescind_n)
        INTO several, odd, wrote, i, u, d, left_as FROM rescind_changes.%2$I WHERE rescind_set = me;
      IF i + u + d = 0 THEN RETURN '{}'; END IF;
      -- What one statement did is what became of its rows, unless it may have left one as it was. The rows themselves are
      -- looked at otherwise only. Its rows and what is kept of them were written in one savepoint, so by one number.
      IF several OR spread OR odd > 0 OR %7$L THEN
        DELETE FROM rescind_changes.%2$I x USING (
          SELECT rescind_n, row_number() OVER (PARTITION BY %3$s ORDER BY rescind_began, rescind_op = 'I', rescind_n) AS place
            FROM rescind_changes.%2$I WHERE rescind_set = me) y
         WHERE x.rescind_set = me AND x.rescind_n = y.rescind_n AND y.place > 1;
        FOR pass IN 1..2 LOOP
          SELECT count(*) FILTER (WHERE (t.%6$I IS NULL) <> (rescind_op = 'D') OR (rescind_op <> 'I' AND record_image_eq(ROW(%4$s), ROW(%5$s)))),
                 count(*) FILTER (WHERE t.xmin <> top), count(*) FILTER (WHERE h.hash IS DISTINCT FROM s.rescind_left),
                 count(*) FILTER (WHERE rescind_op = 'I'), count(*) FILTER (WHERE rescind_op = 'U'),
                 count(*) FILTER (WHERE rescind_op = 'D'), array_agg(h.hash ORDER BY s.rescind_n)
            INTO odd, others, stale, i, u, d, left_as
            FROM rescind_changes.%2$I s LEFT JOIN %9$s t ON %10$s,
                 LATERAL (SELECT CASE WHEN t.%6$I IS NOT NULL THEN %8$s END AS hash OFFSET 0) h WHERE s.rescind_set = me;
          EXIT WHEN odd = 0;
          DELETE FROM rescind_changes.%2$I s WHERE s.rescind_set = me AND s.rescind_op = 'I'
             AND NOT EXISTS (SELECT FROM %9$s t WHERE %10$s);
          DELETE FROM rescind_changes.%2$I s USING %9$s t WHERE s.rescind_set = me AND s.rescind_op <> 'I' AND %10$s
             AND record_image_eq(ROW(%4$s), ROW(%5$s));
          UPDATE rescind_changes.%2$I s SET rescind_op = 'D' WHERE s.rescind_set = me AND s.rescind_op = 'U'
             AND NOT EXISTS (SELECT FROM %9$s t WHERE %10$s);
          UPDATE rescind_changes.%2$I s SET rescind_op = 'U' FROM %9$s t WHERE s.rescind_set = me AND s.rescind_op = 'D' AND %10$s;
        END LOOP;
        IF i + u + d = 0 THEN RETURN '{}'; END IF;
        IF stale > 0 THEN  -- the hash is of an event that others followed
          UPDATE rescind_changes.%2$I s SET rescind_left = NULL WHERE s.rescind_set = me AND s.rescind_op = 'D' AND s.rescind_left IS NOT NULL;
          UPDATE rescind_changes.%2$I s SET rescind_left = %8$s FROM %9$s t WHERE s.rescind_set = me AND %10$s
             AND s.rescind_left IS DISTINCT FROM %8$s;
        END IF;
        wrote := ARRAY[top];
        IF others > 0 THEN  -- it was written inside savepoints, which have numbers of their own
          SELECT array_agg(x.w) INTO wrote FROM (
            SELECT t.xmin AS w FROM rescind_changes.%2$I s JOIN %9$s t ON %10$s WHERE s.rescind_set = me GROUP BY t.xmin) x;
        END IF;
      END IF;
      INSERT INTO rescind_changes.part VALUES (me, %11$s, %12$L, i, u, d, md5(concat_ws(' ', i, u, d, hash_array_extended(left_as, 0))));
      RETURN wrote;
    END $code$ $body$, 'net_' || shadow_name, shadow_name, key_list, plain_list,
    (SELECT string_agg(format('s.%I', c), ', ') FROM unnest(all_names) c), key_names[1], merged,
    hashed, rel, on_keys, rel::oid, rescind_changes.signature_of(rel), shadow_name || '_packed', shadow_name, all_names);

  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_begins BEFORE INSERT OR UPDATE OR DELETE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION rescind_changes.statement_begins()', rel);
  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_inserts AFTER INSERT ON %s REFERENCING NEW TABLE AS rescind_new
    FOR EACH STATEMENT EXECUTE FUNCTION rescind_changes.%I()', rel, 'capture_' || shadow_name);
  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_updates AFTER UPDATE ON %s REFERENCING OLD TABLE AS rescind_old NEW TABLE AS rescind_new
    FOR EACH STATEMENT EXECUTE FUNCTION rescind_changes.%I()', rel, 'capture_' || shadow_name);
  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_deletes AFTER DELETE ON %s REFERENCING OLD TABLE AS rescind_old
    FOR EACH STATEMENT EXECUTE FUNCTION rescind_changes.%I()', rel, 'capture_' || shadow_name);
  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_moves AFTER UPDATE ON %s
    FOR EACH ROW WHEN (%s) EXECUTE FUNCTION rescind_changes.%I()', rel, moved, 'capture_' || shadow_name);
  EXECUTE format('CREATE OR REPLACE TRIGGER rescind_truncates BEFORE TRUNCATE ON %s
    FOR EACH STATEMENT EXECUTE FUNCTION rescind_changes.refuse_truncate()', rel);
  EXECUTE format('REVOKE ALL ON FUNCTION rescind_changes.%I() FROM PUBLIC', 'capture_' || shadow_name);
  EXECUTE format('REVOKE ALL ON FUNCTION rescind_changes.%I(bigint, xid) FROM PUBLIC', 'net_' || shadow_name);
  RETURN shadow_name;
END $$;

CREATE OR REPLACE FUNCTION rescind_changes.listed(prefix text, names name[]) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$ SELECT string_agg(prefix || quote_ident(n), ', ') FROM unnest(names) n $$;

CREATE OR REPLACE FUNCTION rescind_changes.pairs(names name[], one text, other text) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(format('%2$s.%1$I = %3$s.%1$I', n, one, other), ' AND ') FROM unnest(names) n
$$;

-- --- a step ---

-- Identity of this database: what was dumped and loaded elsewhere has other transaction numbers.
CREATE OR REPLACE FUNCTION rescind_changes.database_id() RETURNS text LANGUAGE sql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
$$;

CREATE OR REPLACE FUNCTION rescind_changes.begin_set(run_id text, step_id text, action text, key text, tables text[])
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE missing text; stale text; id bigint;
BEGIN
  SELECT string_agg(w.name, ', ') FILTER (WHERE g.rel IS NULL),
         string_agg(g.rel::regclass::text, ', ') FILTER (WHERE g.signature IS DISTINCT FROM rescind_changes.signature_of(g.rel))
    INTO missing, stale FROM unnest(tables) w(name) LEFT JOIN rescind_changes.guarded g ON g.rel = to_regclass(w.name);
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'not guarded in this database: %', missing USING ERRCODE = 'RSC02';
  END IF;
  IF stale IS NOT NULL THEN
    RAISE EXCEPTION 'changed since they were guarded: %', stale USING ERRCODE = 'RSC02';
  END IF;
  IF current_setting('track_counts') <> 'on' THEN
    RAISE EXCEPTION 'track_counts is off, so the server does not say which tables a step writes to; set it to on' USING ERRCODE = 'RSC06';
  END IF;
  IF EXISTS (SELECT FROM rescind_changes.change_set c WHERE c.xid = pg_current_xact_id()) THEN
    RAISE EXCEPTION 'this transaction is a step''s already' USING ERRCODE = 'RSC02';
  END IF;
  id := nextval('rescind_changes.ids');
  PERFORM pg_advisory_xact_lock(rescind_changes.lock_of(id));  -- held while it is open: how others know
  INSERT INTO rescind_changes.change_set (id, run_id, step_id, action, idempotency_key) VALUES (id, run_id, step_id, action, key);
  RETURN id;
END $$;

-- Tables that this transaction has written to, guarded or not.
CREATE OR REPLACE FUNCTION rescind_changes.written() RETURNS SETOF oid LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT l.relation FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
   WHERE l.pid = pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
     AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
     AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'rescind_changes'::regnamespace)
     AND (l.mode = 'AccessExclusiveLock' OR pg_stat_get_xact_tuples_inserted(c.oid) + pg_stat_get_xact_tuples_updated(c.oid)
          + pg_stat_get_xact_tuples_deleted(c.oid) > 0)
   GROUP BY l.relation;
END $$;

-- End a step: work out its net effect. Raises RSC03 for tables written to that nobody guards.
CREATE OR REPLACE FUNCTION rescind_changes.settle(me bigint, ignored text[])
RETURNS TABLE (rel text, inserted bigint, updated bigint, deleted bigint, digest text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE g rescind_changes.guarded; wrote xid[] := '{}'; theirs xid[]; touched oid[]; stray text;
  top xid := pg_current_xact_id()::xid;
BEGIN
  IF NOT EXISTS (SELECT FROM rescind_changes.change_set c WHERE c.id = me AND c.xid = pg_current_xact_id() AND c.state = 'open') THEN
    RAISE EXCEPTION 'the tool ended the transaction of its step' USING ERRCODE = 'RSC04';
  END IF;
  SELECT coalesce(array_agg(w), '{}') INTO touched FROM rescind_changes.written() w;
  SELECT string_agg(w::regclass::text, ', ' ORDER BY w::regclass::text) INTO stray FROM unnest(touched) w
   WHERE NOT EXISTS (SELECT FROM rescind_changes.guarded g WHERE g.rel = w)
     AND w <> ALL (SELECT coalesce(to_regclass(i)::oid, 0) FROM unnest(ignored) i);
  IF stray IS NOT NULL THEN RAISE EXCEPTION '%', stray USING ERRCODE = 'RSC03'; END IF;
  FOR g IN SELECT * FROM rescind_changes.guarded x WHERE x.rel = ANY (touched) LOOP
    EXECUTE format('SELECT rescind_changes.%I(%s, %L)', 'net_' || g.shadow, me, top) INTO theirs;
    wrote := wrote || ARRAY (SELECT s FROM unnest(theirs) s WHERE s <> ALL (wrote));
  END LOOP;
  UPDATE rescind_changes.change_set c SET state = 'done', writers = wrote, moved_xid = pg_current_xact_id() WHERE c.id = me;
  RETURN QUERY SELECT p.rel::regclass::text, p.inserted, p.updated, p.deleted, p.digest FROM rescind_changes.part p WHERE p.change_set = me;
END $$;

-- --- afterwards ---

-- The rows of a change set in one table beside what is there now: whether each is as it was left, and as it was before
-- that. `goal` is the state that is asked about: 'undone' for an undo, 'done' for a redo.
CREATE OR REPLACE FUNCTION rescind_changes.comparison(me bigint, g rescind_changes.guarded, goal text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT format($q$
    SELECT %1$s AS key, x.rescind_op AS op,
           CASE WHEN x.rescind_op = %2$L THEN t.%3$I IS NULL
                ELSE t.%3$I IS NOT NULL AND (t.xmin = ANY (c.writers)
                     OR (EXISTS (SELECT FROM rescind_changes.restored r WHERE r.xid = t.xmin) AND %4$s)) END AS as_left,
           CASE WHEN x.rescind_op = %5$L THEN t.%3$I IS NULL
                ELSE t.%3$I IS NOT NULL AND %7$s END AS back
      FROM rescind_changes.change_set c JOIN (
           SELECT rescind_n, rescind_op, rescind_left, %8$s FROM rescind_changes.%6$I WHERE rescind_set = %11$s
           UNION ALL SELECT NULL, rescind_op, rescind_left, %8$s FROM (%12$s) p) x ON true LEFT JOIN %9$s t ON %10$s
     WHERE c.id = %11$s $q$,
    (SELECT 'concat_ws('', '', ' || string_agg(format('x.%I', k), ', ') || ')' FROM unnest(g.keys) k),
    CASE goal WHEN 'undone' THEN 'D' ELSE 'I' END, g.keys[1],
    CASE goal WHEN 'undone' THEN g.image || ' IS NOT DISTINCT FROM x.rescind_left'  -- what an undo left is what was there before
              ELSE format('record_image_eq(ROW(%s), ROW(%s))', g.plain, rescind_changes.listed('x.', g.columns)) END,
    CASE goal WHEN 'undone' THEN 'I' ELSE 'D' END, g.shadow,
    CASE goal WHEN 'undone' THEN format('record_image_eq(ROW(%s), ROW(%s))', g.plain, rescind_changes.listed('x.', g.columns))
              ELSE format('EXISTS (SELECT FROM rescind_changes.%I s WHERE s.rescind_set = %s AND s.rescind_n = x.rescind_n
                AND record_image_eq(ROW(%s), ROW(%s)))', g.shadow, -me, g.plain, rescind_changes.listed('s.', g.columns)) END,
    rescind_changes.listed('', g.columns), g.rel::regclass, (SELECT string_agg(format('t.%1$I = x.%1$I', k), ' AND ') FROM unnest(g.keys) k), me,
    rescind_changes.unpacked(g.shadow, g.columns, me))
$$;

-- How many rows a change set is of. Fewer are there if somebody has dropped a shadow: that is no state of its rows.
CREATE OR REPLACE FUNCTION rescind_changes.rows_of(me bigint) RETURNS bigint LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(sum(p.inserted + p.updated + p.deleted), 0)::bigint FROM rescind_changes.part p WHERE p.change_set = me
$$;

-- Where a change set stands, without a look at its rows: absent, open, purged, unsettled, done or undone.
CREATE OR REPLACE FUNCTION rescind_changes.stands(me bigint) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE found_state text;
BEGIN
  -- The lock first: whoever held it has ended by the time that we get it, and then the row is there or never will be.
  IF NOT pg_try_advisory_xact_lock_shared(rescind_changes.lock_of(me)) THEN RETURN 'open'; END IF;
  SELECT c.state INTO found_state FROM rescind_changes.change_set c WHERE c.id = me;
  IF NOT FOUND THEN
    RETURN CASE WHEN me <= (SELECT max(h.id) FROM rescind_changes.horizon h) THEN 'purged' ELSE 'absent' END;
  END IF;
  RETURN CASE found_state WHEN 'open' THEN 'unsettled' ELSE found_state END;
END $$;

-- The same with a look at its rows: one that is done may also be changed since, or undone by somebody else.
CREATE OR REPLACE FUNCTION rescind_changes.look(me bigint) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE state text := rescind_changes.stands(me); g rescind_changes.guarded; off boolean; away boolean; changed boolean := false;
  back boolean := true; n bigint; rows_kept bigint := 0;
BEGIN
  IF state <> 'done' THEN RETURN state; END IF;
  FOR g IN SELECT x.* FROM rescind_changes.guarded x JOIN rescind_changes.part p ON p.rel = x.rel WHERE p.change_set = me LOOP
    EXECUTE format('SELECT coalesce(bool_or(NOT as_left), false), coalesce(bool_or(NOT back), false), count(*) FROM (%s) q',
                   rescind_changes.comparison(me, g, 'undone')) INTO off, away, n;
    changed := changed OR off;
    back := back AND NOT away;
    rows_kept := rows_kept + n;
  END LOOP;
  IF rows_kept <> rescind_changes.rows_of(me) THEN RETURN 'purged'; END IF;
  -- One without rows changed nothing, and everything is as before.
  RETURN CASE WHEN back THEN 'undone' WHEN changed THEN 'changed' ELSE 'done' END;
END $$;

-- Rows of others that refer to rows that are about to go, or to a value that is about to change, by a foreign key that
-- would take or change them too.
CREATE OR REPLACE FUNCTION rescind_changes.holders(g rescind_changes.guarded, me bigint, op "char", image_of bigint) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE fk record; n bigint; moving boolean := op = 'U';
BEGIN
  FOR fk IN SELECT k.conrelid, k.conrelid::regclass AS holder, x.matches, x.moved, z.shadow, z.keys
              FROM pg_constraint k LEFT JOIN rescind_changes.guarded z ON z.rel = k.conrelid, LATERAL (
                   SELECT string_agg(format('h.%I = t.%I', a.attname, b.attname), ' AND ') AS matches,
                          string_agg(format('t.%1$I IS DISTINCT FROM s.%1$I', b.attname), ' OR ') AS moved,
                          bool_and(b.attname = ANY (g.keys)) AS by_key
                     FROM unnest(k.conkey, k.confkey) u(mine, theirs)
                     JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.mine
                     JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = u.theirs) x
             WHERE k.contype = 'f' AND k.confrelid = g.rel
               AND CASE WHEN moving THEN k.confupdtype IN ('c', 'n', 'd') AND NOT x.by_key ELSE k.confdeltype IN ('c', 'n', 'd') END
  LOOP
    EXECUTE format('SELECT count(*) FROM rescind_changes.%I s JOIN %s t ON %s JOIN %s h ON %s WHERE s.rescind_set = $1 AND s.rescind_op = $2',
                   g.shadow, g.rel::regclass, rescind_changes.pairs(g.keys, 't', 's'), fk.holder, fk.matches)
      || CASE WHEN moving THEN format(' AND (%s)', fk.moved) ELSE '' END
      -- our own rows hold nobody: those that go in the same statement, and those that are changed anyhow
      || CASE WHEN fk.shadow IS NOT NULL AND (moving OR fk.conrelid = g.rel)
              THEN format(' AND NOT EXISTS (SELECT FROM rescind_changes.%I z WHERE z.rescind_set = $3 AND ($4 OR z.rescind_op = $2) AND %s)',
                          fk.shadow, rescind_changes.pairs(fk.keys, 'h', 'z')) ELSE ' AND $3 = $3 AND $4 = $4' END
      INTO n USING CASE WHEN moving THEN image_of ELSE me END, op, me, moving;
    IF n > 0 THEN
      RETURN format('%s rows of %s, which are not the step''s, refer to rows of %s that would %s', n, fk.holder, g.rel::regclass,
                    CASE WHEN moving THEN 'change' ELSE 'go' END);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- Hold a user's own triggers of a table during an undo: what they did when the step ran was captured and is put back.
-- Foreign keys stay on, others' sessions see nothing of it. Returns the statements that end it.
CREATE OR REPLACE FUNCTION rescind_changes.hold_triggers(rel oid) RETURNS text[] LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE t record; after text[] := '{}';
BEGIN
  FOR t IN SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = rel AND NOT tgisinternal AND tgenabled <> 'D'
              AND tgname NOT LIKE 'rescind\_%' LOOP
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', rel::regclass, t.tgname);
    after := after || format('ALTER TABLE %s ENABLE %s TRIGGER %I', rel::regclass,
                             CASE t.tgenabled WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' ELSE '' END, t.tgname);
  END LOOP;
  RETURN after;
END $$;

-- Bring a change set into the state `goal`: 'undone', or 'done' again. One transaction, all or nothing, in statements
-- over sets. Raises RSC01 for a conflict, RSC05 if another transaction is at it.
CREATE OR REPLACE FUNCTION rescind_changes.put_back(me bigint, goal text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  c rescind_changes.change_set; g rescind_changes.guarded; parts rescind_changes.guarded[]; n bigint; m bigint; words text := '';
  named text; all_back boolean := true; resume text[] := '{}'; statement text; todo text[]; later text[]; task text;
  problem text; wrote xid[] := '{}'; seen xid[]; rows_kept bigint := 0; rows_here bigint;
BEGIN
  IF NOT pg_try_advisory_xact_lock(rescind_changes.lock_of(me)) THEN
    RAISE EXCEPTION 'change set % is being written or put back by another transaction', me USING ERRCODE = 'RSC05';
  END IF;
  SELECT * INTO c FROM rescind_changes.change_set x WHERE x.id = me FOR UPDATE;
  IF NOT FOUND THEN
    IF me <= (SELECT max(h.id) FROM rescind_changes.horizon h) THEN
      RAISE EXCEPTION 'the rows that were kept for change set % have been purged', me USING ERRCODE = 'RSC01';
    ELSIF goal = 'undone' THEN RETURN;  -- it never took effect
    END IF;
    RAISE EXCEPTION 'there is no change set %', me USING ERRCODE = 'RSC01';
  ELSIF c.state = goal THEN RETURN;
  ELSIF c.state = 'open' THEN
    RAISE EXCEPTION 'the tool ended the transaction of change set % itself, so what it did was not recorded to its end', me USING ERRCODE = 'RSC01';
  ELSIF pg_current_xact_id()::text::numeric - c.moved_xid::text::numeric > 2000000000 THEN
    RAISE EXCEPTION 'change set % is too old: the numbers of its transaction may be in use again', me USING ERRCODE = 'RSC01';
  END IF;
  INSERT INTO rescind_changes.restoring VALUES (pg_current_xact_id());

  -- Tables from the referred to the referring; whatever is left in a circle comes in any order.
  WITH RECURSIVE p AS (SELECT p.rel FROM rescind_changes.part p WHERE p.change_set = me),
    depth AS (SELECT p.rel, 0 AS d FROM p UNION
              SELECT k.conrelid, d.d + 1 FROM depth d JOIN pg_constraint k ON k.contype = 'f' AND k.confrelid = d.rel AND k.conrelid <> d.rel
                JOIN p ON p.rel = k.conrelid WHERE d.d < 20)
  SELECT array_agg(x ORDER BY y.d, x.rel) INTO parts
    FROM (SELECT rel, max(d) AS d FROM depth GROUP BY rel) y JOIN rescind_changes.guarded x ON x.rel = y.rel;
  parts := coalesce(parts, '{}');
  IF cardinality(parts) <> (SELECT count(*) FROM rescind_changes.part p WHERE p.change_set = me) THEN
    RAISE EXCEPTION 'a table of change set % is gone or no longer guarded', me USING ERRCODE = 'RSC01';
  END IF;
  SELECT string_agg(p.rel::regclass::text, ', ') INTO named FROM rescind_changes.part p
   WHERE p.change_set = me AND p.signature IS DISTINCT FROM rescind_changes.signature_of(p.rel);
  IF named IS NOT NULL THEN
    RAISE EXCEPTION 'columns or the key changed since the step: %; nobody can tell what a row as it was would hold now', named
      USING ERRCODE = 'RSC01';
  END IF;

  FOREACH g IN ARRAY parts LOOP
    resume := resume || rescind_changes.hold_triggers(g.rel);  -- before row locks: it takes a lock on the table
    PERFORM rescind_changes.unpack(g.shadow, g.columns, me);
  END LOOP;
  FOREACH g IN ARRAY parts LOOP
    EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %s t JOIN rescind_changes.%I s ON %s WHERE s.rescind_set = $1 ORDER BY s.rescind_n FOR UPDATE OF t) q',
                   g.rel::regclass, g.shadow, rescind_changes.pairs(g.keys, 't', 's')) INTO n USING me;
  END LOOP;
  FOREACH g IN ARRAY parts LOOP
    EXECUTE format('SELECT count(*) FILTER (WHERE NOT as_left), count(*) FILTER (WHERE NOT back), count(*) FROM (%s) q',
                   rescind_changes.comparison(me, g, goal)) INTO n, m, rows_here;
    all_back := all_back AND m = 0;
    rows_kept := rows_kept + rows_here;
    IF n > 0 THEN
      EXECUTE format('SELECT string_agg(left(key, 60), ''; '') FROM (SELECT key FROM (%s) q WHERE NOT as_left LIMIT 5) q',
                     rescind_changes.comparison(me, g, goal)) INTO named;
      words := words || format('%s%s rows of %s: %s', CASE WHEN words = '' THEN '' ELSE '; ' END, n, g.rel::regclass, named);
    END IF;
  END LOOP;

  IF rows_kept <> rescind_changes.rows_of(me) THEN
    RAISE EXCEPTION 'the rows that were kept for change set % are gone', me USING ERRCODE = 'RSC01';
  END IF;
  IF NOT all_back THEN
    IF words <> '' THEN
      RAISE EXCEPTION 'not as the step left it, so nothing was changed: % (changed, or changed and changed back, by somebody else)', words USING ERRCODE = 'RSC01';
    END IF;
    SET CONSTRAINTS ALL DEFERRED;
    FOREACH g IN ARRAY CASE goal WHEN 'undone' THEN parts ELSE '{}' END LOOP  -- what we overwrite, for a redo
      EXECUTE format('DELETE FROM rescind_changes.%I WHERE rescind_set = $1', g.shadow) USING -me;
      EXECUTE format('INSERT INTO rescind_changes.%1$I (rescind_set, rescind_began, rescind_n, rescind_op, %2$s)
          SELECT -$1, 0, s.rescind_n, s.rescind_op, %3$s FROM rescind_changes.%1$I s JOIN %4$s t ON %5$s WHERE s.rescind_set = $1',
        g.shadow, rescind_changes.listed('', g.columns), rescind_changes.listed('t.', g.columns), g.rel::regclass,
        rescind_changes.pairs(g.keys, 't', 's')) USING me;
    END LOOP;

    -- New rows from the referred to the referring, then changes, then away with the rest the other way round. What one
    -- has to wait for in another, such as a unique name, is found by trying: as long as one helps, there is another pass.
    todo := ARRAY (SELECT format('%s %s', k, o) FROM unnest(ARRAY['insert', 'update', 'delete']) WITH ORDINALITY x(k, kn),
                   generate_series(1, cardinality(parts)) o ORDER BY kn, CASE k WHEN 'delete' THEN -o ELSE o END);
    WHILE cardinality(todo) > 0 LOOP
      later := '{}';
      FOREACH task IN ARRAY todo LOOP
        g := parts[split_part(task, ' ', 2)::int];
        BEGIN
          PERFORM rescind_changes.put_part(me, g, split_part(task, ' ', 1), goal);
        EXCEPTION WHEN integrity_constraint_violation OR SQLSTATE 'RSC01' THEN
          later := later || task;
          problem := SQLERRM;
        END;
      END LOOP;
      IF cardinality(later) = cardinality(todo) THEN
        RAISE EXCEPTION 'the rows cannot be put back, so nothing was changed: %', problem USING ERRCODE = 'RSC01';
      END IF;
      todo := later;
    END LOOP;
    SET CONSTRAINTS ALL IMMEDIATE;  -- a deferred one fails here, while all can still be taken back
  END IF;
  FOREACH statement IN ARRAY resume LOOP EXECUTE statement; END LOOP;

  FOREACH g IN ARRAY parts LOOP
    EXECUTE format('SELECT count(*) FILTER (WHERE NOT back), string_agg(left(key, 60), ''; '') FILTER (WHERE NOT back) FROM (%s) q',
                   rescind_changes.comparison(me, g, goal)) INTO n, named;
    IF n > 0 THEN
      RAISE EXCEPTION '% does not take % rows as they were: %', g.rel::regclass, n, left(named, 300) USING ERRCODE = 'RSC01';
    END IF;
    EXECUTE format('SELECT coalesce(array_agg(w), ''{}'') FROM (SELECT t.xmin AS w FROM rescind_changes.%I s JOIN %s t ON %s
        WHERE s.rescind_set = $1 GROUP BY t.xmin) q', g.shadow, g.rel::regclass, rescind_changes.pairs(g.keys, 't', 's')) INTO seen USING me;
    wrote := wrote || ARRAY (SELECT w FROM unnest(seen) w WHERE w <> ALL (wrote));
  END LOOP;
  IF NOT all_back THEN
    INSERT INTO rescind_changes.restored SELECT w, me FROM unnest(wrote) w;
  END IF;
  UPDATE rescind_changes.change_set x SET state = goal, moved_at = clock_timestamp(), moved_xid = pg_current_xact_id(), writers = wrote WHERE x.id = me;
  DELETE FROM rescind_changes.restoring r WHERE r.xid = pg_current_xact_id();
END $$;

-- One statement of an undo: all rows of one table that are to be inserted, updated or deleted.
CREATE OR REPLACE FUNCTION rescind_changes.put_part(me bigint, g rescind_changes.guarded, kind text, goal text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE n bigint; wanted bigint; problem text; op "char"; image_of bigint := CASE goal WHEN 'undone' THEN me ELSE -me END;
BEGIN
  op := CASE WHEN kind = 'update' THEN 'U' WHEN (kind = 'insert') = (goal = 'undone') THEN 'D' ELSE 'I' END;
  EXECUTE format('SELECT count(*) FROM rescind_changes.%I WHERE rescind_set = $1 AND rescind_op = $2', g.shadow) INTO wanted USING me, op;
  IF wanted = 0 THEN RETURN; END IF;
  IF kind <> 'insert' THEN
    problem := rescind_changes.holders(g, me, op, image_of);
    IF problem IS NOT NULL THEN RAISE EXCEPTION '%', problem USING ERRCODE = 'RSC01'; END IF;
  END IF;
  CASE kind
    WHEN 'insert' THEN
      EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM rescind_changes.%I s WHERE s.rescind_set = $1 AND s.rescind_op = $2 ORDER BY s.rescind_n',
        g.rel::regclass, rescind_changes.listed('', g.insertable), rescind_changes.listed('s.', g.insertable), g.shadow) USING image_of, op;
    WHEN 'update' THEN
      IF cardinality(g.updatable) = 0 THEN RETURN; END IF;
      EXECUTE format('UPDATE %s t SET (%s) = ROW(%s) FROM rescind_changes.%I s WHERE s.rescind_set = $1 AND s.rescind_op = $2 AND %s',
        g.rel::regclass, rescind_changes.listed('', g.updatable), rescind_changes.listed('s.', g.updatable), g.shadow,
        rescind_changes.pairs(g.keys, 't', 's')) USING image_of, op;
    ELSE
      EXECUTE format('DELETE FROM %s t USING rescind_changes.%I s WHERE s.rescind_set = $1 AND s.rescind_op = $2 AND %s',
        g.rel::regclass, g.shadow, rescind_changes.pairs(g.keys, 't', 's')) USING me, op;
  END CASE;
  GET DIAGNOSTICS n = ROW_COUNT;
  IF n <> wanted THEN
    RAISE EXCEPTION '% of % rows of % could be written', n, wanted, g.rel::regclass USING ERRCODE = 'RSC01';
  END IF;
END $$;

-- Forget what was kept for change sets made before a moment; their steps can then not be undone any more.
CREATE OR REPLACE FUNCTION rescind_changes.purge(made_before timestamptz) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE ids bigint[]; g rescind_changes.guarded;
BEGIN
  SELECT coalesce(array_agg(c.id), '{}') INTO ids FROM rescind_changes.change_set c WHERE c.made_at < made_before;
  FOR g IN SELECT * FROM rescind_changes.guarded LOOP
    EXECUTE format('DELETE FROM rescind_changes.%I WHERE rescind_set = ANY ($1) OR -rescind_set = ANY ($1)', g.shadow) USING ids;
    EXECUTE format('DELETE FROM rescind_changes.%I WHERE rescind_set = ANY ($1)', g.shadow || '_packed') USING ids;
  END LOOP;
  DELETE FROM rescind_changes.part p WHERE p.change_set = ANY (ids);
  DELETE FROM rescind_changes.restored r WHERE r.change_set = ANY (ids);
  DELETE FROM rescind_changes.change_set c WHERE c.id = ANY (ids);
  UPDATE rescind_changes.horizon h SET id = greatest(h.id, (SELECT max(i) FROM unnest(ids) i));
  RETURN cardinality(ids);
END $$;

-- Who may do what. A tool's role begins and ends steps, and cannot write to guarded tables otherwise; whoever undoes
-- looks, puts back and purges. Neither can write to what is kept.
CREATE OR REPLACE FUNCTION rescind_changes.admit(agents name[], undoers name[]) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE r name;
BEGIN
  FOREACH r IN ARRAY agents LOOP
    IF pg_has_role(r, (SELECT nspowner FROM pg_namespace WHERE nspname = 'rescind_changes'), 'USAGE') THEN
      RAISE EXCEPTION 'role % owns what is kept, or is a superuser: nothing could be kept from it; let the tool use another role', r
        USING ERRCODE = 'RSC02';
    END IF;
    INSERT INTO rescind_changes.agent VALUES (r) ON CONFLICT DO NOTHING;
    EXECUTE format('GRANT USAGE ON SCHEMA rescind_changes TO %I', r);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rescind_changes.begin_set(text, text, text, text, text[]), rescind_changes.settle(bigint, text[]),
      rescind_changes.stands(bigint), rescind_changes.restoring(), rescind_changes.database_id() TO %I', r);
  END LOOP;
  FOREACH r IN ARRAY undoers LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA rescind_changes TO %I', r);
    EXECUTE format('GRANT EXECUTE ON FUNCTION rescind_changes.look(bigint), rescind_changes.stands(bigint), rescind_changes.put_back(bigint, text),
      rescind_changes.purge(timestamptz), rescind_changes.restoring(), rescind_changes.database_id() TO %I', r);
  END LOOP;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA rescind_changes FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA rescind_changes FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rescind_changes FROM PUBLIC;
