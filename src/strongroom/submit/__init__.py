"""Pack, sign the ticket, verify the services, start and follow a run (steps 1 to 3)."""
