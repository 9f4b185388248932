"""What a recipe will do and whether it can, before anything is spent: `retell run --dry-run`."""
