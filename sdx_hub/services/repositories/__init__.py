"""Both TUF repositories: what people signed, what the hub signs over it, and what each device is told."""
