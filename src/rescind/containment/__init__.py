"""Stop the spread, before anything is repaired: levels, leases, queues, fan-out, quarantine."""
