"""Items: submission, withdrawal, status by region, lists and totals."""
