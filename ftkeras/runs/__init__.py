"""A run from its config to its report: the same for every task, which fills in what differs."""
