-- The billing desk: two tenants in one database. Amounts are whole cents, and nothing that was booked is ever deleted.

create table plans (
    plan text primary key,
    price_cents integer not null check (price_cents > 0)
) strict;

create table customers (
    customer_id text primary key,
    tenant text not null,
    name text not null,
    email text not null unique
) strict;

-- `began_s` is the machine's monotonic clock when whoever changed the row began to; so it can be asked afterwards
-- whether somebody began after a stop. It is null for what was there in the morning.
create table subscriptions (
    customer_id text primary key references customers,
    tenant text not null,
    plan text not null references plans,
    status text not null check (status in ('active', 'cancelling', 'cancelled', 'paused')),
    ends_on text,
    changed_by text not null,
    began_s real
) strict;

create table charges (
    charge_key text primary key,  -- the idempotency key of whoever charged
    tenant text not null,
    customer_id text not null references customers,
    amount_cents integer not null check (amount_cents > 0),
    reason text not null,
    charged_by text not null,
    began_s real
) strict;

create table credits (
    credit_key text primary key,  -- the idempotency key of the compensation
    charge_key text not null references charges,
    tenant text not null,
    customer_id text not null references customers,
    amount_cents integer not null check (amount_cents > 0),
    reason text not null
) strict;

-- Each request for a credit and which process made it, in one transaction with the credit, if it booked one.
create table credit_requests (
    request_id integer primary key,
    credit_key text not null references credits,
    process integer not null,
    booked integer not null check (booked in (0, 1))
) strict;

-- At most one row: from how many credits on a process is kept waiting for the answer; and which, once it has come so far.
create table waiting_room (
    one integer primary key check (one = 1),
    after_requests integer not null,
    process integer
) strict;

-- Double entry: each charge and each credit has two postings, whose amounts add up to nothing.
create table postings (
    posting_id integer primary key,
    entry_key text not null,
    tenant text not null,
    account text not null,
    amount_cents integer not null
) strict;

create table reports (
    number integer primary key,
    tenant text not null,
    cohort text not null,
    customers integer not null,
    filed_by text not null
) strict;

create table inbox (
    message_id integer primary key,
    tenant text not null,
    customer_id text not null references customers,
    body text not null
) strict;

create index charges_by_customer on charges (customer_id);
create index credits_by_customer on credits (customer_id);
create index postings_by_entry on postings (entry_key);
create index inbox_by_tenant on inbox (tenant, message_id);
