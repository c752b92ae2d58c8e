"""The packaged configurations: in an installed package beside this file, in a checkout in `configs/` at its root."""
