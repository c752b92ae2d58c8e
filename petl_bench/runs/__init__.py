"""A run: its folder, record, processes, costs, and how it goes on after an end that nobody wanted."""
