"""A run: its folder, record, processes, costs, and how it is resumed after an interruption."""
