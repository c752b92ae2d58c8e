"""From a command line to objects: configurations, their guard, and what is said about mistakes in them."""
