"""The sections of a run's page, each a function of what the run's folder holds."""
