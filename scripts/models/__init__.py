"""Base models: pretrained here or shipped with the project."""
