"""What follows from a study before anything is made: products with their names, conditions, what artifacts need."""
