"""Submit with: ray job submit --working-dir . -- python jobs/probe.py --config configs/probe.yaml."""

import sys

from exreid.cli import job

if __name__ == "__main__":
    sys.exit(job("probe"))
