"""What each command of `exreid` takes, runs and prints; `exreid.cli` lists them."""
