"""What people see of rollouts, and the evidence."""
