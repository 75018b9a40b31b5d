"""The launch that a process belongs to: frozen by its head, read by its jobs; the site; command lines."""
