"""Put it right: plan an undo from the journal (pure), then execute it (careful)."""
