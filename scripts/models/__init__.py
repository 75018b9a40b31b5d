"""Base models, pretrained here or from outside; and taking finished models out of the store."""
