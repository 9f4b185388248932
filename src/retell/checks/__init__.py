"""What `retell doctor` looks at: small checks of one kind, each a generator of findings."""
