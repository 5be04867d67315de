"""The commands of `exreid`: their arguments and their output; `exreid.cli` lists them."""
