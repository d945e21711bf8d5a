"""The router's pure rules: routing, publications and their differences."""
