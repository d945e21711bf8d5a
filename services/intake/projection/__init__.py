"""The status projection: follows the topics of a region and stores the status of its items, notices and appeals."""
