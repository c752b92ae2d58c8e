"""The Hugging Face Hub: names of repositories, what it answers, and copies of its files in the local cache."""
