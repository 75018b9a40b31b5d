"""Where products lie: fingerprints, the store with its locks, and the versions of the code behind products."""
