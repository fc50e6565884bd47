"""The commands of `paypost`: translation between the terminal and what does the work."""
