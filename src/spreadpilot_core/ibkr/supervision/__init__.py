"""Desired against observed: the fleet, one supervisor per follower, and what the two need."""
