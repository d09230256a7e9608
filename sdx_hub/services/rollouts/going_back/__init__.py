"""What was offered is taken back, and what a device goes back to."""
