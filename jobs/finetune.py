"""Run a training; submit with ``ray job submit --working-dir . -- python jobs/finetune.py``."""

import sys

from exreid.cli import job

if __name__ == "__main__":
    sys.exit(job("finetune"))
