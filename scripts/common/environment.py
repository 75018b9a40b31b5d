"""Variables of the environment that several rooms know."""

LAUNCH = "FORGETTING_LAUNCH"
"""Holds the frozen launch that a process belongs to; see `scripts.launch.launch`."""
