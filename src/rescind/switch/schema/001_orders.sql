-- Standing orders, format 1. Append-only: rows are added and never changed, and the triggers below hold everybody to it.
-- An order stands while no lift names its id; there is no flag to switch off.

-- One row: which store this is. A reader that meets another one at the same place knows that the file was replaced.
CREATE TABLE store (
    store_id TEXT NOT NULL PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO store VALUES (lower(hex(randomblob(16))));

CREATE TABLE orders (
    sequence     INTEGER PRIMARY KEY,   -- order of commit, ascending
    order_id     TEXT NOT NULL UNIQUE,
    stamp        INTEGER NOT NULL,      -- what the shared page shows once the order is durable, or more
    scope        TEXT NOT NULL,         -- `everything`, or KIND:VALUE terms joined by `+`
    level        TEXT NOT NULL,         -- supervised, read_only, paused or halted
    reason       TEXT NOT NULL,
    actor        TEXT NOT NULL,
    placed_at_us INTEGER NOT NULL       -- microseconds since 1970-01-01 UTC
);

CREATE TABLE lifts (
    sequence     INTEGER PRIMARY KEY,
    lift_id      TEXT NOT NULL UNIQUE,
    stamp        INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    actor        TEXT NOT NULL,
    lifted_at_us INTEGER NOT NULL
);

-- Which orders a lift names. The order may be unknown here: it stays lifted if it arrives later.
CREATE TABLE lifted (
    order_id TEXT NOT NULL,
    lift_id  TEXT NOT NULL,
    PRIMARY KEY (order_id, lift_id)
) WITHOUT ROWID;

CREATE TRIGGER store_insert BEFORE INSERT ON store BEGIN SELECT RAISE(ABORT, 'the store has its name'); END;
CREATE TRIGGER store_update BEFORE UPDATE ON store BEGIN SELECT RAISE(ABORT, 'the store keeps its name'); END;
CREATE TRIGGER store_delete BEFORE DELETE ON store BEGIN SELECT RAISE(ABORT, 'the store keeps its name'); END;

CREATE TRIGGER orders_update BEFORE UPDATE ON orders BEGIN SELECT RAISE(ABORT, 'orders are never changed'); END;
CREATE TRIGGER orders_delete BEFORE DELETE ON orders BEGIN SELECT RAISE(ABORT, 'orders are lifted, not deleted'); END;
CREATE TRIGGER lifts_update BEFORE UPDATE ON lifts BEGIN SELECT RAISE(ABORT, 'lifts are never changed'); END;
CREATE TRIGGER lifts_delete BEFORE DELETE ON lifts BEGIN SELECT RAISE(ABORT, 'lifts are never deleted'); END;
CREATE TRIGGER lifted_update BEFORE UPDATE ON lifted BEGIN SELECT RAISE(ABORT, 'lifts are never changed'); END;
CREATE TRIGGER lifted_delete BEFORE DELETE ON lifted BEGIN SELECT RAISE(ABORT, 'lifts are never deleted'); END;

-- INSERT OR REPLACE deletes without firing the triggers above, unless something refuses the insert first.
CREATE TRIGGER orders_replace BEFORE INSERT ON orders
WHEN EXISTS (SELECT 1 FROM orders WHERE order_id = NEW.order_id OR sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'this order is known already'); END;
CREATE TRIGGER lifts_replace BEFORE INSERT ON lifts
WHEN EXISTS (SELECT 1 FROM lifts WHERE lift_id = NEW.lift_id OR sequence = NEW.sequence)
BEGIN SELECT RAISE(ABORT, 'this lift is known already'); END;
