"""Search in a folder of videos: an index of it, queries, and a sheet of what was found."""
