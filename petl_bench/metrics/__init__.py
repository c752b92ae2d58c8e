"""What is measured: ranks of retrieval, accuracy of answers."""
