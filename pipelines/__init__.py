"""What runs and when: configuration, graph, runners, the command line, and the shipped pipelines."""
