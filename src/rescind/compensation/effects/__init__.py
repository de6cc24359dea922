"""Ready-made effects: SQL rows, files and folders, keys of a mapping. Each takes its own snapshots."""
