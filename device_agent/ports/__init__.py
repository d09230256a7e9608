"""What the agent needs from the outside: disk, hub, clock, flight state, commands, service manager."""
