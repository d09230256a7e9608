"""What the device believes, and why: TUF metadata of two repositories, verified in a fixed order."""
