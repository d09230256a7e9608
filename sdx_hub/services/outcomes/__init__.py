"""What became of the members of rollouts: the log, and what follows from it. Needs no other service."""
