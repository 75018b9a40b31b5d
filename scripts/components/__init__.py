"""What a study can choose: optimizers, methods, tasks, sources of records, base models.

A choice is one module, and everything about it stands there. Put a module into its family's package and studies can
name it; unions, tables and messages are made from what is there. Imports nothing heavy and no stage but inside
functions.
"""
