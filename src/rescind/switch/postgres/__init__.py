"""Orders, probes and guards of several machines, in one PostgreSQL."""
