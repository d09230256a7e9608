"""What looks after rollouts by the clock."""
