"""A rollout as it is kept: its row, its facts, its counts, its decisions."""
