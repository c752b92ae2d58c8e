"""Many runs with one command: which ones, what has become of them, and who runs what is missing."""
