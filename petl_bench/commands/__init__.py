"""The commands of `petl-bench`, one file each."""
