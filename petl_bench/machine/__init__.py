"""What this machine, its launcher and its terminal allow, and the errors when they do not."""
