"""Measurements and pictures that the documentation shows, each made by a command."""
