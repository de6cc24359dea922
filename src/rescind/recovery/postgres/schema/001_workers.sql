-- Who lives, and what each can do. Whether a worker lives is not said here: it holds the advisory lock of `lock_number`
-- for as long as its connection does.
CREATE TABLE workers (
    worker_id   text PRIMARY KEY,
    lock_number bigint NOT NULL,
    info        text NOT NULL,                                    -- a WorkerInfo in JSON
    beat_at     timestamptz NOT NULL DEFAULT clock_timestamp()    -- by the server's clock, which is the same for all
);
