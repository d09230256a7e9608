"""Pure decisions of the agent: states, plans, errors, backoff. No I/O, no clock, no framework."""
