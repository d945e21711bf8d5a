"""The commands: one module for each noun. A module checks options and shows results; the work is in other modules."""
