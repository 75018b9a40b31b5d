"""The study's code: one folder a stage, one module a rule, run as ``python -m scripts.<stage>.<module>``."""
