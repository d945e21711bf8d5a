"""The rules of items: form and meaning of a submission, owners of markets, status."""
