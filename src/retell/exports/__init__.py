"""A run's data as other tools load it: one module per tool, each with a function `write`."""
