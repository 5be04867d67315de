"""Run a sweep; submit with ``ray job submit --working-dir . -- python jobs/tune.py ...``."""

import sys

from exreid.cli import job

if __name__ == "__main__":
    sys.exit(job("tune"))
