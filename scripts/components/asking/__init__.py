"""What tasks have in common: how items are read, what kinds of answers there are, and how values are shown."""
