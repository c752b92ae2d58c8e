"""The frozen models that methods adapt, and how their weights are found and read."""
