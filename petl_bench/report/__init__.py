"""From run records to a leaderboard."""
