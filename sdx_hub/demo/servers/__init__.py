"""Real servers that pip installs, run as plain processes: for the demo's cluster, the tests and the measurements."""
