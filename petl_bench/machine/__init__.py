"""What this machine, its launcher and its terminal allow, and how it says no."""
