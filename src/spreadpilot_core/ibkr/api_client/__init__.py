"""From an endpoint to a live client of the API, and back to whether it still lives."""
