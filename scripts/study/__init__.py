"""What a study is: its schema, loading and checking it, its description. Imports no other stage and no torch."""
