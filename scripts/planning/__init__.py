"""What would run, what it would take, and how far it is."""
