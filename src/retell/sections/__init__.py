"""The sections of a run's page, in the order of the method: each makes blocks from what a run folder holds."""
