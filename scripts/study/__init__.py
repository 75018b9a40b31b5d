"""What a study is: its schema, conditions, products, names and manifests. Imports no other stage and no torch."""
