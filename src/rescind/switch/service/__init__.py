"""The switch as a server: a ledger on disk, a stream to guards, a federation with other switches."""
