"""Many jobs: a list of them, a pool of processes that does them, and a report."""
