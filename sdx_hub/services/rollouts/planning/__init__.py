"""Who gets a release in which wave, before anything is offered."""
