"""The commands that are neither training nor evaluation, one file each."""
