"""A finished run as a repository of the Hugging Face Hub: its files, its card, its figures for the Hub."""
